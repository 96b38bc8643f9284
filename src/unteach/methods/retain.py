"""What holds the retain answers while others are unlearned: four terms, each usable with every
unlearning method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from unteach.methods.divergences import jensen_shannon
from unteach.methods.terms import UNITS, Over, Term, cross_entropy, mean_of_rows
from unteach.models.forward import OutputSpec, TokenOutputs

if TYPE_CHECKING:
    from torch import Tensor


class Retain(Protocol):
    """A retain term; `layer` names where its pass ends, None where it runs to the head."""

    @property
    def layer(self) -> str | None: ...

    def reference(self) -> OutputSpec | None:
        """What it compares with."""

    def want(self, reference: Any) -> OutputSpec:
        """What it asks of the policy, given the reference's side."""

    def term(self, answers: TokenOutputs, reference: Any) -> Term: ...


@dataclass(frozen=True)
class NLL:
    """The cross-entropy of the retain answers."""

    over: Over = "answer"
    layer = None

    def reference(self) -> None:
        return None

    def want(self, reference: Any) -> OutputSpec:
        return OutputSpec(positions=self.over)

    def term(self, answers: TokenOutputs, reference: Any) -> Term:
        return cross_entropy("retain", "retain", answers, units=UNITS[self.over])


@dataclass(frozen=True)
class KL:
    """The mean over positions of KL(reference || policy), over the whole vocabulary."""

    over: Over = "answer"
    layer = None

    def reference(self) -> OutputSpec:
        return OutputSpec(fn=None, positions=self.over)

    def want(self, reference: Any) -> OutputSpec:
        def divergence(logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
            own = reference.logits(hidden).log_softmax(-1)
            return (own.exp() * (own - logits.log_softmax(-1))).sum(-1)

        return OutputSpec(fn=divergence, positions=self.over, extra=(reference.hidden,))

    def term(self, answers: TokenOutputs, reference: Any) -> Term:
        return Term("retain", answers.value, f"retain.{UNITS[self.over]}")


@dataclass(frozen=True)
class JS:
    """The mean over positions of the Jensen-Shannon divergence of policy and reference, at most
    log 2; it and its gradient are 0 at the reference."""

    over: Over = "answer"
    layer = None

    def reference(self) -> OutputSpec:
        return OutputSpec(fn=None, positions=self.over)

    def want(self, reference: Any) -> OutputSpec:
        def divergence(logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
            own = reference.logits(hidden).log_softmax(-1)
            return jensen_shannon(logits.log_softmax(-1), own)

        return OutputSpec(fn=divergence, positions=self.over, extra=(reference.hidden,))

    def term(self, answers: TokenOutputs, reference: Any) -> Term:
        return Term("retain", answers.value, f"retain.{UNITS[self.over]}")


@dataclass(frozen=True)
class EmbedDiff:
    """||h - h_ref||^2 at a layer: mean over hidden size, over each sequence's answer tokens, over
    sequences."""

    layer: str
    broadcast: bool = False

    def reference(self) -> OutputSpec:
        return activations(self.layer)

    def want(self, reference: Any) -> OutputSpec:
        return activations(self.layer)

    def term(self, answers: TokenOutputs, reference: Any) -> Term:
        return distance("retain", "retain", answers, reference.value, self.broadcast)


def activations(layer: str) -> OutputSpec:
    """The output of a layer at the answer tokens, from a pass that ends there."""
    return OutputSpec(fn=None, positions="labels", layer=layer)


def distance(
    name: str, stream: str, answers: TokenOutputs, target: "Tensor", broadcast: bool
) -> Term:
    """(h - target)^2, averaged over hidden size and over each sequence's tokens: [N, d], [N, d] or
    [d] -> a term.

    broadcast: each sequence's sum is divided by the length of every sequence of the micro-batch in
    turn, as published.
    """
    squared = (answers.value.float() - target.float()).square().mean(-1)
    shares = 1 / answers.lengths().clamp(min=1)
    if broadcast:
        shares = shares[answers.weight != 0].mean()
    return mean_of_rows(name, stream, answers.per_row(squared) * shares, answers)
