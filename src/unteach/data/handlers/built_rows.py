"""What the rows of a source come to: built in stretches, by several processes where there are
many."""

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from unteach import console
from unteach.data.packed_examples import PackedExamples
from unteach.data.row_errors import RowErrors
from unteach.data.tokenized.ordered_pool import map_in_order
from unteach.distributed import launch_environment, process_limits
from unteach.wording import format_count

STRETCH = 2000
"""Rows that a process builds at a time."""
SAY_EVERY = 20.0
"""Seconds between two lines of progress."""
MANY_ROWS = 20_000
"""From so many rows on several processes build them."""


@dataclass
class BuiltRows:
    """What a stretch of rows came to.

    Attributes:
        examples: of the rows that can be used.
        row_errors: what is said of the others.
        hashes: of each row a number, equal where rows say the same.
    """

    examples: PackedExamples
    row_errors: RowErrors
    hashes: "array[int]" = field(default_factory=lambda: array("q"))

    def extend(self, others: "BuiltRows") -> None:
        """Add what the rows after these came to."""
        self.examples.extend(others.examples)
        self.row_errors.extend(others.row_errors)
        self.hashes.extend(others.hashes)


def build_all(
    build: Callable[[range], BuiltRows], num_rows: int, row_errors: RowErrors
) -> BuiltRows:
    """Build the examples of all rows.

    Args:
        build: builds those of a stretch.
        num_rows: how many rows there are.
        row_errors: collects what is said of them.
    """
    built = BuiltRows(PackedExamples(), row_errors)
    if num_rows < MANY_ROWS:
        built.extend(build(range(num_rows)))
        return built
    stretches = []
    for start in range(0, num_rows, STRETCH):
        stretches.append(range(start, min(start + STRETCH, num_rows)))
    said_at = time.monotonic()
    for part in map_in_order(build, stretches, choose_num_processes()):
        built.extend(part)
        num_done = len(built.hashes)
        if time.monotonic() - said_at > SAY_EVERY and launch_environment.rank() == 0:
            said_at = time.monotonic()
            where = row_errors.where
            console.say(f"{where}: tokenised {num_done:,} of {format_count(num_rows, 'row')}")
    return built


def choose_num_processes() -> int:
    """Choose how many processes build rows beside one another: this process's share of the
    cores."""
    return max(1, process_limits.num_cores() // launch_environment.world_size())
