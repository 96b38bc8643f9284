"""The metrics: pure functions from measurements to a value with its per-example values."""
