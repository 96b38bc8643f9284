"""RepNoise: make what the layers say of harmful answers look like noise, while harmless ones are
learned in their place."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from unteach.data.batches import Batch
from unteach.data.streams import ALTERNATE
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.methods.base import Context, Method, Term
from unteach.models.forward import IGNORED, OutputSpec, TokenOutputs, logprob
from unteach.models.layer_names import ALL_LAYERS, EMBEDDING, LAST, MLP
from unteach.registry import method
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

NUM_KERNELS = 5
MICRO_BATCHES = "forget.micro_batches"
"""Counts the micro-batches of a step that have a row."""


@method(
    "RepNoise",
    paper="arXiv:2405.14577",
    cost="1 forward of forget and alternate, and the head at every layer of forget",
    reference="none",
    evidence="verified against the authors' code",
    license="Apache-2.0",
)
@dataclass
class RepNoise(Method):
    """L = CE_s + beta mean_l MMD(MLP_l(x), noise) - alpha log(1 + the sum of CE_x at every layer /
    (layers + 1)); x the answers to forget, s the other answers to the same prompts.

    Published form only, a statistic of each micro-batch. Both cross-entropies are over the tokens
    in which x and s differ but token 0; the first of a span of them counts log V. MMD compares the
    MLPs' outputs there, a row as one vector, with Gaussian noise drawn anew in every step. CE_x is
    taken behind every layer and the embedding, each through the final norm and the head, and once
    more behind a second norm.
    """

    ASCENDS: ClassVar[bool] = True

    alpha: float = field(default=1.0, metadata={"help": "weight of the ascent on x"})
    beta: float = field(default=0.001, metadata={"help": "weight of the distance from noise"})

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        self._seed = 0
        self._num_steps = 0
        self._num_draws = 0

    def streams(self) -> tuple[str, ...]:
        return ("forget", ALTERNATE)

    def modules(self) -> tuple[str, ...]:
        return (rf"{ALL_LAYERS}\.{MLP}",)

    def lens(self) -> tuple[str, ...]:
        return (EMBEDDING, ALL_LAYERS, LAST)

    def depends_on_micro_batches(self) -> str:
        return (
            "its distance from noise compares the rows of a micro-batch with one another, and the "
            "logarithm is of a micro-batch's mean"
        )

    def prepare(self, context: Context) -> None:
        self._seed = context.seed

    def counts(self, batch: Batch) -> "dict[str, Tensor]":
        start, stop = batch["rows"]["forget"]
        has_rows = (batch["weight"][start:stop] != 0).any()
        return {**super().counts(batch), MICRO_BATCHES: has_rows.long()}

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        forget = OutputSpec(fn=surprise, positions="real", modules=self.modules(), lens=self.lens())
        return {"forget": forget, ALTERNATE: OutputSpec(fn=surprise, positions="real")}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        harmful, harmless = policy["forget"], policy[ALTERNATE]
        differs = find_differences(harmful, harmless)  # [B, T]
        is_row = harmful.weight != 0

        teach = span_cross_entropy(harmless, harmless.value, differs)
        ascents = []
        for value in harmful.lens.values():
            ascents.append(span_cross_entropy(harmful, value, differs))
        # The states behind the last layer are read twice, once as they are and once normed anew.
        num_layers = len(ascents) - 2
        ascent = torch.log1p(torch.stack(ascents).sum() / (num_layers + 1))

        distances = []
        for index, states in enumerate(harmful.states.values()):
            rows = lay_out(harmful, states.float(), differs.shape[1]) * differs.unsqueeze(-1)
            noise = self._draw_noise(index, rows) * differs.unsqueeze(-1)
            distances.append(mean_discrepancy(rows[is_row].flatten(1), noise[is_row].flatten(1)))
        self._num_draws += 1
        distance = torch.stack(distances).mean()
        return [
            Term("alternate", teach.reshape(1), MICRO_BATCHES),
            Term("noise", distance.reshape(1), MICRO_BATCHES, self.beta),
            Term("forget", ascent.reshape(1), MICRO_BATCHES, -self.alpha),
        ]

    def _draw_noise(self, layer_index: int, rows: "Tensor") -> "Tensor":
        """Draw noise of the shape of some states: a function of seed, step, micro-batch, layer."""
        draw = (self._num_steps, self._num_draws, layer_index)
        generator = torch.Generator(rows.device)
        generator.manual_seed(derive_seed(self._seed, "noise", *draw))
        return torch.randn(rows.shape, generator=generator, device=rows.device)

    def after_step(self, terms: dict[str, float], epoch: float) -> None:
        self._num_steps += 1
        self._num_draws = 0

    def state(self) -> dict[str, Any]:
        return {"num_steps": self._num_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        self._num_steps = state["num_steps"]


def surprise(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """-log p of the next token, and what it would be of equal logits: [n, V], [n] -> [n, 2]."""
    surprisal = -logprob(logits, labels)
    of_chance = torch.full_like(surprisal, math.log(logits.shape[-1]))
    return torch.stack([surprisal, of_chance], -1)


def lay_out(outputs: TokenOutputs, value: "Tensor", length: int, fill: float = 0) -> "Tensor":
    """Lay the entries of real tokens out by row and place in the row: [N, …] -> [B, length, …]."""
    whole = value.new_full((len(outputs.weight), length, *value.shape[1:]), fill)
    return whole.index_put((outputs.row, outputs.index_in_row()), value)


def find_differences(one: TokenOutputs, other: TokenOutputs) -> "Tensor":
    """Say where the tokens of two answers to a prompt differ, one that is longer where it goes on;
    no row's first token does: bool [B, T]."""
    length = max(1, *(count_longest_row(side) for side in (one, other)))
    following = [lay_out(side, side.label, length, fill=IGNORED) for side in (one, other)]
    differs = following[0] != following[1]
    return F.pad(differs[:, :-1], (1, 0), value=False)


