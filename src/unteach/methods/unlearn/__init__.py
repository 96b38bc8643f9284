"""Methods that make a model forget."""
