"""Gradients of the loss of rows, in weights that do not train: what one-shot edits are made of."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unteach.data.batches import Batch, iterate_batches, move_to_device
from unteach.data.collators import Collator
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.models.forward import OutputSpec
from unteach.models.loading import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import PreTrainedModel

Weights = Mapping[str, "Parameter"]
"""Parameters by their names in the model."""


@dataclass(frozen=True)
class RowGradients:
    """Computes gradients over the rows of streams. Nothing of the model requires a gradient, and
    dropout is off.

    Attributes:
        loaded: the model on its device, its tokenizer, its template, and the dtype of its passes.
        streams: the rows, by stream.
        collator: pads examples.
        batch_size: rows of a pass.
    """

    loaded: LoadedModel
    streams: dict[str, Stream]
    collator: Collator
    batch_size: int

    @property
    def model(self) -> "PreTrainedModel":
        model: PreTrainedModel = self.loaded.model
        return model

    def iterate_batches(self, stream_name: str, batch_size: int | None = None) -> Iterator[Batch]:
        """Iterate over all rows of a stream once, sorted by length, on the model's device.

        Args:
            batch_size: rows of a batch, where that is another than that of a pass.
        """
        stream = self.streams[stream_name]
        draws = [(row, 0) for row in range(len(stream))]
        size = batch_size or self.batch_size
        device = next(self.model.parameters()).device
        for batch in iterate_batches(stream, draws, size, self.collator):
            yield move_to_device(batch, device)

    def compute_gradients(self, stream_name: str, weights: Weights) -> "dict[str, Tensor]":
        """Compute the gradient of CE: the sum of -log p over the answer tokens of all rows, divided
        by their number. So it does not depend on the batch size.

        Sums are in fp32. Memory: one fp32 copy of the weights, and the largest in its own dtype.

        Returns:
            The gradients by name, in fp32, on the devices of the weights.
        """
        totals = build_zeros(weights)
        num_tokens = 0
        with _require_gradients(weights):
            for batch in self.iterate_batches(stream_name):
                num_tokens += self._add_gradients(batch, stream_name, weights, totals)
        return divide_by_tokens(totals, num_tokens, stream_name)

    def iterate_gradients(
        self, stream_name: str, weights: Weights, batch_size: int | None = None
    ) -> "Iterator[tuple[dict[str, Tensor], int]]":
        """Iterate over the batches of `iterate_batches`: the gradient of each one's own CE, the
        mean over its answer tokens, and their number. The weights may be changed in between."""
        for batch in self.iterate_batches(stream_name, batch_size):
            totals = build_zeros(weights)
            with _require_gradients(weights):
                num_tokens = self._add_gradients(batch, stream_name, weights, totals)
            for total in totals.values():
                total /= max(num_tokens, 1)
            yield totals, num_tokens

    def _add_gradients(
        self,
        batch: Batch,
        stream_name: str,
        weights: Weights,
        totals: "Mapping[str, Tensor]",
    ) -> int:
        """Add the gradient of a batch's summed CE to `totals`; return its number of tokens."""
        hooks = []
        for name, weight in weights.items():

            def move(parameter: "Parameter", total: "Tensor" = totals[name]) -> None:
                # At once, so that no second copy of all gradients is held.
                assert parameter.grad is not None
                total += parameter.grad
                parameter.grad = None

            hooks.append(weight.register_post_accumulate_grad_hook(move))
        try:
            # Older torch reuses casts made without gradients, which hide the weights.
            torch.clear_autocast_cache()
            with torch.enable_grad(), self.loaded.autocast():
                outputs = self.model(batch=batch, want={stream_name: OutputSpec()})[stream_name]
                loss = -outputs.value.float().sum()
            if len(outputs.value):
                loss.backward()
        finally:
            for hook in hooks:
                hook.remove()
        return len(outputs.value)


def divide_by_tokens(
    totals: "dict[str, Tensor]", num_tokens: int, stream_name: str
) -> "dict[str, Tensor]":
    """Divide sums over a stream's rows by the number of its answer tokens, in place.

    Raises:
        UserError: where it has none, or a sum is not finite.
    """
    if not num_tokens:
        raise UserError(f"data.{stream_name}: no row has a token to learn")
    for name, total in totals.items():
        total /= num_tokens
        if not torch.isfinite(total).all():
            raise UserError(
                f"the gradient of {name} over data.{stream_name} is not finite; nothing was "
                "changed. Compute in another dtype (model.model_args.dtype)"
            )
    return totals


def build_zeros(weights: Weights) -> "dict[str, Tensor]":
    """Build an fp32 tensor of zeros for each weight."""
    zeros = {}
    for name, weight in weights.items():
        zeros[name] = torch.zeros_like(weight, dtype=torch.float32)
    return zeros


@contextlib.contextmanager
def _require_gradients(weights: Weights) -> Iterator[None]:
    """Have these weights require a gradient meanwhile, beginning at none."""
    for weight in weights.values():
        weight.requires_grad_(True)
        weight.grad = None
    try:
        yield
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
