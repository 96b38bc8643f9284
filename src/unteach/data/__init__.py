"""From files, hub sets and the built-in world to rows, tokens, streams and batches."""
