"""ARC's study files: top configurations and single experiments."""
