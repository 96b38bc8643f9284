"""The machinery of training, written once for all methods."""
