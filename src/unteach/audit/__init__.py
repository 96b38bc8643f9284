"""Attacks on what a model still knows, their controls, and the evidence that they leave."""
