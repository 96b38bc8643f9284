"""Unlikelihood training as an unlearning method. Source: Welleck et al. 2019, arXiv:1908.04319."""

from dataclasses import dataclass
from typing import Any

from unteach.methods.base import Term, Unlearn
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method(
    "Unlikelihood", paper="arXiv:1908.04319", cost="1 forget + 1 retain forward", reference="none"
)
@dataclass
class Unlikelihood(Unlearn):
    """L_forget = mean over answer tokens of -log(1 - p_t): bounded below by 0, strongest where the
    model is surest."""

    def forget(self, policy: TokenOutputs, reference: Any) -> Term:
        unlikely = (1 - policy.value.exp()).clamp(min=1e-6)
        return Term("forget", -unlikely.log(), "forget.tokens")
