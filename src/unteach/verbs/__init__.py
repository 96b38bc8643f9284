"""The verbs: what each command does, one file a verb, from top to bottom."""
