"""Data sets by what their rows are: question and answer, chat, text, preferences, labels."""
