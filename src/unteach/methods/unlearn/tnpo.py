"""Token-wise NPO: each token's ascent slows down as that token gets less likely than it was."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unteach.errors import UserError
from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.methods.terms import require_outputs
from unteach.models.forward import TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor

FACTS: dict[str, Any] = {
    "paper": "arXiv:2502.19301",
    "cost": "1 forget forward",
    "reference": "answer log-probs, computed once",
    "evidence": "verified against the authors' code",
    "license": "none; written from the formula",
}


@method("TNPO", **FACTS)
@dataclass
class TNPO(Unlearn):
    """L_forget = -w_t CE_t, w_t = sg(2 sigmoid(beta (log p_t - log p_t,ref))), the mean over answer
    tokens.

    At the reference every weight is 1, and so is every weight with beta 0: both are GradAscent.
    """

    alpha: float = 0.0
    beta: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise UserError(f"beta must not be negative, got {self.beta}")

    def forget_reference(self) -> Literal["logprobs"]:
        return "logprobs"

    def weight(self, log_p: "Tensor", log_p_ref: "Tensor") -> "Tensor":
        """How much of its ascent each token keeps: [N], [N] -> [N]."""
        return 2 * (self.beta * (log_p - log_p_ref)).sigmoid()

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        weight = self.weight(policy.value.detach(), require_outputs(reference).value)
        return Term("forget", weight * policy.value, "forget.tokens")


@method("WTNPO", **FACTS)
@dataclass
class WTNPO(TNPO):
    """TNPO weighed by confidence too: w_t = sg(2 sigmoid(beta (log p_t - log p_t,ref)) p_t^power).

    With beta 0 it is WGA with its beta = power.
    """

    power: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power < 0:
            raise UserError(f"power must not be negative, got {self.power}")

    def weight(self, log_p: "Tensor", log_p_ref: "Tensor") -> "Tensor":
        return super().weight(log_p, log_p_ref) * (self.power * log_p).exp()
