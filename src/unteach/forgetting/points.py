"""The model between the one before and the landed one, or a little past it: where the same method
lands on another budget."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unteach.config.schema import PATH, ModelConfig
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.models import loading
from unteach.models.lora import FACTOR
from unteach.training.save import save_final_model

if TYPE_CHECKING:
    from torch.nn import Parameter

DORA = "lora_magnitude_vector"


@dataclass(frozen=True)
class Point:
    """Where a method lands on a budget.

    Attributes:
        budget: KL(before || now) that was aimed at, in nats a token.
        kl: that it comes to.
        share: how far it is from the model before, where the landed one is at 1.
    """

    budget: float
    kl: float
    share: float


def write_point(before: ModelConfig, landed: Path, point: Point, to: Path) -> None:
    """Write the model theta_0 + share (theta - theta_0) as a folder, whole or not at all.

    A fresh LoRA began at B = 0 and is moved by its scale, as the landing moved it.

    Args:
        before: the model whose weights are theta_0.
        landed: the folder of the model whose weights are theta.

    Raises:
        UserError: what was trained is a fresh DoRA, whose beginning is not kept.
    """
    start = loading.load(before, training=False)
    path = str(landed)
    end = loading.load(replace(before, model_args={**before.model_args, PATH: path}), False)
    begun = {} if end.adapter and not start.adapter else dict(start.model.named_parameters())
    for name, weight in end.model.named_parameters():
        if not begun and DORA in name:
            raise UserError("a fresh DoRA cannot be moved along its path once it is trained")
        _move(name, weight, begun.get(name), point.share)
    save_final_model(end.model, end, to, method=None)


def _move(name: str, weight: "Parameter", start: "Parameter | None", share: float) -> None:
    """Move a weight along its path, in fp32; one that did not change stays as it is."""
    factor = FACTOR.fullmatch(name)
    with torch.no_grad():
        if start is not None and weight.is_floating_point():
            first = start.to(torch.float32)
            weight.copy_(first + share * (weight.to(torch.float32) - first))
        elif start is None and factor and factor[3] == "B":
            weight.mul_(share)
