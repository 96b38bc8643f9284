"""Inverted hinge loss: take probability from the true token only, and only as far as the
runner-up."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "IHL",
    paper="arXiv:2408.06621",
    cost="1 forget + 1 retain forward",
    reference="none",
    evidence="verified against the authors' code",
    license="MIT",
)
@dataclass
class IHL(Unlearn):
    """L_forget = 1 + p_t - max_{v != y_t} p_t(v), the mean over answer tokens.

    Between 0 and 2; its gradient passes through the label and the runner-up alone. The paper trains
    a LoRA on all linear layers (rank 4 to 32) at a learning rate of 1e-4 to 2e-4, which
    model.peft_args.init_lora_weights=fila begins as it does.
    """

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        return OutputSpec(fn=inverted_hinge)

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        return Term("forget", policy.value, "forget.tokens")


def inverted_hinge(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """1 + p(label) - the greatest p of the others: [n, V], [n] -> [n]."""
    p = logits.softmax(-1)
    label = labels.unsqueeze(-1)
    runner_up = p.scatter(-1, label, -1.0).amax(-1)
    return 1 + p.gather(-1, label).squeeze(-1) - runner_up
