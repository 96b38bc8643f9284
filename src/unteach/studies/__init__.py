"""Studies: expanding a file into runs, and carrying them out."""
