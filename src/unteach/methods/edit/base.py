"""The contract of a one-shot edit: a method that changes the weights once, without an optimiser.

A run of one loads model and streams, edits in place, and saves: training/edit_model.py drives it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unteach.data.streams import Stream
from unteach.methods.base import Method
from unteach.methods.edit.row_gradients import RowGradients, Weights
from unteach.models.loading import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = ["Edit", "EditContext", "Numbers", "Weights"]

Numbers = dict[str, float | str]
"""What an edit says of what it did."""


@dataclass(frozen=True)
class EditContext(RowGradients):
    """What an edit works with.

    Attributes:
        seed: the run's; derive one for each use (`unteach.seeds`).
        report: shows a sentence to the user, as a note of the run.
        load_weights: reads the whole weights of another model, or of an adapter with its base, by
            name, on the CPU and in fp32.
        measure_kl: KL(before || now) in nats a token, on texts that the model wrote before the
            edit. Only for an edit with MEASURES_KL.
    """

    seed: int
    report: Callable[[str], None]
    load_weights: "Callable[[str], dict[str, Tensor]]"
    measure_kl: Callable[[], float]


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
