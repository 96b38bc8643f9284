"""How numbers are worded in messages."""


def counted(number: int, noun: str) -> str:
    """Write a count and its noun: `1 row`, `1,234 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
