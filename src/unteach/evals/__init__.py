"""Proving what a model knows: suites of metrics over one plan of model passes."""
