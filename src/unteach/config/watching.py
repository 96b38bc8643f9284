"""What watches a run: sections of `trainer` beside its method and arguments."""

from dataclasses import dataclass, field
from typing import Literal

from unteach.errors import UserError


@dataclass(frozen=True)
class Guard:
    """What counts as a collapse of what should be retained, and what to do about it (see
    training/guard.py).

    max_rise: of the retain answers' mean loss since the beginning, in nats. max_repetition: the
    share of repeated pairs of tokens in greedy continuations. action: `warn` says it; `stop` ends
    training there; `best` ends it and takes the model of the last look that was healthy.
    """

    action: Literal["warn", "stop", "best"] = "warn"
    every: int = 10
    rows: int = 8
    max_rise: float = 1.0
    max_repetition: float = 0.8

    def __post_init__(self) -> None:
        if self.every < 1 or self.rows < 1:
            raise UserError("every and rows must be at least 1")


@dataclass(frozen=True)
class Samples:
    """Texts that the model generates while it trains: written to <run>/samples.jsonl and shown in
    the trackers.

    stream: whose first rows are asked; null for the anchor. every: steps from one look to the next,
    the first before training; null: whenever suites run. temperature: 0 is greedy; above it, texts
    are drawn, the same for one seed.
    """

    stream: str | None = None
    rows: int = 4
    max_new_tokens: int = 64
    every: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        if min(self.rows, self.max_new_tokens, 1 if self.every is None else self.every) < 1:
            raise UserError("rows, max_new_tokens and every must be at least 1")
        if self.temperature < 0:
            raise UserError("temperature must not be below 0")
        if self.temperature == 0 and (self.top_p is not None or self.top_k is not None):
            raise UserError(
                "top_p and top_k are for a temperature above 0: greedy texts have no use for them"
            )


@dataclass(frozen=True)
class Profiler:
    """torch.profiler's schedule, in optimiser steps; each active stretch gives a Chrome trace in
    <run>/profile.

    stack, shapes, memory: what is recorded beside times, at a cost.
    """

    skip_first: int = 3
    wait: int = 1
    warmup: int = 1
    active: int = 2
    repeat: int = 2
    stack: bool = False
    shapes: bool = False
    memory: bool = False

    def __post_init__(self) -> None:
        if self.active < 1 or self.repeat < 1 or min(self.skip_first, self.wait, self.warmup) < 0:
            raise UserError(
                "active and repeat must be at least 1, skip_first, wait and warmup at least 0"
            )


@dataclass(frozen=True)
class Land:
    """Lands the run on a budget: theta_0 + a (theta_T - theta_0), with a such that the model has
    moved by what it may.

    budget: KL(before || after), nats a token, on text that the model wrote before. texts, tokens:
    how many texts, and how long each at most. The final model is the landed one; landing.json says
    at which a (at most 1.3), and every a that was looked at (at most 8). other_budgets: where the
    run would land on each of these is written down too.
    """

    budget: float
    texts: int = 64
    tokens: int = 64
    other_budgets: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for budget in (self.budget, *self.other_budgets):
            if budget <= 0:
                raise UserError(f"budget must be above 0, got {budget:g}")
        if self.texts < 1 or self.tokens < 1:
            raise UserError("texts and tokens must be at least 1")
