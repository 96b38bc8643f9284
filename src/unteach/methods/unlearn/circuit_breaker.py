"""Circuit breakers (representation rerouting): turn the states of what is forgotten away from where
they were, and hold those of everything else."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.methods.base import Context, StreamReference, Term, Unlearn
from unteach.methods.retain import Retain
from unteach.methods.terms import require_outputs
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.models.layer_names import ALL_LAYERS, EMBEDDING
from unteach.registry import method
from unteach.seeds import derive_seed
from unteach.wording import quote_value

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = ("layers.31.25%", "layers.62.5%")
"""Layers 9 and 19 of 32, the published ones, at the same depths of any model."""


@method(
    "CircuitBreaker",
    paper="arXiv:2406.04313",
    cost="forget and retain up to the highest target layer",
    reference="a frozen copy up to that layer; under an adapter the model without it",
    evidence="verified against the authors' code",
    license="MIT",
)
@dataclass
class CircuitBreaker(Unlearn):
    """L = gamma (1 - rho) mean_l relu cos(h_l, h_l,ref) on the forget rows + alpha rho mean_l
    |h_l - h_l,ref| on the retain rows, means over all real tokens, prompts too.

    rho = step / ramp_steps, steps counted from 1, at most 1; without ramp_steps both terms have
    their full weight. At the reference every gradient is 0, so in the first step the forget rows
    are compared with states moved by `nudge` of their length along a direction drawn from the seed.
    """

    gamma: float = field(default=10.0, metadata={"help": "weight of the forget term"})
    alpha: float = field(
        default=10.0, metadata={"help": "weight of the retain term; 0 makes no retain pass at all"}
    )
    retain_loss_type: Literal["STATES", "NLL", "KL", "EMBED_DIFF", "JS"] = field(  # type: ignore[assignment]
        default="STATES",
        metadata={"help": "what holds the retain rows; STATES: |h - h_ref| at retain_layers"},
    )
    target_layers: tuple[str, ...] = field(
        default=TARGETS, metadata={"help": "layers whose states of the forget rows are turned away"}
    )
    retain_layers: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "STATES: layers (embedding and last too) whose states are held; empty: the "
            "embedding and every layer up to the highest of target_layers"
        },
    )
    square_norm: bool = field(
        default=False, metadata={"help": "STATES: |h - h_ref|^2, as in a later paper's variant"}
    )
    ramp_steps: int | None = field(
        default=300,
        metadata={
            "help": "steps over which the weight goes from the forget to the retain term; null: "
            "both have theirs all the time"
        },
    )
    nudge: float = field(
        default=0.01,
        metadata={
            "help": "first step: how far the compared states are moved, in lengths; 0: not at all"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.target_layers:
            raise UserError("target_layers names no layer; leave it out for the default")
        if self.ramp_steps is not None and self.ramp_steps < 1:
            raise UserError(
                f"ramp_steps must be at least 1, got {quote_value(self.ramp_steps)}; null keeps "
                "both terms at their weight"
            )
        if self.nudge < 0:
            raise UserError(f"nudge must not be negative, got {self.nudge}")
        self._num_steps = 0
        self._direction: Tensor | None = None

    def prepare(self, context: Context) -> None:
        noise = torch.Generator().manual_seed(derive_seed(context.seed, "nudge"))
        direction = torch.randn(context.width, generator=noise)
        self._direction = direction / direction.norm()

    def layers(self) -> dict[str, str | tuple[str, ...]]:
        ends = {"forget": self.target_layers, **super().layers()}
        if self.alpha and self.retain_loss_type == "STATES":
            ends["retain"] = self.retain_layers or self.target_layers
        return ends

    def retain(self) -> Retain:
        if self.retain_loss_type != "STATES":
            return super().retain()
        if self.retain_layers:
            return HeldStates(self.retain_layers, (), self.square_norm)
        return HeldStates((EMBEDDING, ALL_LAYERS), self.target_layers, self.square_norm)

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        return build_states_spec(self.target_layers)

    def forget_reference(self) -> OutputSpec:
        return build_states_spec(self.target_layers)

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        cosines = []
        for name, target in require_outputs(reference).states.items():
            target = self._nudge(target.float())  # [N, d]
            cosine = F.cosine_similarity(policy.states[name].float(), target, dim=-1)
            cosines.append(cosine.relu())
        return Term("forget", torch.stack(cosines).mean(0), "forget.real_tokens")

    def _nudge(self, target: "Tensor") -> "Tensor":
        """Move states [N, d] a little, in the first step alone."""
        if self._num_steps or not self.nudge:
            return target
        assert self._direction is not None, "prepare() draws it"
        lengths = target.norm(dim=-1, keepdim=True)
        return target + self.nudge * lengths * self._direction.to(target.device)

    def _compute_ramp(self) -> float:
        """Compute rho, how much of the weight the retain term has in this step."""
        assert self.ramp_steps is not None
        return min(1.0, (self._num_steps + 1) / self.ramp_steps)

    def forget_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        (term,) = super().forget_terms(policy, reference)
        if self.ramp_steps is not None:
            term.factor = self.gamma * (1 - self._compute_ramp())
        return [term]

    def retain_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        (term,) = super().retain_terms(policy, reference)
        if self.ramp_steps is not None:
            term.factor = self.alpha * self._compute_ramp()
        return [term]

    def after_step(self, terms: dict[str, float], epoch: float) -> None:
        self._num_steps += 1

    def state(self) -> dict[str, Any]:
        return {"num_steps": self._num_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        self._num_steps = state["num_steps"]


@dataclass(frozen=True)
class HeldStates:
    """mean_l |h_l - h_l,ref| over several modules, the mean over all real tokens."""

    modules: tuple[str, ...]
    until: tuple[str, ...] = ()
    square_norm: bool = False
    layer = None

    def reference(self) -> OutputSpec:
        return build_states_spec(self.modules, self.until)

    def want(self, reference: StreamReference) -> OutputSpec:
        return build_states_spec(self.modules, self.until)

    def term(self, outputs: TokenOutputs, reference: StreamReference) -> Term:
        distances = []
        for name, target in require_outputs(reference).states.items():
            distance = (outputs.states[name].float() - target.float()).norm(dim=-1)  # [N]
            distances.append(distance.square() if self.square_norm else distance)
        return Term("retain", torch.stack(distances).mean(0), "retain.real_tokens")


def build_states_spec(modules: tuple[str, ...], until: tuple[str, ...] = ()) -> OutputSpec:
    """Ask for the outputs of several modules at all real tokens."""
    return OutputSpec(fn=None, positions="real", modules=modules, until=until)
