"""UNDIAL: distil from the model as it was, with the true token's logit lowered."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.data.batches import Batch
from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.methods.terms import require_logits
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "UNDIAL", paper="arXiv:2402.10052", cost="1 forget forward", reference="a frozen copy's logits"
)
@dataclass
class UNDIAL(Unlearn):
    """L_forget = CE(softmax(z_ref - beta onehot(y_t)), policy), the mean over answer tokens.

    undial_over=all takes every position but a row's last, prompt and padding included, and lowers
    the logit of the vocabulary's entry V - 100 where there is no label, as published.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {**Unlearn.QUIRKS, "undial_over": "all"}

    alpha: float = 0.0
    beta: float = 10.0
    undial_over: Literal["answer", "all"] = "answer"

    def forget_reference(self) -> OutputSpec:
        return OutputSpec(fn=None, positions="every" if self.undial_over == "all" else "answer")

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        teacher = require_logits(reference)

        def distill(logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
            """[n, V], [n], the reference's [n, d] -> [n], called chunk by chunk."""
            target_logits = teacher.logits(hidden)
            lowered = (labels % target_logits.shape[-1]).unsqueeze(-1)  # -100, no label, is V - 100
            change = target_logits.new_full(lowered.shape, -self.beta)
            target = target_logits.scatter_add(-1, lowered, change).softmax(-1)
            return -(target * logits.log_softmax(-1)).sum(-1)

        positions = self.forget_reference().positions
        return OutputSpec(fn=distill, positions=positions, extra=(teacher.hidden,))

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        if self.undial_over == "answer":
            return Term("forget", policy.value, "forget.tokens")
        is_followed = policy.row[1:] == policy.row[:-1]
        return Term("forget", policy.value[:-1][is_followed], "forget.followed_positions")

    def counts(self, batch: Batch) -> "dict[str, Tensor]":
        counts = super().counts(batch)
        followed = counts["forget.positions"] - counts["forget.sequences"]
        counts["forget.followed_positions"] = followed
        return counts

    def depends_on_micro_batches(self) -> str:
        if self.undial_over == "all":
            return "undial_over=all averages over padding, and padding depends on the micro-batch"
        return super().depends_on_micro_batches()
