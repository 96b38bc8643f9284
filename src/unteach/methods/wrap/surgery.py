"""Gradient surgery: one gradient from that of the forget term and that of the retain term.

Both are of a whole optimiser step, summed over its micro-batches and processes, for none of these
rules but `add` is linear. They are lists of tensors, one a parameter, a tied weight once. A rule
yields one combined tensor after the other, so that a caller who puts each in its place holds no
third copy; what is global is computed before the first of them. `dot` is the inner product of two
lists; where tensors are sharded, it is one that is summed over the shards.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Gradients = Sequence["Tensor"]
Dot = Callable[[Gradients, Gradients], "Tensor"]
TINY = 1e-10
"""Keeps a gradient of length 0 from being divided by."""


def dot_product(a: Gradients, b: Gradients) -> "Tensor":
    """The inner product of two lists of tensors as one vector each, in fp32 at least."""
    parts = [_at_least_fp32(x).flatten() @ _at_least_fp32(y).flatten() for x, y in _pairs(a, b)]
    return torch.stack(parts).sum()


def add(forget: Gradients, retain: Gradients, gamma: float, alpha: float) -> Iterator["Tensor"]:
    """gamma g_f + alpha g_r: no surgery."""
    for f, r in _pairs(forget, retain):
        yield gamma * f + alpha * r


def pcgrad(
    forget: Gradients,
    retain: Gradients,
    gamma: float,
    alpha: float,
    per: Literal["tensor", "global"] = "tensor",
    dot: Dot = dot_product,
) -> Iterator["Tensor"]:
    """gamma (g_f - min(0, <g_f, g_r>) / |g_r|^2 g_r) + alpha g_r (arXiv:2001.06782).

    What of g_f points against g_r is taken out of it, in each tensor by itself or in all as one
    vector. Without conflict it is `add`.
    """
    if per == "global":
        share = _conflict(forget, retain, dot)
    for f, r in _pairs(forget, retain):
        if per == "tensor":
            share = _conflict([f], [r], dot)
        yield gamma * (f - share.to(f.dtype) * r) + alpha * r


def sago(forget: Gradients, retain: Gradients, gamma: float, alpha: float) -> Iterator["Tensor"]:
    """Elementwise alpha g_r where the signs are opposed, else gamma g_f (arXiv:2604.14808)."""
    for f, r in _pairs(forget, retain):
        yield torch.where(f * r < 0, alpha * r, gamma * f)


def sago_prefer_retain(
    forget: Gradients, retain: Gradients, gamma: float, alpha: float
) -> Iterator["Tensor"]:
    """Elementwise alpha g_r where the signs are opposed, else gamma g_f + alpha g_r."""
    for f, r in _pairs(forget, retain):
        yield torch.where(f * r < 0, alpha * r, gamma * f + alpha * r)


def blur(
    forget: Gradients, retain: Gradients, gamma: float, alpha: float, dot: Dot = dot_product
) -> Iterator["Tensor"]:
    """gamma g_f + alpha (g_r - <g_r, g_f> / |g_f|^2 g_f), whether they conflict or not
    (arXiv:2506.08164)."""
    share = dot(retain, forget) / dot(forget, forget).clamp(min=TINY)
    for f, r in _pairs(forget, retain):
        yield gamma * f + alpha * (r - share.to(f.dtype) * f)


def average_retain(
    retain: Gradients, average: Gradients | None, momentum: float
) -> Iterator["Tensor"]:
    """GRU's memory of retain gradients: momentum g_r + (1 - momentum) of what it was, 0 at
    first."""
    for i, r in enumerate(retain):
        before = torch.zeros_like(r) if average is None else average[i]
        yield momentum * r + (1 - momentum) * before


def gru(
    forget: Gradients,
    retain: Gradients,
    average: Gradients,
    ce_coeff: float = 0.0,
    cos_clip: float | None = None,
    dot: Dot = dot_product,
) -> Iterator["Tensor"]:
    """g_f - |g_f| min(0, c) / |m| m + ce_coeff g_r, c = cos(g_f, m) (arXiv:2503.09117).

    average: m, the memory of retain gradients that has this step's. cos_clip: c is no lower.
    Without conflict nothing is taken out of g_f.
    """
    forget_norm, average_norm = _norm(forget, dot), _norm(average, dot)
    cosine = dot(forget, average) / (forget_norm * average_norm).clamp(min=TINY)
    conflict = cosine.clamp(min=-1.0 if cos_clip is None else cos_clip, max=0.0)
    share = forget_norm * conflict / average_norm.clamp(min=TINY)
    for f, r, m in zip(forget, retain, average, strict=True):
        yield f - share.to(f.dtype) * m + ce_coeff * r


def ngdiff(forget: Gradients, retain: Gradients, dot: Dot = dot_product) -> Iterator["Tensor"]:
    """g_f / |g_f| + g_r / |g_r|: both as long, at the same angle to the result (arXiv:2410.22086).

    No weights: a factor of either gradient changes nothing.
    """
    forget_norm, retain_norm = (_norm(side, dot).clamp(min=TINY) for side in (forget, retain))
    for f, r in _pairs(forget, retain):
        yield f / forget_norm.to(f.dtype) + r / retain_norm.to(r.dtype)


def _conflict(forget: Gradients, retain: Gradients, dot: Dot) -> "Tensor":
    """How much of g_r is in g_f where they point against each other: min(0, <g_f, g_r>) /
    |g_r|^2."""
    return dot(forget, retain).clamp(max=0) / (dot(retain, retain) + TINY)


def _norm(gradients: Gradients, dot: Dot) -> "Tensor":
    return dot(gradients, gradients).sqrt()


def _pairs(a: Gradients, b: Gradients) -> Iterator[tuple["Tensor", "Tensor"]]:
    return zip(a, b, strict=True)


def _at_least_fp32(tensor: "Tensor") -> "Tensor":
    return tensor.float() if tensor.element_size() < 4 else tensor
