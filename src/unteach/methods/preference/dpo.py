"""Direct preference optimisation: the chosen answer gains on the rejected one, measured from where
the model was."""

from dataclasses import dataclass
from typing import Any

from unteach.methods.base import Term
from unteach.methods.preference.pairs import LossType, Pairs, pair_loss, smoothing_fits
from unteach.models.forward import TokenOutputs
from unteach.models.reference import ReferenceSpecs
from unteach.registry import method


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
        smoothing_fits(self.loss_type, self.label_smoothing)

    def reference(self) -> ReferenceSpecs:
        return {"chosen": "logprobs", "rejected": "logprobs"}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        gains = []
        for stream in self.streams():
            gain = policy[stream].per_row() - reference[stream].per_row()
            gains.append(
                gain / policy[stream].lengths().clamp(min=1) if self.loss_type == "ipo" else gain
            )
        chosen, rejected = gains
        loss = pair_loss(self.loss_type, chosen - rejected, self.beta, self.label_smoothing)
        return self.preference(loss, self.beta * chosen, self.beta * rejected, policy["chosen"])
