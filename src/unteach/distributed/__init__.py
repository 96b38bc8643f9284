"""Several processes of one run: how they are started, and what one knows of the others."""
