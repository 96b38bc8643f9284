"""Gradient difference: ascend on what to forget, descend on what to keep."""

from dataclasses import dataclass

from unteach.methods.unlearn.grad_ascent import GradAscent
from unteach.registry import method


@method(
    "GradDiff",
    paper="arXiv:2203.12817",
    cost="1 forget + 1 retain forward",
    reference="only for KL",
)
@dataclass
class GradDiff(GradAscent):
    """L = -gamma CE_f + alpha L_retain, with any retain term holding the retain answers."""

    alpha: float = 1.0
