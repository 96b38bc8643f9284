"""RepSelect: one step of ascent by what a gradient has beside its strongest directions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.edit.adversary import Adversary
from unteach.methods.edit.base import Edit, EditContext, Numbers, Weights
from unteach.methods.edit.spectral import CollapseSide, Kind, collapse, find_directions
from unteach.models.layers import is_partitioned
from unteach.models.loading import LoadedModel
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

COST = (
    "1 forward and backward over the forget rows (2 with the adversary), 1 eigendecomposition a "
    "weight"
)
LARGEST_FACTOR = 8.0
LOWEST_SHARE = 0.95
MOST_EVALUATIONS = 30


@dataclass
class SelectiveEdit(Edit):
    """What RepSelect and RepSelectAdaptive share: the direction G~ of each weight."""

    n_pcs: int = field(
        default=512,
        metadata={"help": "q, how many of the strongest directions of each gradient are weakened"},
    )
    collapse: Kind = field(
        default="soft",
        metadata={
            "help": "by how much: with k_i = S_i / S_q, a direction gets the factor 1/k_i (soft), "
            "1/k_i^2 (quadratic) or 0 (hard) on each side"
        },
    )
    collapse_on: CollapseSide = field(
        default="both",
        metadata={"help": "on the side of the activations, of the gradients, or on both"},
    )
    distribution: Literal["forget", "retain"] = field(
        default="forget", metadata={"help": "whose gradient the directions are of"}
    )
    adversary: bool = field(
        default=True,
        metadata={
            "help": "whether a fresh LoRA relearns the rows a little before the gradient is taken"
        },
    )
    target_modules: str = field(
        default=r".*\.(gate_proj|up_proj|down_proj)",
        metadata={"help": "the linear layers that are edited, a regex of their names"},
    )

    def __post_init__(self) -> None:
        if self.n_pcs < 1:
            raise UserError(f"n_pcs must be at least 1, got {self.n_pcs}")
        try:
            re.compile(self.target_modules)
        except re.error as error:
            raise UserError(f"target_modules is no regular expression ({error})") from None

    def streams(self) -> tuple[str, ...]:
        return ("forget", "retain") if self.distribution == "retain" else ("forget",)

    def depends_on_micro_batches(self) -> str:
        return "the adversary takes a step a batch" if self.adversary else ""

    def refuse_model(self, loaded: LoadedModel) -> None:
        experts = []
        for name, weight in loaded.model.named_parameters():
            if weight.ndim == 3 and "expert" in name:
                experts.append(name)
        if experts:
            raise UserError(
                f"{experts[0]} holds the weights of all experts of a layer in one tensor: this "
                "method weakens directions of one matrix at a time, and does not edit mixtures of "
                "experts kept so"
            )
        found = self.find_modules(loaded.model)
        if not found:
            linear = set()
            for name, module in loaded.model.named_modules():
                if type(module).__name__ in ("Linear", "Conv1D"):
                    linear.add(name.rpartition(".")[2])
            raise UserError(
                f"trainer.method_args.target_modules={self.target_modules}: matches no layer of "
                f"this {type(loaded.model).__name__}; its linear layers end in "
                f"{', '.join(sorted(linear))}"
            )
        for name, module in found.items():
            if not isinstance(module, torch.nn.Linear) or is_partitioned(module.weight):
                raise UserError(
                    f"trainer.method_args.target_modules={self.target_modules}: {name} is a "
                    f"{type(module).__name__}; only torch.nn.Linear is edited"
                )

    def find_modules(self, model: "PreTrainedModel") -> "dict[str, Module]":
        """Find the layers that are edited, by name."""
        found = {}
        for name, module in model.named_modules():
            if re.fullmatch(self.target_modules, name) and hasattr(module, "weight"):
                found[name] = module
        return found

    def find_weights(self, model: "PreTrainedModel") -> Weights:
        weights: dict[str, Any] = {}
        for name, module in self.find_modules(model).items():
            weights[f"{name}.weight"] = module.weight
        return weights

    def estimate_memory(self, model: "PreTrainedModel") -> dict[str, float]:
        weights = self.find_weights(model).values()
        num_gradients = 2 if self.distribution == "retain" else 1
        # Three matrices and a square one in fp64, of one weight at a time.
        largest = max(weight.numel() for weight in weights)
        return {
            "gradients": 4.0 * num_gradients * sum(weight.numel() for weight in weights),
            "directions": 8.0 * 4 * largest,
        }

    def find_step(self, context: EditContext) -> "dict[str, Tensor]":
        """Compute G~ of each weight: the gradient of -CE over the forget rows, its strongest
        directions weakened; W - strength G~ ascends CE. In fp32."""
        modules, weights = self.find_modules(context.model), self.find_weights(context.model)
        self._note_many_directions(context, weights)
        adversary = None
        if self.adversary:
            adversary = Adversary.draw(modules, context.seed)
        gradients = self._compute_gradients(context, modules, weights, adversary)
        other: dict[str, Tensor] = {}
        if self.distribution == "retain":
            other = context.compute_gradients("retain", weights)
        for name in weights:
            gradient = -gradients[name]
            directions = find_directions(other.get(name, gradient), self.n_pcs)
            gradients[name] = collapse(gradient, directions, self.collapse_on, self.collapse)
        return gradients

    def _compute_gradients(
        self,
        context: EditContext,
        modules: "dict[str, Module]",
        weights: Weights,
        adversary: Adversary | None,
    ) -> "dict[str, Tensor]":
        if adversary is None:
            return context.compute_gradients("forget", weights)
        with adversary.attached(modules):
            adversary.relearn(context, "forget")
            return context.compute_gradients("forget", weights)

    def _note_many_directions(self, context: EditContext, weights: Weights) -> None:
        smallest = min(min(weight.shape) for weight in weights.values())
        if self.n_pcs > smallest:
            context.report(
                f"trainer.method_args.n_pcs={self.n_pcs}: the smallest weight has {smallest} "
                "directions, all of which are weakened there"
            )


def measure_norm(step: "dict[str, Tensor]") -> float:
    """The length of a step, all weights one vector."""
    return sum(float(part.double().square().sum()) for part in step.values()) ** 0.5


@method(
    "RepSelect",
    paper="arXiv:2606.17168",
    cost=COST,
    reference="none",
    evidence="verified against the authors' code; the adversary from the paper",
    license="MIT",
)
@dataclass
class RepSelect(SelectiveEdit):
    """W - strength G~, where G~ is the gradient of -CE over the forget rows with its strongest
    directions, those that much else needs too, weakened.

    The gradient is that of the token mean over all rows (the authors add up batch means, so that
    their strength grows with the number of batches), the directions are exact.
    """

    strength: float = field(default=0.05, metadata={"help": "how far to go along G~"})

    def edit(self, context: EditContext) -> Numbers:
        weights = self.find_weights(context.model)
        step = self.find_step(context)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(weight.float() - self.strength * step[name])
        return {"step_norm": measure_norm(step)}


@method(
    "RepSelectAdaptive",
    paper="arXiv:2606.17168",
    cost=f"{COST}; then up to {MOST_EVALUATIONS} passes over the model's own texts",
    reference="none",
    evidence="verified against the authors' code; the adversary from the paper",
    license="MIT",
)
@dataclass
class RepSelectAdaptive(SelectiveEdit):
    """RepSelect with the strength at which KL(before || edited) is within 0.95 and 1 of `budget`,
    in nats a token over 64 texts that the model wrote before.

    From `start` the strength shrinks or grows by 8 until the budget is bracketed, then halves the
    bracket in its logarithm; always from the untouched weights. The authors measure on WikiText.
    """

    MEASURES_KL: ClassVar[bool] = True
    LANDS_ITSELF: ClassVar[bool] = True

    budget: float = field(default=0.01, metadata={"help": "KL(before || edited), nats a token"})
    start: float = field(default=0.05, metadata={"help": "the first strength that is looked at"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget <= 0 or self.start <= 0:
            raise UserError("budget and start must be above 0")

    def edit(self, context: EditContext) -> Numbers:
        weights = self.find_weights(context.model)
        step = self.find_step(context)
        start = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}

        def move_to(strength: float) -> None:
            with torch.no_grad():
                for name, weight in weights.items():
                    before = start[name].to(weight.device)
                    weight.copy_(before.float() - strength * step[name])

        looks: list[tuple[float, float]] = []
        for strength in search_strength(self.start, self.budget, looks):
            move_to(strength)
            looks.append((strength, context.measure_kl()))
        within = [(kl, strength) for strength, kl in looks if kl <= self.budget]
        kl, strength = max(within, default=(0.0, 0.0))
        move_to(strength)
        if kl < LOWEST_SHARE * self.budget:
            context.report(
                f"RepSelectAdaptive: no strength within 0.95 and 1 of the budget {self.budget:g} "
                f"in {len(looks)} looks; kept: {strength:.4g} (0 is the model as it was)"
            )
        numbers: Numbers = {"strength": strength, "kl": kl, "looks": float(len(looks))}
        return {**numbers, "step_norm": measure_norm(step)}

    def estimate_memory(self, model: "PreTrainedModel") -> dict[str, float]:
        weights = self.find_weights(model).values()
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        return {**super().estimate_memory(model), "untouched weights, on the CPU": float(size)}


def search_strength(
    start: float, budget: float, looks: list[tuple[float, float]]
) -> Iterator[float]:
    """Give the next strength to look at, until KL is within 0.95 and 1 of the budget or 30 were
    looked at.

    Args:
        looks: the caller appends (strength, KL) of each one that it was given.
    """
    strength = start
    low: float | None = None
    high: float | None = None
    for _ in range(MOST_EVALUATIONS):
        yield strength
        kl = looks[-1][1]
        if LOWEST_SHARE * budget <= kl <= budget:
            return
        # A KL that is not finite is too much.
        if kl <= budget:
            low = strength
        else:
            high = strength
        if low is None:
            strength /= LARGEST_FACTOR
        elif high is None:
            strength *= LARGEST_FACTOR
        else:
            strength = (low * high) ** 0.5
