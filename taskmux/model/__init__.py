"""Plain data, no decisions: what is stored, what is said, what can go wrong."""
