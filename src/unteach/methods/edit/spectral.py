"""Weaken the strongest directions of a gradient: what RepSelect leaves of it to edit with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

CollapseSide = Literal["act", "grad", "both"]
Kind = Literal["soft", "quadratic", "hard"]
POWERS: dict[str, int] = {"soft": 1, "quadratic": 2}


@dataclass(frozen=True)
class Directions:
    """The q strongest singular directions of a matrix [m, n], exactly.

    Attributes:
        values: S, falling: [q].
        inputs: V, on the side of the activations: [n, q].
        outputs: U, on the side of the gradients: [m, q].
    """

    values: "Tensor"
    inputs: "Tensor"
    outputs: "Tensor"


def find_directions(matrix: "Tensor", count: int) -> Directions:
    """Find the strongest singular directions: at most `count`, at most min(shape), and none beyond
    the numerical rank of an fp32 matrix, where there is only rounding.

    By the eigenvectors of the smaller Gram matrix in fp64, which are exact to fp32: squares of
    singular values that fp32 tells apart are told apart in fp64.
    """
    exact = matrix.double()
    is_tall = matrix.shape[0] >= matrix.shape[1]
    gram = exact.T @ exact if is_tall else exact @ exact.T  # [k, k], k = min(m, n)
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp(min=0).sqrt()
    rounding = torch.finfo(torch.float32).eps * max(matrix.shape) ** 0.5
    rank = int((values > rounding * values[0]).sum())
    q = min(count, rank)
    values, near = values[:q], vectors.flip(1)[:, :q]
    far = (exact @ near if is_tall else exact.T @ near) / values  # [m or n, q]
    inputs, outputs = (near, far) if is_tall else (far, near)
    return Directions(values, inputs, outputs)


def collapse(matrix: "Tensor", directions: Directions, side: CollapseSide, kind: Kind) -> "Tensor":
    """Weaken directions of a matrix [m, n] -> [m, n] in fp32.

    With k_i = S_i / S_q, each of them gets the factor 1/k_i (soft), 1/k_i^2 (quadratic) or 0 (hard)
    on the input side, on the output side, or on both one after the other. So of its own directions
    the component S_i becomes S_i / k_i^2 on both sides at once. `soft` with one direction changes
    nothing.
    """
    if not len(directions.values):
        return matrix.float()
    if kind == "hard":
        factor = torch.zeros_like(directions.values)
    else:
        factor = (directions.values[-1] / directions.values) ** POWERS[kind]
    exact = matrix.double()
    if side in ("act", "both"):
        v = directions.inputs
        exact = exact - ((exact @ v) * (1 - factor)) @ v.T
    if side in ("grad", "both"):
        u = directions.outputs
        exact = exact - (u * (1 - factor)) @ (u.T @ exact)
    return exact.float()
