"""How messages say a number of things."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, `1 row` or `1,234 rows`; the noun's plural must end in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
