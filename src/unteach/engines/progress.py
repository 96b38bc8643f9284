"""How fast rows are answered: a bar on a terminal, a line now and then elsewhere."""

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from unteach import console, logs
from unteach.wording import format_count

if TYPE_CHECKING:
    from rich.progress import Progress

SAY_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class RowProgress:
    """Counts the rows and tokens of this process; others that share the rows are taken to be as
    fast.

    Args:
        total: rows of the whole table.
        num_before: rows that an earlier run answered.
        world_size: processes that share the rows.
        is_shown: whether this process says anything.
    """

    def __init__(
        self,
        total: int,
        num_before: int,
        world_size: int,
        is_shown: bool,
    ):
        self.total = total
        self.num_before = num_before
        self.world_size = world_size
        self.is_shown = is_shown and not logs.is_quiet()
        self.num_rows = 0
        self.num_tokens = 0
        self.started_at = time.monotonic()
        self.printed_at = self.started_at
        self.bar: Progress | None = None

    def __enter__(self) -> "RowProgress":
        """Show a bar on a terminal, and else a first line."""
        if not self.is_shown:
            return self
        if console.is_live():
            self.bar = Progress(BarColumn(), TextColumn("{task.description}"), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(
                "",
                total=self.total,
                completed=self.num_before,
            )
        else:
            before = ""
            if self.num_before:
                before = f", {self.num_before:,} of them answered before"
            console.say(f"asking {format_count(self.total, 'row')}{before}")
        return self

    def __call__(self, num_tokens: int) -> None:
        """Count one more row that is answered."""
        self.num_rows += 1
        self.num_tokens += num_tokens
        if self.bar:
            self.bar.update(
                self.task,
                completed=self.num_done,
                description=str(self),
            )
        elif self.is_shown and time.monotonic() - self.printed_at > SAY_EVERY:
            self.printed_at = time.monotonic()
            console.say(f"  {self}")

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    @property
    def num_done(self) -> int:
        """Rows that are answered, by all processes and before."""
        return min(self.total, self.num_before + self.num_rows * self.world_size)

    def __str__(self) -> str:
        num_left = self.total - self.num_done
        seconds_per_row = self._measure_seconds() / max(self.num_rows * self.world_size, 1)
        left = console.format_duration(num_left * seconds_per_row)
        return f"{self.num_done}/{self.total} rows, {self.rates}, {left} left"

    @property
    def rates(self) -> str:
        """Rows and tokens a second, of all processes together."""
        processes_per_second = self.world_size / self._measure_seconds()
        return (
            f"{self.num_rows * processes_per_second:.3g} rows/s, "
            f"{self.num_tokens * processes_per_second:.3g} tokens/s"
        )

    def _measure_seconds(self) -> float:
        return max(time.monotonic() - self.started_at, 1e-9)
