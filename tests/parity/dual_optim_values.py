"""Two sets of moments over the same parameters: the block `dual_optim`, gradients in and the
parameter after each update out."""

from typing import Any

import torch
from comparison import Compared, Outcomes, Reference, find_difference

from unteach.training.dual_adamw import DualAdamW

TOLERANCE = 1e-6


def compare_dual_optim(reference: Reference, block: dict[str, Any]) -> Outcomes:
    inputs = block["inputs"]
    parameter = torch.nn.Parameter(torch.tensor(inputs["start"]))
    optimizer = DualAdamW(
        [parameter],
        inputs["forget_lr"] / inputs["lr"],
        lr=inputs["lr"],
        betas=tuple(inputs["betas"]),
        eps=inputs["eps"],
        weight_decay=inputs["weight_decay"],
    )
    cycle = inputs["forget_every"] + inputs["retain_every"]
    pairs = zip(inputs["grads"], block["results"], strict=True)
    for number, (gradient, expected) in enumerate(pairs):
        optimizer.side = "forget" if number % cycle < inputs["forget_every"] else "retain"
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        difference = find_difference(parameter.detach(), expected)
        yield Compared(f"update {number} ({optimizer.side})", difference, TOLERANCE)
