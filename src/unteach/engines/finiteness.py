"""Whether what a model says are numbers at all: a token would be picked of others as of any."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

NOT_FINITE = (
    "the model's outputs are infinite or not a number: it has diverged, or overflows in its dtype"
)
NEVER = 1 << 30


class FiniteCheck:
    """Note, as the first processor of logits in generate(), from which step on those of a row are
    not finite.

    begins [rows]: that step; it stays on the device until it is asked for.
    """

    def __init__(self) -> None:
        self.step = 0
        self.begins: Tensor | None = None

    def __call__(self, ids: "Tensor", scores: "Tensor") -> "Tensor":
        # The highest logit is NaN where any is, and infinite where one is or all are -inf.
        now = torch.where(scores.amax(-1).isfinite(), NEVER, self.step)
        self.begins = now if self.begins is None else torch.minimum(self.begins, now)
        self.step += 1
        return scores

    def find_broken(self, lengths: Sequence[int]) -> list[bool]:
        """Say which prompts had such logits before they ended.

        Args:
            lengths: the tokens that each prompt's continuation has. Several rows of a prompt, as of
                beams, follow one another and are taken together.
        """
        assert self.begins is not None
        begins: list[int] = self.begins.view(len(lengths), -1).amin(-1).tolist()
        return [begin < length for begin, length in zip(begins, lengths, strict=True)]
