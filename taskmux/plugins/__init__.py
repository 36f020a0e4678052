"""Loading drivers by URL scheme, and the hooks that observers implement."""
