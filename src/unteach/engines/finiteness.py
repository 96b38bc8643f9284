"""Notice logits that are not numbers: whatever token is picked by them means nothing.

And give a number to what a decoding never says.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unteach.engines.base import Score
from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
NOT_FINITE = (
    "the model's outputs are infinite or not a number: it has diverged, or overflows in its dtype"
)
NEVER = 1 << 30
IMPOSSIBLE = -87.33655
"""log p, in nats, of a token that a decoding never says: -inf, of which means, ratios and ranks
make nothing, is taken for the log of the least probability that fp32 holds (2^-126)."""


class FiniteCheck:
    """Note from which step on the logits of a row are not finite.

    It must be the first processor of logits in `generate()`, which the others may change.

    Attributes:
        first_broken_step: [rows]; it stays on the device until it is needed.
    """

    def __init__(self) -> None:
        self.step = 0
        self.first_broken_step: Tensor | None = None

    def __call__(self, ids: "Tensor", scores: "Tensor") -> "Tensor":
        """Look at the logits of one step [rows, V], and return them as they are."""
        # The highest logit is NaN where any is, and infinite where one is or all are -inf.
        broken_step = torch.where(scores.amax(-1).isfinite(), NEVER, self.step)
        if self.first_broken_step is None:
            self.first_broken_step = broken_step
        else:
            self.first_broken_step = torch.minimum(self.first_broken_step, broken_step)
        self.step += 1
        return scores

    def find_broken(self, lengths: Sequence[int]) -> list[bool]:
        """Say which prompts had such logits before they ended.

        Args:
            lengths: the tokens that each prompt's continuation has. Several rows of a prompt, as of
                beams, follow one another and are taken together.
        """
        assert self.first_broken_step is not None
        by_prompt = self.first_broken_step.view(len(lengths), -1)
        steps: list[int] = by_prompt.amin(-1).tolist()
        return [step < length for step, length in zip(steps, lengths, strict=True)]


def floor_impossible(logprob: np.ndarray) -> np.ndarray:
    """Put IMPOSSIBLE in the place of -inf, in the log-probs of a model with a decoding."""
    floored: np.ndarray = np.where(np.isneginf(logprob), np.float32(IMPOSSIBLE), logprob)
    return floored


def report_impossible(scores: Sequence[Score]) -> None:
    """Say how many tokens the model's decoding never says."""
    num_impossible = sum(int((score.logprob == np.float32(IMPOSSIBLE)).sum()) for score in scores)
    num_tokens = sum(len(score.logprob) for score in scores)
    if num_impossible:
        logger.info(
            f"{num_impossible:,} of {num_tokens:,} scored tokens are never said by this model's "
            f"decoding; the log-prob of each counts as {IMPOSSIBLE:.1f}"
        )
