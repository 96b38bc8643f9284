"""Negative preference optimisation: ascent that slows down as the answer gets less likely than it
was."""

from dataclasses import dataclass
from typing import Literal

from unteach.errors import UserError
from unteach.lazy import F
from unteach.methods.base import StreamReference, Term, Unlearn, mean_over_rows
from unteach.methods.terms import require_outputs
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method(
    "NPO",
    paper="arXiv:2404.05868",
    cost="1 forget + 1 retain forward",
    reference="answer log-probs, computed once",
)
@dataclass
class NPO(Unlearn):
    """L_forget = -(2/beta) log sigmoid(-beta (s - s_ref)) per sequence, s the sum of the answer's
    log-probs.

    As beta -> 0 its gradient tends to that of ascent on s.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise UserError(
                f"beta must be above 0, got {self.beta}; a small beta is nearly GradAscent"
            )

    def forget_reference(self) -> Literal["logprobs"]:
        return "logprobs"

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        ratio = policy.per_row() - require_outputs(reference).per_row()  # [B]
        loss = -(2 / self.beta) * F.logsigmoid(-self.beta * ratio)
        return mean_over_rows("forget", "forget", loss, policy)
