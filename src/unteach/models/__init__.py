"""Models and tokenizers: loading, the one forward, the reference."""
