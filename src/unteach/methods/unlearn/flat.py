"""FLAT: widen an f-divergence between another answer and the one to forget, with forget rows
alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unteach.data.streams import ALTERNATE
from unteach.lazy import F
from unteach.methods.base import Term, Unlearn, mean_over_rows
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "FLAT",
    paper="arXiv:2410.11143",
    cost="1 forward of forget and alternate",
    reference="none",
    evidence="verified against the authors' code",
    license="Apache-2.0",
)
@dataclass
class FLAT(Unlearn):
    """L_forget = D(e, f), the mean over rows; e and f are the mean probabilities of the tokens of a
    row's other answer and of the one to forget.

    Trains on rows of data.forget that carry {original, alternate}. D falls as the other answer gets
    likelier, and as the one to forget gets less likely.
    """

    alpha: float = 0.0
    divergence: Literal["TV", "KL", "JS", "Pearson", "Jeffrey"] = field(
        default="TV", metadata={"help": "the f-divergence D; TV: total variation"}
    )

    def forget_streams(self) -> tuple[str, ...]:
        return ("forget", ALTERNATE)

    def forget_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {**super().forget_wants(reference), ALTERNATE: OutputSpec()}

    def forget_term(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> Term:
        other, forgotten = (mean_probability(policy[s]) for s in (ALTERNATE, "forget"))
        loss = DIVERGENCES[self.divergence](other, forgotten)
        return mean_over_rows("forget", "forget", loss, policy["forget"])


def mean_probability(answers: TokenOutputs) -> "Tensor":
    """The mean of p over the tokens of each row: [B]."""
    return answers.per_row(answers.value.exp()) / answers.lengths().clamp(min=1)


def total_variation(e: "Tensor", f: "Tensor") -> "Tensor":
    return (f.tanh() - e.tanh()) / 2


def kullback_leibler(e: "Tensor", f: "Tensor") -> "Tensor":
    return (f - 1).exp() - e


def jensen_shannon(e: "Tensor", f: "Tensor") -> "Tensor":
    return F.softplus(-e) + F.softplus(f) - 2 * math.log(2)


def pearson(e: "Tensor", f: "Tensor") -> "Tensor":
    return f + f**2 / 4 - e


def jeffrey(e: "Tensor", f: "Tensor") -> "Tensor":
    return f + f**2 / 4 + f**3 / 16 - e


DIVERGENCES: dict[str, Callable[["Tensor", "Tensor"], "Tensor"]] = {
    "TV": total_variation,
    "KL": kullback_leibler,
    "JS": jensen_shannon,
    "Pearson": pearson,
    "Jeffrey": jeffrey,
}
"""D(e, f), each up to what does not depend on the model. Three more that the authors' code has are
left out: with their signs as published the loss falls as the answer to forget gets likelier."""
