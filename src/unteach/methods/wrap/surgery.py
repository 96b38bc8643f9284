"""Gradient surgery: one gradient from that of the forget terms and that of the retain terms.

Both are of a whole optimiser step, summed over its micro-batches and processes, for none of these
rules is linear. Each is of its terms with their factors (gamma, alpha): all rules but GRU's give
the same for gradients before the factors. They are lists of tensors, one a parameter, a tied weight
once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from unteach.errors import UserError
from unteach.lazy import torch
from unteach.registry import surgery

if TYPE_CHECKING:
    from torch import Tensor

Gradients = Sequence["Tensor"]
Dots = Callable[[Gradients, Gradients], "Tensor"]
"""The inner product of each tensor of one list with its partner in the other: [n], in fp32."""
BLOCK = 1 << 24
"""Entries that are multiplied at a time: 64 MiB in fp32."""
TINY = 1e-10
"""Keeps a gradient of length 0 from being divided by."""


def dot_products(a: Gradients, b: Gradients) -> "Tensor":
    """Compute the inner product of each pair of tensors, in fp32 at least: [n].

    Products are made and then summed, block by block: on a CPU torch's own `@` and `norm` add one
    after the other, and are wrong by 1 % in fp32 for a tensor of 10^8 entries.
    """
    products = []
    for x, y in zip(a, b, strict=True):
        sums = []
        for x_block, y_block in zip(
            x.flatten().split(BLOCK), y.flatten().split(BLOCK), strict=True
        ):
            sums.append((_at_least_fp32(x_block) * _at_least_fp32(y_block)).sum())
        products.append(torch.stack(sums).sum())
    return torch.stack(products)


class Surgery:
    """A rule that makes one gradient of two. Subclasses are dataclasses; their fields stand beside
    `name` in `trainer.surgery`.

    Attributes:
        MEMORIES: how many copies of the gradient it keeps from one step to the next, for the
            estimate of memory.
    """

    MEMORIES: ClassVar[int] = 0

    def combine(
        self, forget: Gradients, retain: Gradients, dots: Dots = dot_products
    ) -> Iterator["Tensor"]:
        """Yield one combined tensor after the other.

        The caller overwrites a tensor of `retain` as soon as it has the combined one, so that no
        third copy is held: what spans several tensors is computed before the first is yielded.

        Args:
            forget: the gradient of the forget side. Under FSDP2 it is this process's shards: what
                is elementwise may be done with them, and the rest with `dots`.
            retain: the gradient of the retain side, in the same form.
            dots: inner products of whole tensors, whatever the sharding.
        """
        raise NotImplementedError

    def has_memory(self) -> bool:
        """Say whether it remembers something from step to step."""
        return type(self).state is not Surgery.state

    def state(self) -> dict[str, Gradients]:
        """Give what it remembers, by name, each like the gradient; it goes into checkpoints."""
        return {}

    def load_state(self, state: dict[str, Gradients]) -> None:
        """Restore what `state` gave."""


@surgery(
    "pcgrad",
    paper="arXiv:2001.06782",
    cost="1 more copy of the gradient",
    evidence="verified against SAGO's code",
)
@dataclass
class PCGrad(Surgery):
    """g_f - min(0, <g_f, g_r>) / |g_r|^2 g_r + g_r: what of g_f points against g_r is taken out of
    it.

    Without conflict it is the plain sum.
    """

    per: Literal["tensor", "global"] = field(
        default="tensor",
        metadata={"help": "each tensor by itself, or all as one vector"},
    )

    def combine(
        self, forget: Gradients, retain: Gradients, dots: Dots = dot_products
    ) -> Iterator["Tensor"]:
        products, squares = dots(forget, retain), dots(retain, retain)
        if self.per == "global":
            products = products.sum().expand_as(products)
            squares = squares.sum().expand_as(squares)
        shares = products.clamp(max=0) / (squares + TINY)
        for f, r, share in zip(forget, retain, shares, strict=True):
            yield f - share.to(f.dtype) * r + r


@surgery(
    "sago",
    paper="arXiv:2604.14808",
    cost="1 more copy of the gradient",
    evidence="verified against the authors' code",
)
@dataclass
class SAGO(Surgery):
    """g_r in every element where the signs of g_f and g_r are opposed, g_f elsewhere."""

    def combine(
        self, forget: Gradients, retain: Gradients, dots: Dots = dot_products
    ) -> Iterator["Tensor"]:
        for f, r in zip(forget, retain, strict=True):
            yield torch.where(f.sign() * r.sign() < 0, r, f)


@surgery(
    "sago_prefer_retain",
    paper="arXiv:2604.14808",
    cost="1 more copy of the gradient",
    evidence="verified against the authors' code",
)
@dataclass
class SAGOPreferRetain(Surgery):
    """g_r in every element where the signs of g_f and g_r are opposed, g_f + g_r elsewhere."""

    def combine(
        self, forget: Gradients, retain: Gradients, dots: Dots = dot_products
    ) -> Iterator["Tensor"]:
        for f, r in zip(forget, retain, strict=True):
            yield torch.where(f.sign() * r.sign() < 0, r, f + r)


@surgery(
    "blur",
    paper="arXiv:2506.08164",
    cost="1 more copy of the gradient",
    evidence="verified against SAGO's code",
)
@dataclass
class BLUR(Surgery):
    """g_f + g_r - <g_r, g_f> / |g_f|^2 g_f: g_r keeps only what is orthogonal to g_f, whether they
    conflict or not."""

    def combine(
        self, forget: Gradients, retain: Gradients, dots: Dots = dot_products
    ) -> Iterator["Tensor"]:
        share = dots(retain, forget).sum() / dots(forget, forget).sum().clamp(min=TINY)
        for f, r in zip(forget, retain, strict=True):
            yield f + (r - share.to(f.dtype) * f)


@surgery(
    "gru",
    paper="arXiv:2503.09117",
    cost="2 more copies of the gradient, one of them in checkpoints",
    evidence="verified against the authors' code",
)
@dataclass
class GRU(Surgery):
    """g_f - |g_f| min(0, c) / |m| m + ce_coeff g_r, m a running mean of g_r and c = cos(g_f, m).

    m = momentum g_r + (1 - momentum) m_before, 0 before the first step. With ce_coeff 0 the retain
    rows only correct the forget gradient; 1 descends on them too.
    """

    MEMORIES: ClassVar[int] = 1

    momentum: float = field(default=0.8, metadata={"help": "weight of this step's g_r in m"})
    ce_coeff: float = field(
        default=0.0, metadata={"help": 'weight of g_r in the result; 1 is the paper\'s "gru+ce"'}
    )
    cos_clip: float | None = field(
        default=None, metadata={"help": "c is no lower than this, -0.5 in the authors' code"}
    )

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise UserError(f"momentum must be above 0 and at most 1, got {self.momentum}")
        if self.ce_coeff < 0:
            raise UserError(f"ce_coeff must not be negative, got {self.ce_coeff}")
        if self.cos_clip is not None and not -1 <= self.cos_clip <= 0:
            raise UserError(f"cos_clip must be from -1 to 0, got {self.cos_clip}")
        self._mean: list[Tensor] | None = None

    def combine(
        self, forget: Gradients, retain: Gradients, dots: Dots = dot_products
    ) -> Iterator["Tensor"]:
        mean = self._update_mean(retain)
        forget_norm, mean_norm = _norm(forget, dots), _norm(mean, dots)
        cosine = dots(forget, mean).sum() / (forget_norm * mean_norm).clamp(min=TINY)
        conflict = cosine.clamp(min=-1.0 if self.cos_clip is None else self.cos_clip, max=0.0)
        share = forget_norm * conflict / mean_norm.clamp(min=TINY)
        for f, r, m in zip(forget, retain, mean, strict=True):
            yield f - share.to(f.dtype) * m + self.ce_coeff * r

    def _update_mean(self, retain: Gradients) -> "list[Tensor]":
        if self._mean is None:
            self._mean = [torch.zeros_like(r) for r in retain]
        for m, r in zip(self._mean, retain, strict=True):
            m.mul_(1 - self.momentum).add_(r, alpha=self.momentum)
        return self._mean

    def state(self) -> dict[str, Gradients]:
        return {} if self._mean is None else {"mean": self._mean}

    def load_state(self, state: dict[str, Gradients]) -> None:
        self._mean = [tensor.clone() for tensor in state["mean"]] if "mean" in state else None


@surgery(
    "ngdiff",
    paper="arXiv:2410.22086",
    cost="1 more copy of the gradient",
    evidence="from the paper (its abstract); its learning rate of its own is left out",
)
@dataclass
class NGDiff(Surgery):
    """g_f / |g_f| + g_r / |g_r|: both as long, at the same angle to the result.

    gamma and alpha change nothing. The result is at most 2 long, whatever the loss.
    """

    def combine(
        self, forget: Gradients, retain: Gradients, dots: Dots = dot_products
    ) -> Iterator["Tensor"]:
        forget_norm = _norm(forget, dots).clamp(min=TINY)
        retain_norm = _norm(retain, dots).clamp(min=TINY)
        for f, r in zip(forget, retain, strict=True):
            yield f / forget_norm.to(f.dtype) + r / retain_norm.to(r.dtype)


def _norm(gradients: Gradients, dots: Dots) -> "Tensor":
    return dots(gradients, gradients).sum().sqrt()


def _at_least_fp32(tensor: "Tensor") -> "Tensor":
    return tensor.float() if tensor.element_size() < 4 else tensor
