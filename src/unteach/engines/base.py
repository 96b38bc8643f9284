"""What every engine offers: scores of given answers, generated text, and gradient norms where it can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Ids = tuple[int, ...]
Gather = Callable[[list[Any]], list[Any]]
Said = Callable[[int], None] | None
"""Told how many more items are done."""


@dataclass(frozen=True)
class Score:
    """What one pass says about one answer, one entry a token.

    token: the answer's ids; logprob: log p of each; hit: whether it was the argmax; mean, variance: of the log-probs
    over the vocabulary, under p, at each position.
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


class Store(Protocol):
    """Keeps measurements of items by kind, so that none is made twice."""

    def get(self, kind: str, item: Any) -> Any: ...

    def put(self, kind: str, items: Sequence[Any], results: Sequence[Any]) -> None: ...


class Engine(Protocol):
    """Every pass gives one result for each item, in the order of the items. context: how many tokens it reads."""

    @property
    def context(self) -> int | None: ...

    def score(self, pairs: Sequence[tuple[Ids, Ids]], said: Said = None) -> list[Score]: ...

    def generate(
        self, prompts: Sequence[Ids], max_new_tokens: int, said: Said = None, until: Sequence[str] = (), **sampling: Any
    ) -> list[list[int]]: ...

    def grad_norms(self, pairs: Sequence[tuple[Ids, Ids]], p: float, said: Said = None) -> list[float]: ...
