"""Print a table with no number cut short: a cut number is a wrong one."""

from rich.console import Console
from rich.table import Table


def print_whole(table: Table) -> None:
    """Print a table as wide as it is; on a narrower terminal its lines run over."""
    table_width = Console(width=1000).measure(table).maximum
    width = max(Console().width, table_width)
    Console(width=width).print(table, crop=False, no_wrap=True, overflow="ignore")
