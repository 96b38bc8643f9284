"""An example of what can be added to unteach from outside."""
