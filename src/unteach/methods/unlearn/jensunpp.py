"""JensUn++: JensUn towards refusals, where an answer's first token counts as much as all others
together."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unteach.data.streams import ALTERNATE
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.base import Term, TwoSided, mean_over_rows
from unteach.methods.divergences import (
    compute_divergence_slope,
    jensen_shannon,
    jensen_shannon_to_token,
    slope_to_token,
)
from unteach.methods.retain import JS
from unteach.models.forward import OutputSpec, TokenOutputs, logprob
from unteach.models.reference import ReferenceSpecs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 1e-5
LARGEST_BALANCE = 1e6


@method(
    "JensUnPP",
    paper="arXiv:2607.09236",
    cost="1 forward of alternate and retain; balance: 1 more of both without gradient",
    reference="a frozen copy's logits on the retain rows",
    evidence="verified against the authors' code",
    license="MIT",
)
@dataclass
class JensUnPP(TwoSided):
    """L = gamma c sum_t w_t JS(p_t, onehot(y_a,t)) + alpha sum_t w_t JS(p_t, p_t,ref), means over
    rows; y_a the other answers to the forget rows.

    w is first_token_weight for an answer's first token, and shares the rest equally among the
    others; 1 for a single token. c, balance: the length of the retain term's gradient in its
    logits over that of the forget term's, both of the whole step, at most 1e6; 1 while either term
    is below 1e-5. Trains on rows of data.forget that carry {original, alternate}.
    """

    gamma: float = field(default=0.33, metadata={"help": "weight of the forget term"})
    alpha: float = field(
        default=1.0, metadata={"help": "weight of the retain term; 0 makes no retain pass at all"}
    )
    first_token_weight: float = 0.5
    balance: bool = field(
        default=True,
        metadata={"help": "scale the forget term until its gradient is as long as the retain's"},
    )

    def __post_init__(self) -> None:
        for name in ("gamma", "alpha"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.first_token_weight <= 1:
            raise UserError(
                f"first_token_weight must be from 0 to 1, got {self.first_token_weight}"
            )
        if self.balance and not self.alpha:
            raise UserError(
                "balance=true compares the forget term with the retain term, and alpha=0 leaves "
                "that out; set balance=false"
            )

    def forget_streams(self) -> tuple[str, ...]:
        return (ALTERNATE,)

    def retain_streams(self) -> tuple[str, ...]:
        return ("retain",) if self.alpha else ()

    def reference(self) -> ReferenceSpecs:
        return {"retain": JS().reference()} if self.alpha else {}

    def has_prepass(self) -> bool:
        return self.balance

    def prepass_specs(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        frozen = reference["retain"]

        def token_terms(logits: "Tensor", labels: "Tensor") -> "Tensor":
            loss = jensen_shannon_to_token(logprob(logits, labels))
            return torch.stack([loss, slope_to_token(logits.log_softmax(-1), labels)], -1)

        def retain_terms(logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
            log_p, log_q = logits.log_softmax(-1), frozen.logits(hidden).log_softmax(-1)
            loss = jensen_shannon(log_p, log_q)
            return torch.stack([loss, compute_divergence_slope(log_p, log_q)], -1)

        retain = OutputSpec(fn=retain_terms, extra=(frozen.hidden,))
        return {ALTERNATE: OutputSpec(fn=token_terms), "retain": retain}

    def prepass(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> "dict[str, Tensor]":
        sums = {}
        for stream, outputs in policy.items():
            weighted = self.weights(outputs).unsqueeze(-1) * outputs.value  # [N, 2]
            sums[f"{stream}.loss"] = weighted[:, 0].sum()
            sums[f"{stream}.squared_slope"] = weighted[:, 1].square().sum()
        return sums

    def retain_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"retain": JS().want(reference["retain"])}

    def forget_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        answers = policy[ALTERNATE]
        divergence = jensen_shannon_to_token(answers.value)
        forget = self._mean("forget", ALTERNATE, divergence, answers)
        forget.factor = self.gamma
        if self.balance:
            forget.factor = self.gamma * compute_balance(reference["step"])
        return [forget]

    def retain_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        retain = self._mean("retain", "retain", policy["retain"].value, policy["retain"])
        retain.factor = self.alpha
        return [retain]

    def weights(self, answers: TokenOutputs) -> "Tensor":
        """The weight of each token in its row, which add up to 1: [N]."""
        length = answers.lengths()[answers.row]
        rest = (1 - self.first_token_weight) / (length - 1).clamp(min=1)
        first = torch.where(length == 1, 1.0, self.first_token_weight)
        return torch.where(answers.index_in_row() == 0, first, rest)

    def _mean(self, name: str, stream: str, value: "Tensor", answers: TokenOutputs) -> Term:
        return mean_over_rows(name, stream, answers.per_row(self.weights(answers) * value), answers)


def compute_balance(step: "dict[str, Tensor]") -> "Tensor":
    """What the forget term of a step is multiplied by, from the sums that the prepass made."""
    losses, slopes = [], []
    for stream in (ALTERNATE, "retain"):
        rows = step[f"{stream}.sequences"].clamp(min=1)
        losses.append(step[f"{stream}.loss"] / rows)
        slopes.append(step[f"{stream}.squared_slope"].sqrt() / rows)
    balance = (slopes[1] / (slopes[0] + SMALL)).clamp(max=LARGEST_BALANCE)
    return torch.where(torch.stack(losses).amin() < SMALL, 1.0, balance)
