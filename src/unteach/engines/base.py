"""What every engine offers: scores of given answers, generated text, and gradient norms where it
can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Ids = tuple[int, ...]
ProgressCallback = Callable[[int], None] | None
"""Told how many more items are done."""


@dataclass(frozen=True)
class Score:
    """What one pass says about one answer, one entry a token.

    token: the answer's ids; logprob: log p of each; hit: whether it was the argmax; mean, variance:
    of the log-probs over the vocabulary, under p, at each position.
    """

    token: np.ndarray
    logprob: np.ndarray
    hit: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @property
    def avg_loss(self) -> float:
        """Mean of -log p over the answer's tokens, in nats."""
        return float(-self.logprob.mean())


Plan = list[list[list[int]]]
"""The batches of a pass: of rows, of the numbers of items."""


class Store(Protocol):
    """Keeps measurements of items by kind, so that none is made twice, and how a pass is batched
    until it is over.

    A pass that was cut off goes on with the batches it was planned with, and ends with the same
    bits.
    """

    def get(self, kind: str, item: object) -> Any: ...
    def put(self, kind: str, items: Sequence[Any], results: Sequence[Any]) -> None: ...
    def read_plan(self, of: str) -> Plan | None: ...
    def write_plan(self, of: str, plan: Plan) -> None: ...
    def drop_plan(self, of: str) -> None: ...


class Engine(Protocol):
    """Every pass gives one result for each item, in the order of the items. context: how many
    tokens it reads."""

    @property
    def context(self) -> int | None: ...
    def score(
        self, pairs: Sequence[tuple[Ids, Ids]], on_progress: ProgressCallback = None
    ) -> list[Score]: ...

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        on_progress: ProgressCallback = None,
        until: Sequence[str] = (),
        **sampling: Any,
    ) -> list[list[int]]: ...

    def grad_norms(
        self, pairs: Sequence[tuple[Ids, Ids]], p: float, on_progress: ProgressCallback = None
    ) -> list[float]: ...
