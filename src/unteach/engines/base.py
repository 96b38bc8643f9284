"""What every engine offers: scores of answers that are given, generated text, gradient norms; and
what generation needs of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from unteach.distributed.process_context import DistContext

Ids = tuple[int, ...]
"""Token ids of a prompt or an answer."""
Pair = tuple[Ids, Ids]
"""A prompt and the answer that is scored after it."""
Plan = list[list[list[int]]]
"""The batches of a pass: each a list of rows, and each row a list of item indices."""
ProgressCallback = Callable[[int], None] | None
"""Called with how many more items are done."""
GENERATE, SAMPLE = "generate", "sample"
"""The names of the passes that continue prompts: each once, or several times. The store tells by
the second that a result is a list of texts."""
WHOLE_DISTRIBUTION: dict[str, Any] = {"do_sample": True, "top_k": 0, "repetition_penalty": 1.0}
"""Samples that no setting of the model's cuts or bends."""


@dataclass(frozen=True)
class Score:
    """What one pass says about one answer of T tokens; each field has the shape [T].

    Attributes:
        token: the answer's ids.
        logprob: log p of each token, in nats.
        hit: whether the token was the argmax.
        mean: of the log-probs over the vocabulary, under p, at each position.
        variance: the same.
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
    """Keeps measurements, so that none is made twice, and the plan of a pass until it is over.

    A pass that was cut off goes on with the batches it was planned with, and so ends with the same
    bits. A measurement is found by its kind and its item, a plan by the digest of its pass.
    """

    def get(self, kind: str, item: object) -> Any: ...
    def put(
        self,
        kind: str,
        items: Sequence[Any],
        results: Sequence[Any],
    ) -> None: ...
    def read_plan(self, digest: str, /) -> Plan | None: ...
    def write_plan(self, digest: str, plan: Plan, /) -> None: ...
    def drop_plan(self, digest: str, /) -> None: ...


class Engine(Protocol):
    """Measures items in passes; each returns one result an item, in the order of the items."""

    @property
    def context(self) -> int | None:
        """How many tokens the model reads; None where nothing says it."""

    def score(self, pairs: Sequence[Pair], on_progress: ProgressCallback = None) -> list[Score]: ...

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        on_progress: ProgressCallback = None,
        until: Sequence[str] = (),
        **sampling: Any,
    ) -> list[list[int]]: ...

    def sample(
        self,
        prompts: Sequence[Ids],
        num_samples: int,
        max_new_tokens: int,
        seed: int,
        on_progress: ProgressCallback = None,
        **sampling: object,
    ) -> list[list[list[int]]]: ...

    def grad_norms(
        self,
        pairs: Sequence[Pair],
        p: float,
        on_progress: ProgressCallback = None,
    ) -> list[float]: ...


class GenerationEngine(Protocol):
    """What generation needs of an engine."""

    model: Any  # a PreTrainedModel
    tokenizer: "PreTrainedTokenizerBase"
    stops: list[int]
    dist: "DistContext"
    reads_ahead: bool
    """Whether prompts may be read before a batch is continued; not where a cache is of another kind
    than a plain one."""

    @property
    def device(self) -> "torch.device": ...
    @property
    def context(self) -> int | None: ...
    def pad_rows(self, rows: list[list[int]], left: bool) -> "dict[str, Tensor]": ...
