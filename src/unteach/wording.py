"""How messages and tables say a number."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, `1 row` or `1,234 rows`; the noun's plural must end in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_value(value: float, decimals: int = 3) -> str:
    """Write a metric's value: fixed decimals, scientific where rounding would say 0 of what is not,
    or below 0.001."""
    if value != 0 and abs(value) < max(0.001, 0.5 * 10**-decimals):
        return f"{value:.1e}"
    return f"{value:z.{decimals}f}"
