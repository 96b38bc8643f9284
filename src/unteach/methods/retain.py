"""The terms that hold the retain answers while others are unlearned, each usable with every
unlearning method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unteach.methods.divergences import jensen_shannon
from unteach.methods.terms import (
    UNITS,
    Positions,
    StreamReference,
    Term,
    cross_entropy,
    mean_over_rows,
    require_logits,
    require_outputs,
)
from unteach.models.forward import OutputSpec, TokenOutputs

if TYPE_CHECKING:
    from torch import Tensor


class Retain(Protocol):
    """A retain term; `layer` names where its pass ends, None where it runs to the head."""

    @property
    def layer(self) -> str | None: ...

    def reference(self) -> OutputSpec | None:
        """Say what a pass of the reference should yield."""

    def want(self, reference: StreamReference) -> OutputSpec:
        """Say what the policy's pass should yield, given the reference's outputs."""

    def term(self, outputs: TokenOutputs, reference: StreamReference) -> Term:
        """Build the term of one micro-batch."""
        ...


@dataclass(frozen=True)
class NLL:
    """The cross-entropy of the retain answers."""

    positions: Positions = "answer"
    layer = None

    def reference(self) -> None:
        return None

    def want(self, reference: StreamReference) -> OutputSpec:
        return OutputSpec(positions=self.positions)

    def term(self, outputs: TokenOutputs, reference: StreamReference) -> Term:
        return cross_entropy("retain", "retain", outputs, units=UNITS[self.positions])


@dataclass(frozen=True)
class _Divergence:
    """The mean over positions of a divergence of policy and reference, over the vocabulary."""

    positions: Positions = "answer"
    layer = None

    def reference(self) -> OutputSpec:
        return OutputSpec(fn=None, positions=self.positions)

    def want(self, reference: StreamReference) -> OutputSpec:
        teacher = require_logits(reference)

        def divergence(logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
            """[n, V], [n], the reference's [n, d] -> [n], called chunk by chunk."""
            target = teacher.logits(hidden).log_softmax(-1)
            return self.compute(logits.log_softmax(-1), target)

        return OutputSpec(fn=divergence, positions=self.positions, extra=(teacher.hidden,))

    def compute(self, log_policy: "Tensor", log_reference: "Tensor") -> "Tensor":
        """Compare log-probs: [n, V], [n, V] -> [n]."""
        raise NotImplementedError

    def term(self, outputs: TokenOutputs, reference: StreamReference) -> Term:
        return Term("retain", outputs.value, f"retain.{UNITS[self.positions]}")


@dataclass(frozen=True)
class KL(_Divergence):
    """The mean over positions of KL(reference || policy), over the whole vocabulary."""

    def compute(self, log_policy: "Tensor", log_reference: "Tensor") -> "Tensor":
        return (log_reference.exp() * (log_reference - log_policy)).sum(-1)


@dataclass(frozen=True)
class JS(_Divergence):
    """The mean over positions of the Jensen-Shannon divergence of policy and reference, over the
    whole vocabulary: at most log 2; it and its gradient are 0 at the reference."""

    def compute(self, log_policy: "Tensor", log_reference: "Tensor") -> "Tensor":
        return jensen_shannon(log_policy, log_reference)


@dataclass(frozen=True)
class EmbedDiff:
    """||h - h_ref||^2 at a layer: mean over hidden size, over each sequence's answer tokens, over
    sequences."""

    layer: str
    broadcast: bool = False

    def reference(self) -> OutputSpec:
        return build_layer_spec(self.layer)

    def want(self, reference: StreamReference) -> OutputSpec:
        return build_layer_spec(self.layer)

    def term(self, outputs: TokenOutputs, reference: StreamReference) -> Term:
        target = require_outputs(reference).value
        return build_distance_term("retain", "retain", outputs, target, self.broadcast)


def build_layer_spec(layer: str) -> OutputSpec:
    """Ask for the output of a layer at the answer tokens, from a pass that ends there."""
    return OutputSpec(fn=None, positions="labels", layer=layer)


def build_distance_term(
    name: str, stream: str, outputs: TokenOutputs, target: "Tensor", broadcast: bool
) -> Term:
    """(h - target)^2, averaged over hidden size and over each sequence's tokens.

    Args:
        name: of the term.
        stream: its rows are divided by the number of this stream's sequences.
        outputs: hidden states [N, d].
        target: [N, d], or [d] for all positions alike.
        broadcast: divide each sequence's sum by the length of every sequence of the micro-batch in
            turn, as published.
    """
    squared = (outputs.value.float() - target.float()).square().mean(-1)  # [N]
    inverse_lengths = 1 / outputs.lengths().clamp(min=1)  # [B]
    if broadcast:
        inverse_lengths = inverse_lengths[outputs.weight != 0].mean()
    return mean_over_rows(name, stream, outputs.per_row(squared) * inverse_lengths, outputs)
