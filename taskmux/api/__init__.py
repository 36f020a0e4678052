"""What users hold in their hands, and what stores their calls."""
