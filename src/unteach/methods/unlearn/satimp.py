"""SatImp: ascent weighted by how far a token is from saturation and by how important it is."""

from dataclasses import dataclass

from unteach.errors import UserError
from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method("SatImp", paper="arXiv:2505.11953", cost="1 forget + 1 retain forward", reference="none")
@dataclass
class SatImp(Unlearn):
    """L_forget = -sg(p_t)^beta1 (1 - sg(p_t))^beta2 CE_t, the mean over answer tokens; both 0 is
    GradAscent."""

    gamma: float = 0.1
    beta1: float = 5.0
    beta2: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        logp = policy.value.detach()
        weight = logp.exp() ** self.beta1 * (-logp.expm1()).clamp(min=0) ** self.beta2
        return Term("forget", weight * policy.value, "forget.tokens")
