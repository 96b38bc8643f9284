"""SimNPO: NPO without a reference, with the answer's length in its place."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unteach.errors import UserError
from unteach.lazy import F
from unteach.methods.base import StreamReference, Term, Unlearn, mean_over_rows
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method("SimNPO", paper="arXiv:2410.07163", cost="1 forget + 1 retain forward", reference="none")
@dataclass
class SimNPO(Unlearn):
    """L_forget = -(2/beta) log sigmoid(beta (-s/|y| - delta)) per sequence, s the sum of the
    answer's log-probs.

    |y| counts the tokens in s; simnpo_length=labels also counts a label that nothing predicts, a
    row's first token.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {**Unlearn.QUIRKS, "simnpo_length": "labels"}

    gamma: float = 0.125
    beta: float = 4.5
    delta: float = 0.0
    simnpo_length: Literal["predicted", "labels"] = "predicted"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise UserError(f"beta must be above 0, got {self.beta}")

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        length = policy.labelled if self.simnpo_length == "labels" else policy.lengths()
        surprise = -policy.per_row() / length.clamp(min=1)
        loss = -(2 / self.beta) * F.logsigmoid(self.beta * (surprise - self.delta))
        return mean_over_rows("forget", "forget", loss, policy)
