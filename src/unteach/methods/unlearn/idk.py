"""Refusing instead of ascending: plain fine-tuning on another answer to what is to be forgotten."""

from dataclasses import dataclass
from typing import Any

from unteach.data.streams import ALTERNATE
from unteach.methods.base import UNITS, Term, cross_entropy
from unteach.methods.unlearn.grad_diff import GradDiff
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method


@method(
    "IdkSFT",
    paper="arXiv:2401.06121",
    cost="1 alternate + 1 retain forward",
    reference="only for KL, EMBED_DIFF",
)
@dataclass
class IdkSFT(GradDiff):
    """L = gamma CE on the rows' other answers, "I don't know" and its like, + alpha L_retain.

    Trains on rows of data.forget that carry {original, alternate}; the originals are not seen.
    """

    def forget_streams(self) -> tuple[str, ...]:
        return (ALTERNATE,)

    def forget_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {ALTERNATE: self.forget_want(reference.get("forget"))}

    def forget_term(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> Term:
        return cross_entropy("forget", ALTERNATE, policy[ALTERNATE], units=UNITS[self.positions()])
