"""Direct preference optimisation: the chosen answer gains on the rejected one, measured from where
the model was."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.methods.base import Term
from unteach.methods.preference.pairs import LossType, Pairs, pair_loss, refuse_bad_smoothing
from unteach.models.forward import TokenOutputs
from unteach.models.reference import ReferenceSpecs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "PrefDPO",
    paper="arXiv:2305.18290",
    cost="1 forward of both answers",
    reference="answer log-probs of both, computed once",
)
@dataclass
class PrefDPO(Pairs):
    """-log sigmoid(beta [(s_c - s_c,ref) - (s_r - s_r,ref)]) per pair, s the sum of an answer's
    log-probs.

    At the reference it is log 2. ipo takes the mean over an answer's tokens in place of the sum, as
    its authors do.
    """

    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_bad_smoothing(self.loss_type, self.label_smoothing)

    def reference(self) -> ReferenceSpecs:
        return {"chosen": "logprobs", "rejected": "logprobs"}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        chosen = self._compute_gain(policy["chosen"], reference["chosen"])
        rejected = self._compute_gain(policy["rejected"], reference["rejected"])
        loss = pair_loss(self.loss_type, chosen - rejected, self.beta, self.label_smoothing)
        return self.build_preference_terms(
            loss, self.beta * chosen, self.beta * rejected, policy["chosen"]
        )

    def _compute_gain(self, policy: TokenOutputs, reference: TokenOutputs) -> "Tensor":
        """Compute how much more likely each answer has become: [B]."""
        gain = policy.per_row() - reference.per_row()
        if self.loss_type == "ipo":
            gain = gain / policy.lengths().clamp(min=1)
        return gain