def count_longest_row(outputs: TokenOutputs) -> int:
    """Count the tokens of the longest row."""
    return int(outputs.lengths().max())


def span_cross_entropy(outputs: TokenOutputs, value: "Tensor", differs: "Tensor") -> "Tensor":
    """The mean over the tokens that differ, but token 0, of -log p; at a span's first token the
    logits are taken as equal, as published.

    Args:
        value: what `surprise` gives, [N, 2].
        differs: bool [B, T].
    """
    place = outputs.index_in_row()
    is_next = (place + 1).clamp(max=differs.shape[1] - 1)
    counts = differs[outputs.row, is_next] & (outputs.label > 0)
    loss = torch.where(differs[outputs.row, place], value[:, 0], value[:, 1])
    return loss[counts].sum() / counts.sum().clamp(min=1)


def mean_discrepancy(samples: "Tensor", noise: "Tensor") -> "Tensor":
    """The maximum mean discrepancy of two samples [n, D] under five Gaussian kernels, diagonals
    included.

    Their widths are 1, 2, 4, 8 and 16 times a quarter of the mean squared distance of all pairs.
    """
    both = torch.cat([samples, noise])
    squared = torch.stack([(both - one).square().sum(-1) for one in both])  # [2n, 2n]
    num_pairs = len(both) ** 2 - len(both)
    width = squared.detach().sum() / max(num_pairs, 1) / 4
    kernel = torch.zeros_like(squared)
    for power in range(NUM_KERNELS):
        kernel = kernel + (-squared / (width * 2**power).clamp(min=1e-30)).exp()
    count = len(samples)
    same = kernel[:count, :count] + kernel[count:, count:]
    across = kernel[:count, count:] + kernel[count:, :count]
    # A micro-batch without rows has nothing to compare.
    return (same - across).sum() / max(count, 1) ** 2
