"""Tokens on disk: written once by `unteach tokenize`, mapped into memory by many runs."""
