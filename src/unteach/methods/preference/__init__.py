"""Methods that learn from preferences between answers."""
