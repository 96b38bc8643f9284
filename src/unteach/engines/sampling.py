"""Sample tokens, each row by random numbers of its own: no row changes what another one draws."""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.lazy import F, torch, transformers

if TYPE_CHECKING:
    from torch import Tensor

LogitsProcessor = Callable[[Any, "Tensor"], "Tensor"]
"""(ids [rows, T], logits [rows, V]) -> logits [rows, V]."""


def build_warpers(
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> list[LogitsProcessor]:
    """Build the library's own cuts of a distribution, in the library's order.

    What is None, or would cut nothing, is left out.
    """
    warpers: list[LogitsProcessor] = []
    if temperature is not None and temperature != 1:
        warpers.append(transformers.TemperatureLogitsWarper(float(temperature)))
    if top_k:
        warpers.append(transformers.TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(transformers.MinPLogitsWarper(min_p))
    return warpers


class UnpaddedProcessor:
    """Hide the padding of rows from one of the library's processors that read a row's ids.

    The library's own would count the padding among the tokens that a row has, and so depend on the
    rows beside it.

    Attributes:
        mask: [rows, T] of the ids that a call of `generate()` begins with; the caller sets it.
    """

    mask: "Tensor"

    def __init__(self, processor: LogitsProcessor):
        self.processor = processor

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        """Call the processor with the ids of a batch that has no padding."""
        num_beams = len(input_ids) // len(self.mask)
        mask = self.mask.repeat_interleave(num_beams, dim=0)
        num_new = input_ids.shape[1] - mask.shape[1]
        mask = F.pad(mask, (0, num_new), value=1)
        # In place of padding stands a token that the row has anyway.
        ids = input_ids.where(mask.bool(), input_ids[:, -1:])
        return self.processor(ids, scores)


def build_repetition_penalty(penalty: float | None) -> UnpaddedProcessor | None:
    """Build the repetition penalty (arXiv:1909.05858) over prompt and text; None where it is 1."""
    if penalty is None or penalty == 1:
        return None
    processor = transformers.RepetitionPenaltyLogitsProcessor(float(penalty))
    return UnpaddedProcessor(processor)


class SeededSampler:
    """Leave each row the one token that its next random number falls on.

    A number u in [0, 1) falls on the token at which the sum of the probabilities, in the order of
    the vocabulary, first exceeds u. It must be the last processor of logits [rows, V].

    Args:
        warpers: cut the distribution before a token is drawn.
        seeds: one a row.

    Attributes:
        rows: which of the seeds the rows of this call have; whoever takes rows out of the batch
            sets it.
    """

    def __init__(self, warpers: Sequence[LogitsProcessor], seeds: Sequence[int]):
        self.warpers = warpers
        self.generators = [random.Random(seed) for seed in seeds]
        self.rows = list(range(len(seeds)))

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        """Draw a token a row; all others get a logit of -inf."""
        logits = scores.float()
        for warper in self.warpers:
            logits = warper(input_ids, logits)
        cumulative = logits.double().softmax(-1).cumsum(-1)
        numbers = [self.generators[row].random() for row in self.rows]
        drawn = cumulative.new_tensor(numbers)  # [rows]
        # The last sum is not exactly 1.
        targets = drawn * cumulative[:, -1]
        tokens = torch.searchsorted(cumulative, targets.unsqueeze(-1), right=True)
        last_token = cumulative.shape[-1] - 1
        tokens = tokens.clamp(max=last_token)
        only_drawn = torch.full_like(scores, float("-inf"))
        return only_drawn.scatter(-1, tokens, 0.0)
