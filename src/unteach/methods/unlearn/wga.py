"""Weighted gradient ascent: ascend most where the model is still sure, and stop by itself where it
is not."""

from dataclasses import dataclass

from unteach.errors import UserError
from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method("WGA", paper="arXiv:2502.19301", cost="1 forget + 1 retain forward", reference="none")
@dataclass
class WGA(Unlearn):
    """L_forget = -sg(p_t)^beta CE_t, the mean over answer tokens; beta 0 is GradAscent."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise UserError(f"beta must not be negative, got {self.beta}")

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        confidence = policy.value.detach().exp()
        return Term("forget", confidence**self.beta * policy.value, "forget.tokens")
