"""What an editor and a shell are told: JSON schemas of all configuration files, an index of keys
and values, and the completion that reads it."""
