"""LUNAR: lead what is asked of the forget rows to where the model refuses to answer."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unteach.config.schema import REFUSAL
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.edit.activations import (
    PromptStatistics,
    compute_statistics,
    refuse_no_prompts,
)
from unteach.methods.edit.base import Edit, EditContext, Numbers, Weights
from unteach.models.layer_names import find_layer
from unteach.models.layers import read_two_tokens, refuse_no_states
from unteach.models.loading import LoadedModel
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

MODULE = "down_proj"
TARGETS = ("layers.71.875%",)
"""Layer 22 of the 32 of Llama-3-8B, and the one at the same depth of any model."""
ARRIVAL_TOLERANCE = 0.05
"""How much of what is added to the module may be lost on the way to the layer's output: what
half precision rounds away is ten times less."""


@dataclass(frozen=True)
class Shift:
    """The least-squares problem of one layer: W x = W0 x + t for inputs x of forget tokens, and
    W x = W0 x for those of retain tokens.

    Attributes:
        target: t = c d: [outputs].
        gram: sum of x x' over all tokens: [inputs, inputs].
        forget_sum: sum of x over the forget tokens: [inputs].
        num_tokens: all tokens.
        num_forget: forget tokens.
    """

    target: "Tensor"
    gram: "Tensor"
    forget_sum: "Tensor"
    num_tokens: int
    num_forget: int

    @classmethod
    def build(cls, target: "Tensor", forget: PromptStatistics, retain: PromptStatistics) -> "Shift":
        """Build it of the sums over both streams."""
        return cls(
            target=target,
            gram=forget.gram + retain.gram,
            forget_sum=forget.input_sum,
            num_tokens=forget.num_tokens + retain.num_tokens,
            num_forget=forget.num_tokens,
        )

    def loss(self, change: "Tensor") -> "Tensor":
        """Compute the mean over tokens and outputs of |W x - (W0 x + t [x of a forget row])|^2.

        Args:
            change: W - W0: [outputs, inputs], in fp64.
        """
        squares = (change @ self.gram * change).sum()
        products = self.target @ change @ self.forget_sum
        wanted = self.num_forget * self.target.square().sum()
        return (squares - 2 * products + wanted) / (self.num_tokens * len(self.target))

    def solve(self, ridge_lambda: float) -> "Tensor":
        """Solve for a = (X'X + lambda I)^-1 sum x_f: W = W0 + t a' minimises the sum of squares
        plus lambda |W - W0|^2. [inputs]

        Raises:
            UserError: lambda is so small that fp64 finds no inverse.
        """
        diagonal = ridge_lambda * torch.eye(
            len(self.gram), dtype=self.gram.dtype, device=self.gram.device
        )
        factor, failed = torch.linalg.cholesky_ex(self.gram + diagonal)
        if bool(failed):
            raise UserError(
                f"trainer.method_args.ridge_lambda={ridge_lambda:g}: beside the inputs of this "
                f"layer (the sum of their squares is {float(self.gram.trace()):.3g}) it is too "
                "small to be exact in fp64, and nothing was edited; take a larger one"
            )
        return torch.cholesky_solve(self.forget_sum[:, None], factor)[:, 0]


@method(
    "LUNAR",
    paper="arXiv:2502.07218",
    cost="1 forward up to the layer over the questions of forget, retain and refusal rows; 1 solve",
    reference="none",
    evidence="verified against the authors' code; the exact solution in place of their AdamW",
    license="MIT",
)
@dataclass
class LUNAR(Edit):
    """Shifts the states of forget questions by c d, towards those of prompts that the model
    refuses: W + c d a', a = (X'X + lambda I)^-1 sum x_f, W the down projection of a layer.

    d is the mean of the layer's states at the last token of the prompts of data.refusal, less that
    of the forget questions; X is what W gets at every token of the forget and the retain questions,
    x_f that at the forget tokens. It is the exact solution of the authors' regression, with a ridge
    lambda. Each of several layers is solved for in the untouched model.
    """

    coeff: float = field(default=2.0, metadata={"help": "c, how far along d"})
    ridge_lambda: float = field(
        default=1.0,
        metadata={
            "help": "lambda, above 0: how much W is held where the questions say little of it; the "
            "fewer they are, the larger"
        },
    )
    target_layers: tuple[str, ...] = field(
        default=TARGETS, metadata={"help": "the layers whose down_proj is edited"}
    )

    def __post_init__(self) -> None:
        if not self.target_layers:
            raise UserError("target_layers names no layer; leave it out for the default")
        if self.ridge_lambda <= 0:
            raise UserError(f"ridge_lambda must be above 0, got {self.ridge_lambda:g}")

    def streams(self) -> tuple[str, ...]:
        return ("forget", "retain", REFUSAL)

    def refuse_rows(self, streams: dict[str, Stream]) -> None:
        for stream in streams.values():
            refuse_no_prompts(stream)

    def refuse_model(self, loaded: LoadedModel) -> None:
        for layer_name, module in self.find_modules(loaded.model).items():
            pattern = re.escape(layer_name)
            refuse_no_states(loaded.model, [pattern])
            lost = measure_loss_on_the_way(loaded.model, pattern, module)
            if not lost <= ARRIVAL_TOLERANCE:  # NaN too
                raise UserError(
                    f"{type(loaded.model).__name__}: what {layer_name}.{MODULE} gives is not added "
                    "to the layer's states as it is (a norm or a factor stands behind it), so that "
                    "LUNAR cannot shift them by it; take RepSelect, or a method that trains"
                )

    def find_modules(self, model: "PreTrainedModel") -> "dict[str, Module]":
        """Find the down projections that are edited, by the names of their layers
        in this model."""
        modules = {}
        for pattern in self.target_layers:
            address = find_layer(model, pattern)
            layer = address.layers[address.index]
            modules[address.name] = _find_down_projection(layer, address.name)
        return modules

    def find_weights(self, model: "PreTrainedModel") -> Weights:
        names = {module: name for name, module in model.named_modules()}
        weights: dict[str, Any] = {}
        for module in self.find_modules(model).values():
            weights[f"{names[module]}.weight"] = module.weight
        return weights

    def estimate_memory(self, model: "PreTrainedModel") -> dict[str, float]:
        largest = max(weight.shape[1] for weight in self.find_weights(model).values())
        # Sums of two streams, that of both and its factor, in fp64.
        return {"sums over inputs": 8.0 * 5 * largest**2}

    def build_shift(self, context: EditContext, layer_name: str, module: "Module") -> Shift:
        """Build the problem of one layer from passes over the three streams."""
        layer = re.escape(layer_name)
        sums = {}
        for stream_name in self.streams():
            sums[stream_name] = compute_statistics(context, stream_name, layer, module)
        direction = sums[REFUSAL].mean_state - sums["forget"].mean_state  # [d]
        return Shift.build(self.coeff * direction, sums["forget"], sums["retain"])

    def edit(self, context: EditContext) -> Numbers:
        modules = self.find_modules(context.model)
        # All are solved for before any is changed: a layer's inputs are those of the untouched
        # model.
        changes: dict[str, Tensor] = {}
        numbers: Numbers = {}
        for layer_name, module in modules.items():
            shift = self.build_shift(context, layer_name, module)
            change = torch.outer(shift.target, shift.solve(self.ridge_lambda))  # [d, inputs]
            changes[layer_name] = change.float()
            weight: Any = module.weight
            prefix = f"{layer_name}: " if len(modules) > 1 else ""
            numbers[f"{prefix}shift"] = float(shift.target.norm())
            numbers[f"{prefix}loss_before"] = float(shift.loss(torch.zeros_like(change)))
            numbers[f"{prefix}loss_after"] = float(shift.loss(change))
            numbers[f"{prefix}weight_change"] = float(change.norm())
            numbers[f"{prefix}weight_norm"] = float(weight.double().norm())
            if change.norm() > weight.double().norm():
                context.report(
                    f"LUNAR changes {layer_name}.{MODULE} by more than its own length "
                    f"({float(change.norm()):.3g}): the questions say too little of it to leave "
                    "the rest alone; take a larger ridge_lambda, a smaller coeff or more rows"
                )
        with torch.no_grad():
            for layer_name, change in changes.items():
                weight = modules[layer_name].weight
                weight.copy_(weight.float() + change)
        return numbers


def _find_down_projection(layer: "Module", layer_name: str) -> "Module":
    """Find the one linear layer called down_proj in a layer of the model.

    Raises:
        UserError: there is none, or experts have theirs.
    """
    experts = [name for name, _ in layer.named_parameters() if "expert" in name]
    if experts:
        raise UserError(
            f"{layer_name}.{experts[0]}: the layer is a mixture of experts, whose outputs are "
            f"weighed and added; LUNAR edits the one {MODULE} of a layer, and no mixture"
        )
    linear = []
    for name, module in layer.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D"):
            linear.append(name)
        if name.rpartition(".")[2] == MODULE and isinstance(module, torch.nn.Linear):
            return module
    raise UserError(
        f"{layer_name} has no linear layer {MODULE}, which LUNAR edits; it has {', '.join(linear)}"
    )


def measure_loss_on_the_way(model: "PreTrainedModel", pattern: str, module: "Module") -> float:
    """Measure which part of what is added to a module's output does not arrive in its layer's
    states: 0 where it is added to them as it is. On the meta device, and where FlashAttention
    would run on a CPU, nothing is known, and that is 0 too.

    Args:
        pattern: the layer, a regex of its name.
    """
    address = find_layer(model, pattern)
    layer = address.layers[address.index]
    weight: Any = module.weight
    kernel = str(getattr(model.config.get_text_config(), "_attn_implementation", ""))
    if weight.is_meta or ("flash" in kernel and weight.device.type == "cpu"):
        return 0.0
    added: list[Tensor] = []
    states: list[Tensor] = []

    def record(_: "Module", args: object, output: "Tensor | tuple[Tensor, ...]") -> None:
        states.append(output[0] if isinstance(output, tuple | list) else output)

    def add(_: "Module", args: object, output: "Tensor") -> "Tensor":
        # Far beyond the states, which may all be 0, so that rounding hides nothing; another value
        # for each output.
        largest = 10 * states[0].abs().max().clamp(min=1)
        steps = torch.linspace(-1, 1, output.shape[-1], device=output.device, dtype=output.dtype)
        added.append(largest * steps)
        return output + added[0]

    was_training = model.training
    model.eval()
    hooks = [layer.register_forward_hook(record)]
    try:
        with torch.no_grad():
            read_two_tokens(model)
            hooks.append(module.register_forward_hook(add))
            read_two_tokens(model)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    difference = states[1].double() - states[0].double() - added[0].double()
    return float(difference.norm(dim=-1).max() / added[0].double().norm())
