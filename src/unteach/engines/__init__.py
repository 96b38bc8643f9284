"""What runs a model for scores and text, behind one protocol."""
