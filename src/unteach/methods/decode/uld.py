"""ULD: take away what a small assistant, taught the forget rows, would say."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.methods.base import Method, Term, cross_entropy
from unteach.methods.unlearn.me import distance_from_uniform
from unteach.models.decoding import Decoding
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import decoding, method

if TYPE_CHECKING:
    from torch import Tensor


def subtract_assistant(
    base: "Tensor", assistant: "Tensor", weight: float = -0.8, tau: float = 1e-2
) -> "Tensor":
    """log p_b + weight log p_a, renormalised over the tokens that `keep_likely` keeps; -inf
    elsewhere: logits [..., V], [..., V] -> log-probs [..., V].

    Paper: arXiv:2406.08607. Cost: 1 forward of each a token. With weight 0 it is the base on the
    tokens kept; a constant added to either's logits changes nothing. Scoring and generating are the
    same. The published code leaves what it filters unchanged when it scores, and may emit it when
    it generates greedily.

    Evidence: verified against the authors' code, but for that. License: MIT.
    """
    log_p = base.log_softmax(-1)
    combined = log_p + weight * assistant.log_softmax(-1)
    kept = keep_likely(log_p, tau)
    return combined.masked_fill(~kept, -math.inf).log_softmax(-1)


def keep_likely(log_p: "Tensor", tau: float) -> "Tensor":
    """Which tokens have log p >= min(the k-th largest, the largest + log tau), k = int(tau V), at
    least 1: [..., V] -> bool [..., V]. With tau 0 all are kept."""
    if tau == 0:
        return log_p.isfinite()
    k = max(1, int(tau * log_p.shape[-1]))
    largest = log_p.topk(k, dim=-1).values
    threshold = largest[..., -1:].minimum(largest[..., :1] + math.log(tau))
    return log_p >= threshold


@decoding("ULD")
@dataclass
class SubtractAssistant(Decoding):
    """log p_b + weight log p_a over the tokens that the base finds likely, renormalised."""

    SECOND = "assistant"
    weight: float = -0.8
    tau: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise UserError(f"tau must be from 0 to 1, got {self.tau}")

    def combine(self, base: "Tensor", second: "Tensor") -> "Tensor":
        return subtract_assistant(base, second, self.weight, self.tau)


@method(
    "ULD",
    paper="arXiv:2406.08607",
    cost="1 forget + 1 retain forward of the first layers; afterwards 1 forward of each a token",
    reference="none",
    evidence="decoding verified against the authors' code; training from the paper",
    license="MIT",
)
@dataclass
class ULD(Method):
    """L = CE_f + uniform_weight KL(U || p) on the retain answers, means over tokens, trains an
    assistant a of the first layers; what is saved decodes with log p_b + weight log p_a.

    b is the model that it starts from, U uniform over the vocabulary: the assistant knows what is
    to be forgotten, and nothing of what is kept. The authors' uniform term is over every position
    of the padded batch.
    """

    num_layers: int = field(
        default=8, metadata={"help": "the model's first layers that the assistant is made of"}
    )
    uniform_weight: float = field(
        default=5.0, metadata={"help": "weight of the uniform term; 0 makes no retain pass at all"}
    )
    weight: float = field(
        default=-0.8, metadata={"help": "decoding: what the assistant's log-probs are weighted by"}
    )
    tau: float = field(
        default=1e-2,
        metadata={
            "help": "decoding: tokens with log p_b >= min(the tau V-th largest, largest + log tau) "
            "may be said"
        },
    )
    lora: bool = field(
        default=True,
        metadata={
            "help": "where model.peft_args says nothing, train the published adapter (r 16, alpha "
            "32, dropout 0.05, all linear layers); false: the whole assistant"
        },
    )

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise UserError(f"num_layers must be 1 or more, got {self.num_layers}")
        if self.uniform_weight < 0:
            raise UserError(f"uniform_weight must not be negative, got {self.uniform_weight}")
        self.decoding()

    def streams(self) -> tuple[str, ...]:
        return ("forget", "retain") if self.uniform_weight else ("forget",)

    def decoding(self) -> Decoding:
        return SubtractAssistant(self.weight, self.tau)

    def kept_layers(self) -> int | None:
        return self.num_layers

    def default_peft_args(self) -> dict[str, Any] | None:
        if not self.lora:
            return None
        return {
            "r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.05,
            "target_modules": "all-linear",
        }

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        wants = {"forget": OutputSpec()}
        if self.uniform_weight:
            wants["retain"] = OutputSpec(fn=distance_from_uniform)
        return wants

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        terms = [cross_entropy("forget", "forget", policy["forget"])]
        if self.uniform_weight:
            value = policy["retain"].value
            terms.append(Term("retain", value, "retain.tokens", self.uniform_weight))
        return terms
