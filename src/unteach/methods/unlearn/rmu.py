"""RMU: push the activations of what is forgotten to one fixed direction, and hold those of
everything else."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.base import Context, StreamReference, Term, Unlearn
from unteach.methods.retain import EmbedDiff, Retain, build_distance_term, build_layer_spec
from unteach.methods.terms import require_outputs
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.models.layer_names import DEFAULT_LAYER
from unteach.registry import method
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "RMU",
    paper="arXiv:2403.03218, adaptive: arXiv:2408.06223",
    cost="forget and retain up to the layer",
    reference="a frozen copy up to the layer",
)
@dataclass
class RMU(Unlearn):
    """L_forget = ||h_l - c u||^2 at layer l: mean over hidden size, each sequence's answer tokens,
    sequences.

    u is uniform noise of length 1, drawn once from the run's seed. c is steering_coeff; adaptive:
    beta ||h_l,ref|| at each token. rmu_norm=broadcast divides each sequence's sum by every
    sequence's length in turn, as published.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {
        **Unlearn.QUIRKS,
        "rmu_norm": "broadcast",
        "module_regex": "layers.7",
    }

    retain_loss_type: Literal["NLL", "KL", "EMBED_DIFF", "JS"] = "EMBED_DIFF"
    retain_layer: str = field(
        default="", metadata={"help": "EMBED_DIFF: a layer of its own; empty: module_regex"}
    )
    module_regex: str = field(
        default=DEFAULT_LAYER,
        metadata={"help": "the layer: layers.7, layers.25% of the depth, or a regex of its name"},
    )
    trainable_params_regex: list[str] = field(
        default_factory=lambda: [".*"],
        metadata={"help": "regexes of the names of the parameters that train"},
    )
    steering_coeff: float = 2.0
    adaptive: bool = False
    beta: float | None = field(
        default=None, metadata={"help": "adaptive: its coefficient; null: steering_coeff"}
    )
    rmu_norm: Literal["sequence", "broadcast"] = "sequence"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta is not None and not self.adaptive:
            raise UserError(
                "beta is the coefficient of adaptive=true; without it set steering_coeff"
            )
        self.control_vector: Tensor | None = None

    def prepare(self, context: Context) -> None:
        if self.control_vector is None:
            noise = torch.Generator().manual_seed(derive_seed(context.seed, "control vector"))
            self.control_vector = torch.rand(context.width, generator=noise)

    def trainable(self) -> list[str]:
        return self.trainable_params_regex

    def layers(self) -> dict[str, str | tuple[str, ...]]:
        return {"forget": self.module_regex, **super().layers()}

    def retain(self) -> Retain:
        if self.retain_loss_type == "EMBED_DIFF":
            return EmbedDiff(self.retain_layer or self.module_regex, self.rmu_norm == "broadcast")
        return super().retain()

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        return build_layer_spec(self.module_regex)

    def forget_reference(self) -> OutputSpec | None:
        return build_layer_spec(self.module_regex) if self.adaptive else None

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        assert self.control_vector is not None, "prepare() draws it"
        direction = self.control_vector.to(policy.value.device, copy=False).float().flatten()
        if self.adaptive:
            coefficient = self.steering_coeff if self.beta is None else self.beta
            hidden = require_outputs(reference).value  # [N, d]
            lengths = hidden.float().norm(dim=-1, keepdim=True)
            target = coefficient * lengths * direction / direction.norm()  # [N, d]
        else:
            target = self.steering_coeff * direction / direction.norm()  # [d]
        is_broadcast = self.rmu_norm == "broadcast"
        return build_distance_term("forget", "forget", policy, target, is_broadcast)

    def depends_on_micro_batches(self) -> str:
        if self.rmu_norm == "broadcast":
            return (
                "rmu_norm=broadcast divides by the lengths of the other sequences of the "
                "micro-batch"
            )
        return super().depends_on_micro_batches()

    def state(self) -> dict[str, Any]:
        if self.control_vector is None:
            return {}
        return {"control_vector": self.control_vector.flatten().tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.control_vector = torch.tensor(state["control_vector"])
