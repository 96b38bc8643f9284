"""DPO for forgetting: prefer another answer, a refusal or a plausible wrong one, over the one to be
forgotten."""

from dataclasses import dataclass
from typing import Any, Literal

from unteach.data.streams import ALTERNATE
from unteach.errors import UserError
from unteach.lazy import F
from unteach.methods.base import Term, Unlearn, mean_over_rows
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.models.reference import ReferenceSpecs
from unteach.registry import method


@method(
    "DPO",
    paper="arXiv:2305.18290",
    cost="1 forward of forget, alternate and retain",
    reference="answer log-probs of both answers, computed once",
)
@dataclass
class DPO(Unlearn):
    """L_forget = -(2/beta) log sigmoid(beta [(s_alt - s_alt,ref) - (s - s_ref)]) per pair, s a sum
    of log-probs.

    Trains on rows of data.forget that carry {original, alternate}. At the reference it is (2/beta)
    log 2.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise UserError(f"beta must be above 0, got {self.beta}")

    def forget_streams(self) -> tuple[str, ...]:
        return ("forget", ALTERNATE)

    def reference(self) -> ReferenceSpecs:
        return {**super().reference(), ALTERNATE: "logprobs"}

    def forget_reference(self) -> Literal["logprobs"]:
        return "logprobs"

    def forget_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {**super().forget_wants(reference), ALTERNATE: OutputSpec()}

    def forget_term(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> Term:
        original = policy["forget"].per_row() - reference["forget"].per_row()
        alternate = policy[ALTERNATE].per_row() - reference[ALTERNATE].per_row()
        loss = -(2 / self.beta) * F.logsigmoid(self.beta * (alternate - original))
        return mean_over_rows("forget", "forget", loss, policy["forget"])
