"""The contract of a one-shot edit: a method that changes the weights once, without an optimiser.

A run of one loads model and streams, edits in place, and saves: training/edit_model.py drives it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unteach.data.batches import Batch, iterate_batches, move_to_device
from unteach.data.collators import Collator
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.base import Method
from unteach.models.forward import OutputSpec
from unteach.models.loading import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import PreTrainedModel

Weights = Mapping[str, "Parameter"]
"""Parameters by their names in the model."""
Numbers = dict[str, float | str]
"""What an edit says of what it did."""


@dataclass(frozen=True)
class EditContext:
    """What an edit works with. Nothing of the model requires a gradient, and dropout is off.

    Attributes:
        loaded: the model on its device, its tokenizer, its template, and the dtype of its passes.
        streams: the rows, by stream.
        collator: pads examples.
        batch_size: rows of a pass.
        seed: the run's; derive one for each use (`unteach.seeds`).
        report: shows a sentence to the user, as a note of the run.
        load_weights: reads the whole weights of another model, or of an adapter with its base, by
            name, on the CPU and in fp32.
        measure_kl: KL(before || now) in nats a token, on texts that the model wrote before the
            edit. Only for an edit with MEASURES_KL.
    """

    loaded: LoadedModel
    streams: dict[str, Stream]
    collator: Collator
    batch_size: int
    seed: int
    report: Callable[[str], None]
    load_weights: "Callable[[str], dict[str, Tensor]]"
    measure_kl: Callable[[], float]

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
        totals = _build_zeros(weights)
        num_tokens = 0
        with _require_gradients(weights):
            for batch in self.iterate_batches(stream_name):
                num_tokens += self._add_gradients(batch, stream_name, weights, totals)
        if not num_tokens:
            raise UserError(f"data.{stream_name}: no row has a token to learn")
        for name, total in totals.items():
            total /= num_tokens
            if not torch.isfinite(total).all():
                raise UserError(
                    f"the gradient of {name} over data.{stream_name} is not finite; nothing was "
                    "edited. Compute in another dtype (model.model_args.dtype)"
                )
        return totals

    def iterate_gradients(
        self, stream_name: str, weights: Weights, batch_size: int | None = None
    ) -> "Iterator[tuple[dict[str, Tensor], int]]":
        """Iterate over the batches of `iterate_batches`: the gradient of each one's own CE, the
        mean over its answer tokens, and their number. The weights may be changed in between."""
        for batch in self.iterate_batches(stream_name, batch_size):
            totals = _build_zeros(weights)
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


def _build_zeros(weights: Weights) -> "dict[str, Tensor]":
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


class Edit(Method):
    """A method whose run has no steps: `edit` changes the weights once, in place.

    Subclasses are dataclasses; their fields are `trainer.method_args`.

    Attributes:
        MEASURES_KL: whether it asks how far the model has moved, for which the model writes texts
            before the edit.
        ON_ADAPTERS: whether it can edit an adapter. Others edit weights, and refuse a run with an
            adapter over them.
    """

    IS_EDIT: ClassVar[bool] = True
    MEASURES_KL: ClassVar[bool] = False
    ON_ADAPTERS: ClassVar[bool] = False

    def streams(self) -> tuple[str, ...]:
        return ("forget",)

    def refuse_model(self, loaded: LoadedModel) -> None:
        """Raise UserError where this model cannot be edited, with the reason.

        Called by `unteach check` too, where the model may be without values (torch's meta device).
        """

    def refuse_rows(self, streams: dict[str, Stream]) -> None:
        """Raise UserError where rows cannot be edited by, with their place.

        Called by `unteach check` too, where rows far down a file are not tokenised yet.
        """

    def find_weights(self, model: "PreTrainedModel") -> Weights:
        """Find the parameters that it changes. All others stay as they are, to the last bit."""
        raise NotImplementedError

    def edit(self, context: EditContext) -> Numbers:
        """Change the weights in place; return numbers that say what was done."""
        raise NotImplementedError

    def other_models(self) -> dict[str, str]:
        """Name the other models that it reads: the field that names each, and its folder or hub
        id."""
        return {}

    def estimate_memory(self, model: "PreTrainedModel") -> dict[str, float]:
        """Estimate the bytes that it needs beside weights and activations, by what for."""
        num_weights = sum(weight.numel() for weight in self.find_weights(model).values())
        return {"gradients": 4.0 * num_weights}
