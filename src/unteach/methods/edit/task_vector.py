"""Task negation: step back from what fine-tuning on the rows to forget would add."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.edit.base import Edit, EditContext, Numbers, Weights
from unteach.models.layers import unwrap_model
from unteach.models.loading import LoadedModel
from unteach.models.lora import find_lora_pairs, refuse_other_adapters
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@method(
    "TaskVector",
    paper="arXiv:2212.04089",
    cost="no pass; two models are read",
    reference="a model taught the forget rows, and what it was before",
    evidence="verified against the code of MUSE",
)
@dataclass
class TaskVector(Edit):
    """theta - alpha (theta_finetuned - theta_pretrained), in fp32 and rounded once.

    Where the run's model is an adapter that was trained on the forget rows, the adapter itself is
    negated: it gets the scale -alpha over the same base.
    """

    ON_ADAPTERS: ClassVar[bool] = True

    alpha: float = field(default=1.0, metadata={"help": "how far to step back"})
    finetuned: str | None = field(
        default=None,
        metadata={
            "help": "the model taught the forget rows: a run, a folder or a hub id, whole or an "
            "adapter; null: the adapter of the run's own model"
        },
    )
    pretrained: str | None = field(
        default=None,
        metadata={"help": "what that one was before; null: the run's own model"},
    )

    def refuse_model(self, loaded: LoadedModel) -> None:
        if loaded.adapter is None:
            if self.finetuned is None:
                raise UserError(
                    "trainer.method_args.finetuned: name the model that was taught the forget rows "
                    "(a run's folder), or take an adapter that was, model=FOLDER"
                )
            return
        if self.finetuned or self.pretrained:
            raise UserError(
                "trainer.method_args.finetuned: the run's model is an adapter, which is negated "
                "itself; leave finetuned and pretrained out, or merge the adapter first (`unteach "
                "export`)"
            )
        if not loaded.adapter:
            raise UserError(
                "model.peft_args: a fresh adapter adds nothing that could be negated; take one "
                "that was trained on the forget rows, model=FOLDER"
            )
        refuse_other_adapters(loaded.model, "is negated by its scale")

    def find_weights(self, model: "PreTrainedModel") -> Weights:
        if hasattr(model, "peft_config"):
            return {pair.b_name: pair.b for pair in find_lora_pairs(model)}
        weights = {}
        for name, weight in model.named_parameters():
            if weight.is_floating_point():
                weights[name] = weight
        return weights

    def other_models(self) -> dict[str, str]:
        named = {"finetuned": self.finetuned, "pretrained": self.pretrained}
        return {name: path for name, path in named.items() if path is not None}

    def edit(self, context: EditContext) -> Numbers:
        weights = self.find_weights(context.model)
        if self.finetuned is None:
            with torch.no_grad():
                for weight in weights.values():
                    weight.mul_(-self.alpha)
            return {"negated_weights": len(weights)}

        finetuned = context.load_weights(self.finetuned)
        if self.pretrained is None:
            pretrained: dict[str, Tensor] = {
                name: weight.detach().float().cpu() for name, weight in weights.items()
            }
        else:
            pretrained = context.load_weights(self.pretrained)
        squared_norm = 0.0
        for name, weight in weights.items():
            direction = _subtract(name, weight, finetuned, pretrained)
            squared_norm += float(direction.double().square().sum())
            moved = weight.detach().float().cpu() - self.alpha * direction
            with torch.no_grad():
                weight.copy_(moved)
        if squared_norm == 0:
            raise UserError(
                "trainer.method_args.finetuned: has the same weights as the model before it was "
                "taught, so there is nothing to step back from"
            )
        return {"vector_norm": squared_norm**0.5}

    def estimate_memory(self, model: "PreTrainedModel") -> dict[str, float]:
        if self.finetuned is None:
            return {}
        num_weights = sum(weight.numel() for weight in unwrap_model(model).parameters())
        return {"two models in memory": 8.0 * num_weights}


def _subtract(
    name: str,
    weight: "Tensor",
    finetuned: "dict[str, Tensor]",
    pretrained: "dict[str, Tensor]",
) -> "Tensor":
    """finetuned - pretrained of one weight, in fp32 on the CPU."""
    for field_name, weights in (("finetuned", finetuned), ("pretrained", pretrained)):
        other = weights.get(name)
        if other is None or other.shape != weight.shape:
            has = "no such weight" if other is None else f"one of {tuple(other.shape)}"
            raise UserError(
                f"trainer.method_args.{field_name}: the run's model has a weight {name} of "
                f"{tuple(weight.shape)}, and this one has {has}; both must be of one architecture "
                "and vocabulary"
            )
    return finetuned[name] - pretrained[name]
