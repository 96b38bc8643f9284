"""What may be put round any unlearning method."""
