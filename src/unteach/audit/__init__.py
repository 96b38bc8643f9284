"""Proving what a model still knows: attacks on its facts, and what lies inside it."""
