"""What every engine offers: scores of given answers, and generated text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Ids = tuple[int, ...]
Gather = Callable[[list[Any]], list[Any]]


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


class Engine(Protocol):
    """score() and generate() give one result for each item, in the order of the items."""

    def score(self, pairs: Sequence[tuple[Ids, Ids]], said: Callable[[int], None] | None = None) -> list[Score]: ...

    def generate(
        self, prompts: Sequence[Ids], max_new_tokens: int, said: Callable[[int], None] | None = None, **sampling: Any
    ) -> list[list[int]]: ...
