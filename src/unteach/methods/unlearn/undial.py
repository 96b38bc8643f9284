"""UNDIAL: distil from the model as it was, with the true token's logit lowered."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.methods.base import Term, Unlearn
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

    def forget_want(self, reference: Any) -> OutputSpec:
        def distilled(logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
            target = reference.logits(hidden)
            chosen = (labels % target.shape[-1]).unsqueeze(-1)  # -100, no label, is V - 100
            target = target.scatter_add(
                -1, chosen, target.new_full(chosen.shape, -self.beta)
            ).softmax(-1)
            return -(target * logits.log_softmax(-1)).sum(-1)

        return OutputSpec(
            fn=distilled, positions=self.forget_reference().positions, extra=(reference.hidden,)
        )

    def forget(self, policy: TokenOutputs, reference: Any) -> Term:
        if self.undial_over == "answer":
            return Term("forget", policy.value, "forget.tokens")
        followed = policy.row[1:] == policy.row[:-1]
        return Term("forget", policy.value[:-1][followed], "forget.followed_positions")

    def counts(self, batch: dict[str, Any]) -> "dict[str, Tensor]":
        found = super().counts(batch)
        return {
            **found,
            "forget.followed_positions": found["forget.positions"] - found["forget.sequences"],
        }

    def depends_on_micro_batches(self) -> str:
        if self.undial_over == "all":
            return "undial_over=all averages over padding, and padding depends on the micro-batch"
        return super().depends_on_micro_batches()
