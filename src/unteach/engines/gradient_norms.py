"""Norms of the gradient of an answer's loss, whichever weights are being trained."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from unteach.errors import UserError
from unteach.lazy import torch
from unteach.models.decoding import get_decoding

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import PreTrainedModel


def compute_mean_norm(loss: "Tensor", weights: "list[Parameter]", p: float) -> "Tensor":
    """Compute the mean over parameter tensors of |grad loss|_p, a scalar; no `.grad` is touched."""
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    norms = []
    for grad in grads:
        if grad is not None:
            norms.append(grad.float().norm(p))
    return torch.stack(norms).mean()


def refuse_two_models(model: "PreTrainedModel") -> None:
    """Raise UserError where there is not one model whose weights a gradient is of."""
    if get_decoding(model):
        raise UserError(
            "gradient norms (mia_gradnorm) are of the weights of one model, and this one forgets "
            "in its decoding, which combines two; leave the metric out"
        )


@contextlib.contextmanager
def requiring_grad(model: "PreTrainedModel") -> "Iterator[list[Parameter]]":
    """Have all parameters require a gradient meanwhile, whether or not they are being trained."""
    weights = []
    before = []
    for weight in model.parameters():
        if weight.is_floating_point():
            weights.append(weight)
            before.append(weight.requires_grad)
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield weights
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
