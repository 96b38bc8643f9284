"""Methods that teach."""
