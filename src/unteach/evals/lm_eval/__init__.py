"""Tasks of lm-evaluation-harness, run on our engine."""
