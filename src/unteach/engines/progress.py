"""How fast rows are answered: a bar on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from unteach import console, logs
from unteach.wording import counted

SAY_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class RowProgress:
    """Counts rows and tokens of this process; others that share the rows are taken to be as
    fast."""

    def __init__(self, total: int, before: int, world: int, shown: bool):
        self.total, self.before, self.world = total, before, world
        self.shown = shown and not logs.is_quiet()
        self.rows = self.tokens = 0
        self.started = self.said = time.monotonic()
        self.bars: Any = None

    def __enter__(self) -> "RowProgress":
        if self.shown and console.is_live():
            from rich.progress import BarColumn, Progress, TextColumn

            self.bars = Progress(BarColumn(), TextColumn("{task.description}"), transient=True)
            self.bars.start()
            self.bar = self.bars.add_task("", total=self.total, completed=self.before)
        elif self.shown:
            before = f", {self.before:,} of them answered before" if self.before else ""
            console.say(f"asking {counted(self.total, 'row')}{before}")
        return self

    def __call__(self, tokens: int) -> None:
        """One more row is answered."""
        self.rows, self.tokens = self.rows + 1, self.tokens + tokens
        if self.bars:
            self.bars.update(self.bar, completed=self.done, description=str(self))
        elif self.shown and time.monotonic() - self.said > SAY_EVERY:
            self.said = time.monotonic()
            console.say(f"  {self}")

    @property
    def done(self) -> int:
        return min(self.total, self.before + self.rows * self.world)

    def __str__(self) -> str:
        spent = max(time.monotonic() - self.started, 1e-9)
        left = (self.total - self.done) * spent / max(self.rows * self.world, 1)
        return f"{self.done}/{self.total} rows, {self.rates}, {console.format_duration(left)} left"

    @property
    def rates(self) -> str:
        spent = max(time.monotonic() - self.started, 1e-9)
        return (
            f"{self.rows * self.world / spent:.3g} rows/s, "
            f"{self.tokens * self.world / spent:.3g} tokens/s"
        )

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()
