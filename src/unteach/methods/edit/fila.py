"""FILA: a LoRA that begins where a weight matters more to the rows to forget than to those to keep.

Source: arXiv:2408.06621. From W and the Fisher information F_f, F_r of its entries over both kinds
of rows: I = F_f / (1e-5 + F_r), w_i = sqrt(sum_j I_ij) of each row, U S V' the best approximation
of rank r of diag(w) W, A = sqrt(S/s) V', B = diag(1/(w + 1e-5)) U sqrt(S/s), s the LoRA's scaling.
The paper trains A and B over W - s B A. Here W stays, and the adapter has twice the rank:
W + s [B', -B] [A'; A] is the same sum. Its first half trains from A and B, its second stays as it
began, so that what is saved is a LoRA over the untouched weights.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.methods.edit.row_gradients import (
    RowGradients,
    Weights,
    build_zeros,
    divide_by_tokens,
)
from unteach.methods.edit.spectral import find_directions
from unteach.models.lora import LoraPair

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-5
KEY = "model.peft_args.init_lora_weights=fila"


def compute_fisher(rows: RowGradients, stream_name: str, weights: Weights) -> "dict[str, Tensor]":
    """Compute the Fisher information of each entry over the rows of a stream, in fp32.

    F = (sum_b n_b g_b^2) / (sum_b n_b), b a single row, g_b the gradient of its CE, n_b its answer
    tokens.
    """
    totals = build_zeros(weights)
    num_tokens = 0
    for gradients, num_in_row in rows.iterate_gradients(stream_name, weights, batch_size=1):
        num_tokens += num_in_row
        for name, gradient in gradients.items():
            totals[name] += num_in_row * gradient.square()
    return divide_by_tokens(totals, num_tokens, stream_name)


def factorize(
    weight: "Tensor", fisher_forget: "Tensor", fisher_retain: "Tensor", rank: int, scaling: float
) -> "tuple[Tensor, Tensor]":
    """Compute A [r, n] and B [m, r] of a weight [m, n], in fp64.

    Singular values below the rounding of fp32 count as 0: A and B have nothing there.
    """
    importance = fisher_forget.double() / (EPSILON + fisher_retain.double())
    row_importance = importance.sum(1).sqrt()  # [m]
    found = find_directions(row_importance[:, None] * weight.double(), rank)
    roots = (found.values / scaling).sqrt()  # [q], q <= r
    a = roots[:, None] * found.inputs.T
    b = found.outputs * roots / (row_importance + EPSILON)[:, None]
    num_missing = rank - len(roots)
    return F.pad(a, (0, 0, 0, num_missing)), F.pad(b, (0, num_missing))


def fill(pair: LoraPair, a: "Tensor", b: "Tensor") -> None:
    """Fill both halves of a pair of twice the rank: together they add 0."""
    with torch.no_grad():
        pair.a.copy_(torch.cat([a, a]))
        pair.b.copy_(torch.cat([b, -b], 1))


class FrozenHalves:
    """Keeps the second half of each pair as it is while the first trains.

    The gradient of the second half is 0, so that norms and the optimiser see the first one alone.
    What an optimiser changes without a gradient, by weight decay, `restore` undoes.
    """

    def __init__(self, pairs: list[LoraPair]):
        self.pairs = pairs
        self._values: list[tuple[Tensor, Tensor]] = []
        for pair in pairs:
            pair.a.register_hook(_blank_rows)
            pair.b.register_hook(_blank_columns)

    def remember(self) -> None:
        """Remember the halves as they are now."""
        self._values = []
        for pair in self.pairs:
            rank = len(pair.a) // 2
            self._values.append((pair.a[rank:].detach().clone(), pair.b[:, rank:].detach().clone()))

    def restore(self) -> None:
        """Make the halves what they were when they were remembered."""
        with torch.no_grad():
            for pair, (a, b) in zip(self.pairs, self._values, strict=True):
                rank = len(pair.a) // 2
                pair.a[rank:] = a
                pair.b[:, rank:] = b


def _blank_rows(gradient: "Tensor") -> "Tensor":
    """Give the gradient of an A [2r, n] with 0 in its second half."""
    blanked = gradient.clone()
    blanked[len(gradient) // 2 :] = 0
    return blanked


def _blank_columns(gradient: "Tensor") -> "Tensor":
    """Give the gradient of a B [m, 2r] with 0 in its second half."""
    return _blank_rows(gradient.T).T


def refuse_modules(modules: "Mapping[str, Any]", rank: int) -> None:
    """Raise UserError where an adapted layer has no weight that can be factorised.

    Args:
        modules: PEFT's layers by name.
        rank: of the half that trains.
    """
    for name, module in modules.items():
        base = module.get_base_layer()
        if type(base) is not torch.nn.Linear:
            raise UserError(
                f"{KEY}: {name} is a {type(base).__name__}, and FILA factorises the weights of "
                "torch.nn.Linear, whole and not quantised; name other target_modules, or leave "
                "init_lora_weights out"
            )
        if rank > min(base.weight.shape):
            raise UserError(
                f"model.peft_args.r={rank}: the weight of {name} has {min(base.weight.shape)} "
                "singular values, and FILA takes r of them; take a smaller r"
            )
