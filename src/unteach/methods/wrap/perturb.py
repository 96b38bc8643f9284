"""Perturb, compute the forget gradient there, restore: a model that has forgotten at every point
near its weights, or under every small push of its activations, remembers less easily.

Only the forget side is perturbed; the retain gradient is that at the weights themselves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from unteach.data.streams import ALTERNATE
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.base import Method, Term, TwoSided, cross_entropy
from unteach.methods.wrap.surgery import TINY, Dots, Gradients, dot_products
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.models.layer_names import DEFAULT_LAYER, MLP
from unteach.registry import perturbation

if TYPE_CHECKING:
    from torch import Tensor

UNINFORMATIVE = -5.0
"""Log-probability below which a token says nothing to an adversary that moves away from it."""


class Perturbation:
    """What is perturbed while the forget gradient is computed. Subclasses are dataclasses; their
    fields stand beside `name` in `trainer.perturb`.

    Attributes:
        DIFFERENTIATES_ACTIVATIONS: whether it takes gradients in activations alone, which torch's
            reentrant checkpointing cannot give.
    """

    DIFFERENTIATES_ACTIVATIONS: ClassVar[bool] = False

    def find_fault(self, method: Method) -> str:
        """Say why it cannot be put round a method; empty: it can."""
        return ""


@dataclass(frozen=True)
class Surroundings:
    """What a perturbation of the weights may be made of. Lists have one tensor a parameter; under
    FSDP2 they are this process's shards.

    Attributes:
        gradient: of the forget terms over the whole step, at the weights themselves; empty unless
            the perturbation asks for it.
        draw_noise: yields standard normal tensors, new ones at each call: the same whatever the
            batch size, the accumulation and the number of processes.
        dots: inner products of whole tensors, whatever the sharding.
    """

    gradient: Gradients
    draw_noise: Callable[[], Iterator["Tensor"]]
    dots: Dots = dot_products


class WeightPerturbation(Perturbation):
    """Moves the weights that train; the forget gradient is the mean of those at `count_draws`
    places.

    Attributes:
        NEEDS_GRADIENT: whether the forget gradient at the weights themselves is computed first.
    """

    NEEDS_GRADIENT: ClassVar[bool] = False

    def count_draws(self) -> int:
        """Count the places at which the forget gradient is computed."""
        return 1

    def move(self, surroundings: Surroundings) -> Iterator["Tensor"]:
        """Yield what is added to each parameter for one place; called once a place."""
        raise NotImplementedError


@perturbation(
    "SAM",
    paper="arXiv:2502.05374",
    cost="2 forget passes in place of 1; a copy of the weights that train",
    evidence="verified against the authors' code",
)
@dataclass
class SAM(WeightPerturbation):
    """The forget gradient at theta + rho g_f / |g_f|, g_f that of the whole step, all trained
    parameters one vector."""

    NEEDS_GRADIENT: ClassVar[bool] = True

    rho: float = field(
        default=0.01, metadata={"help": "how far the weights are moved, in L2 over all of them"}
    )

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise UserError(f"rho must not be negative, got {self.rho}")

    def move(self, surroundings: Surroundings) -> Iterator["Tensor"]:
        gradient = surroundings.gradient
        length = surroundings.dots(gradient, gradient).sum().sqrt()
        scale = self.rho / length.clamp(min=TINY)
        for g in gradient:
            yield g * scale.to(g.dtype)


@perturbation(
    "RandomSmoothing",
    paper="arXiv:2502.05374",
    cost="n forget passes in place of 1, one without gradient; a copy of the weights that train",
    evidence="verified against the authors' code",
)
@dataclass
class RandomSmoothing(WeightPerturbation):
    """The mean of the forget gradients at n places theta + sigma xi, xi standard normal, new in
    every step."""

    sigma: float = field(
        default=1e-4, metadata={"help": "standard deviation of what is added to each weight"}
    )
    n: int = field(default=3, metadata={"help": "places that the mean is over"})

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise UserError(f"sigma must not be negative, got {self.sigma}")
        if self.n < 1:
            raise UserError(f"n must be 1 or more, got {self.n}")

    def count_draws(self) -> int:
        return self.n

    def move(self, surroundings: Surroundings) -> Iterator["Tensor"]:
        for noise in surroundings.draw_noise():
            yield self.sigma * noise


@perturbation(
    "LAT",
    paper="arXiv:2407.15549",
    cost="1 forget pass, one without gradient, and `steps` with a gradient in activations alone",
    evidence="the adversary verified against the authors' code, the loop from the paper",
)
@dataclass
class LAT(Perturbation):
    """The forget gradient while an adversary's vectors are added to a module's output at the prompt
    tokens of the forget rows.

    Each prompt token has a vector of its own, 0 at first. `steps` AdamW steps lower the adversary's
    loss; after each, every vector is shortened to a length of at most epsilon. Then the vectors are
    held fixed. `toward` is the mean of CE over the answers to forget; `away` the mean of
    -log(1 - p) over the tokens of the rows' other answers, 0 where log p < -5; `both` the mean of
    the two.
    """

    DIFFERENTIATES_ACTIVATIONS: ClassVar[bool] = True

    module: str = field(
        default=f"{DEFAULT_LAYER}.{MLP}",
        metadata={"help": "the module whose output is moved: layers.7.mlp, or a regex of its name"},
    )
    epsilon: float = field(default=2.0, metadata={"help": "greatest length of a vector"})
    steps: int = 16
    lr: float = field(default=0.05, metadata={"help": "the adversary's learning rate"})
    weight_decay: float = 0.01
    direction: Literal["toward", "away", "both"] = field(
        default="toward",
        metadata={
            "help": "towards the answers to forget, away from the other answers of the rows, or "
            "both; the last two need a method that reads other answers"
        },
    )

    def __post_init__(self) -> None:
        for name in ("epsilon", "lr", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.steps < 1:
            raise UserError(f"steps must be 1 or more, got {self.steps}")

    def find_fault(self, method: Method) -> str:
        assert isinstance(method, TwoSided)
        for stream in self.wants():
            if stream not in method.forget_streams():
                has = ", ".join(method.forget_streams())
                return (
                    f"direction={self.direction} needs the stream {stream} on the forget side, and "
                    f"the method has {has} there"
                )
        return ""

    def wants(self) -> dict[str, OutputSpec]:
        """Say what the adversary's pass should yield, by stream."""
        wants = {}
        if self.direction != "away":
            wants["forget"] = OutputSpec()
        if self.direction != "toward":
            wants[ALTERNATE] = OutputSpec(fn=unlikelihood)
        return wants

    def terms(self, policy: dict[str, TokenOutputs]) -> list[Term]:
        """Build the terms of the adversary's loss for one micro-batch."""
        factor = 1 / len(self.wants())
        terms = []
        if "forget" in policy:
            terms.append(cross_entropy("toward", "forget", policy["forget"], factor))
        if ALTERNATE in policy:
            terms.append(Term("away", policy[ALTERNATE].value, f"{ALTERNATE}.tokens", factor))
        return terms


def unlikelihood(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """-log(1 - p(label)), 0 where log p(label) < -5: [n, V], [n] -> [n]."""
    label = labels.unsqueeze(-1)
    total = logits.logsumexp(-1)
    log_p = logits.gather(-1, label).squeeze(-1) - total
    log_rest = logits.scatter(-1, label, float("-inf")).logsumexp(-1) - total
    return torch.where(log_p < UNINFORMATIVE, 0.0, -log_rest)
