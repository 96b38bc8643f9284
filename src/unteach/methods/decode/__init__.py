"""Forgetting at decode time: rules that change the logits of a model by those of another."""
