"""KTO: answers that were liked or not, each for itself, weighed as people weigh gains and
losses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unteach.data.batches import Batch
from unteach.errors import UserError
from unteach.methods.base import Method, Term, mean_over_rows
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.models.reference import ReferenceSpecs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor

GAIN = "mismatched.gain"


@method(
    "KTO",
    paper="arXiv:2402.01306",
    cost="1 forward; 1 without gradient of prompts with another row's answer",
    reference="answer log-probs of both, computed once",
)
@dataclass
class KTO(Method):
    """w (1 - sigmoid(beta (r - z))) of a liked answer, w (1 - sigmoid(beta (z - r))) of another, r
    = s - s_ref.

    z is max(0, the mean of r over the step's prompts with another row's answer), an estimate of the
    KL divergence; it carries no gradient and is known before any loss of the step, so that a step
    is the same for every split.
    """

    ROWS: ClassVar = "feedback"

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise UserError(f"beta must be above 0, got {self.beta}")
        if min(self.desirable_weight, self.undesirable_weight) < 0:
            raise UserError("desirable_weight and undesirable_weight must not be negative")

    def streams(self) -> tuple[str, ...]:
        return ("train", "mismatched")

    def reference(self) -> ReferenceSpecs:
        return {"train": "logprobs", "mismatched": "logprobs"}

    def prepass_specs(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"mismatched": OutputSpec()}

    def prepass(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> "dict[str, Tensor]":
        gain = policy["mismatched"].per_row() - reference["mismatched"].per_row()
        return {GAIN: gain.sum()}

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"train": OutputSpec()}

    def counts(self, batch: Batch) -> "dict[str, Tensor]":
        counts = super().counts(batch)
        start, stop = batch["rows"]["train"]
        weight = batch["weight"][start:stop]
        counts["train.desirable"] = (weight > 0).sum()
        counts["train.undesirable"] = (weight < 0).sum()
        return counts

    def metric_names(self) -> tuple[str, ...]:
        return ("reward_desirable", "reward_undesirable", "kl")

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        outputs = policy["train"]
        step = reference["step"]
        mean_gain = step[GAIN] / step["mismatched.sequences"].clamp(min=1)
        baseline = mean_gain.clamp(min=0)  # z

        gain = outputs.per_row() - reference["train"].per_row()  # r: [B]
        sign = outputs.weight.sign()  # 1 liked, -1 not, 0 filler
        weight = (sign > 0) * self.desirable_weight + (sign < 0) * self.undesirable_weight
        loss = weight * (1 - (self.beta * sign * (gain - baseline)).sigmoid())

        reward = self.beta * gain.detach()
        kl = mean_over_rows("kl", "train", baseline.expand(len(gain)), outputs)
        kl.factor = None
        return [
            mean_over_rows("train", "train", loss, outputs),
            Term("reward_desirable", reward[sign > 0], "train.desirable", None),
            Term("reward_undesirable", reward[sign < 0], "train.undesirable", None),
            kl,
        ]
