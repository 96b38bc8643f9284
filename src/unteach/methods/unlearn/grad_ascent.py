"""Gradient ascent: the plainest way to forget, and the plainest way to ruin a model."""

from dataclasses import dataclass
from typing import Any

from unteach.methods.base import Term, Unlearn, cross_entropy
from unteach.models.forward import Answers
from unteach.registry import method


@method("GradAscent", paper="arXiv:2210.01504", cost="1 forget forward", reference="none")
@dataclass
class GradAscent(Unlearn):
    """Ascend the loss of the forget answers: L = -CE_f. Unbounded: it goes on until nothing is left."""

    alpha: float = 0.0

    def forget(self, policy: Answers, reference: Any) -> Term:
        term = cross_entropy("forget", "forget", policy)
        term.value = -term.value
        return term
