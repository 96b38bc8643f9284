"""The authors world: rows about people who do not exist."""
