"""Tokens drawn at random, each row by chances of its own: no row changes what another one draws."""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.lazy import F, torch, transformers

if TYPE_CHECKING:
    from torch import Tensor

LogitsProcessor = Callable[[Any, Any], Any]
"""(ids [rows, T], logits [rows, V]) -> logits."""


def build_warpers(
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> list[LogitsProcessor]:
    """The library's own cuts of a distribution, in the library's order; what is null, or would cut
    nothing, is not in it."""
    from transformers.generation import logits_process as library

    found: list[LogitsProcessor] = []
    if temperature not in (None, 1.0):
        found.append(library.TemperatureLogitsWarper(float(temperature)))  # type: ignore[arg-type]
    if top_k:
        found.append(library.TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        found.append(library.TopPLogitsWarper(top_p))
    if min_p:
        found.append(library.MinPLogitsWarper(min_p))
    return found


class UnpaddedProcessor:
    """One of the library's processors that read a row's ids, told of a row without its padding.

    The library's own would count the padding among the tokens that a row has said, and so the
    company it keeps. mask: [rows, T], of the ids that a call began with; whoever calls sets it.
    """

    def __init__(self, processor: LogitsProcessor):
        self.processor = processor
        self.mask: Any = None

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        # a row has several beams
        mask = self.mask.repeat_interleave(len(input_ids) // len(self.mask), dim=0)
        mask = F.pad(mask, (0, input_ids.shape[1] - mask.shape[1]), value=1)
        said: Tensor = self.processor(input_ids.where(mask.bool(), input_ids[:, -1:]), scores)
        return said


def build_repetition_penalty(given: float | None) -> UnpaddedProcessor | None:
    """The repetition penalty (arXiv:1909.05858), over prompt and text."""
    return (
        None
        if given in (None, 1.0)
        else UnpaddedProcessor(
            transformers.generation.logits_process.RepetitionPenaltyLogitsProcessor(float(given))
        )
    )  # type: ignore[arg-type]


class SeededSampler:
    """The last of the processors of logits [rows, V]: leaves each row the one token that its next
    chance falls on.

    A chance u in [0, 1) falls on the token at which the sum of the probabilities, in the order of
    the vocabulary, first exceeds u. rows: which of the seeds the rows of this call have; whoever
    takes rows out of the batch sets it.
    """

    def __init__(self, cuts: Sequence[LogitsProcessor], seeds: Sequence[int]):
        self.cuts, self.chances = cuts, [random.Random(seed) for seed in seeds]
        self.rows = list(range(len(seeds)))

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        kept = scores.float()
        for cut in self.cuts:
            kept = cut(input_ids, kept)
        sums = kept.double().softmax(-1).cumsum(-1)
        chance = [self.chances[row].random() for row in self.rows]
        target = torch.tensor(chance, dtype=sums.dtype, device=sums.device) * sums[:, -1]
        chosen = torch.searchsorted(sums, target.unsqueeze(-1), right=True).clamp(
            max=sums.shape[-1] - 1
        )
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0)
