"""CE-U: learn the model's own next-token distribution with the true token taken out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unteach.data.batches import Batch
from unteach.errors import UserError
from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.models.forward import IGNORED, OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method("CEU", paper="arXiv:2503.01224", cost="1 forget forward", reference="none")
@dataclass
class CEU(Unlearn):
    """L_forget = CE(softmax(sg(z) with z_{y_t} = -inf), policy), the mean over answer tokens but
    the first few.

    Its gradient in the logits is p - q, which is bounded, so it needs neither a reference nor a
    retain term.
    """

    alpha: float = 0.0
    ignore_first_n_answer_tokens: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ignore_first_n_answer_tokens < 0:
            raise UserError(
                f"ignore_first_n_answer_tokens must not be negative, got "
                f"{self.ignore_first_n_answer_tokens}"
            )

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        return OutputSpec(fn=cross_entropy_without_label)

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        # A row's first token, where it is a label, is predicted by nothing, and is one of the n.
        num_unpredicted = policy.labelled - policy.lengths()  # [B], 0 or 1
        place_in_answer = policy.index_in_row() + num_unpredicted[policy.row]  # [N]
        is_later = place_in_answer >= self.ignore_first_n_answer_tokens
        return Term("forget", policy.value[is_later], "forget.later_tokens")

    def counts(self, batch: Batch) -> "dict[str, Tensor]":
        counts = super().counts(batch)
        start, stop = batch["rows"]["forget"]
        is_label = batch["labels"][start:stop] != IGNORED  # [B, T]
        is_later = is_label & (is_label.cumsum(-1) > self.ignore_first_n_answer_tokens)
        counts["forget.later_tokens"] = is_later[:, 1:].sum()
        return counts


def cross_entropy_without_label(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """CE(q, p) with q = softmax of the logits, detached, without the label: [n, V], [n] -> [n]."""
    target = logits.detach().scatter(-1, labels.unsqueeze(-1), float("-inf")).softmax(-1)
    return -(target * logits.log_softmax(-1)).sum(-1)
