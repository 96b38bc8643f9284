"""The built-in worlds, of authors and of people: rows about people who do not exist."""
