"""Other people's subclasses of transformers.Trainer: their loss, our checkpoints, evaluation and
stopping.

Those written for older versions are called as they were then: without `num_items_in_batch`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from unteach.config.schema import TheirTrainer
from unteach.training.resumable import Resumable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Together(Dataset):
    """One item an anchor row: {stream: example}, the others drawn at random, as OpenUnlearning
    deals them."""

    def __init__(self, streams: dict[str, Any], anchor: str):
        self.streams, self.anchor = streams, anchor

    def __len__(self) -> int:
        return len(self.streams[self.anchor])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            name: stream[row if name == self.anchor else int(torch.randint(0, len(stream), (1,)))]
            for name, stream in self.streams.items()
        }


def their_trainer(
    theirs: TheirTrainer, streams: dict[str, Any], anchor: str, **given: object
) -> Resumable:
    """Their class under our checkpoints and evaluation; one stream is its train_dataset, several
    come together."""
    dataset = streams[anchor] if len(streams) == 1 else Together(streams, anchor)
    older: dict[str, Any] = {
        name: _call_as_before(method)
        for name in NEWER
        if not _takes_it(method := getattr(theirs.cls, name))
    }
    if "compute_loss" in older:
        # it is the mean of a micro-batch: the library divides by their number
        older["loss_is_scaled_for_ga"] = False
    kept: Any = type(theirs.cls.__name__, (Resumable, theirs.cls), older)
    evaluated = dataset if given.get("evaluator") else None
    trainer: Resumable = kept(
        train_dataset=dataset, eval_dataset=evaluated, **given, **theirs.arguments
    )
    return trainer


NEWER = ("compute_loss", "training_step")
"""Methods that are handed `num_items_in_batch` since transformers 4.46."""


def _takes_it(method: Callable[..., Any]) -> bool:
    """Whether a method has a place for `num_items_in_batch`."""
    parameters = inspect.signature(method).parameters.values()
    return any(
        one.name == "num_items_in_batch" or one.kind is one.VAR_KEYWORD for one in parameters
    )


def _call_as_before(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method as the library calls it now, which hands over what it has no place for."""

    @functools.wraps(method)
    def call(
        self: Any,
        model: "PreTrainedModel",
        inputs: Any,
        *_: object,
        num_items_in_batch: Any = None,
        **given: object,
    ) -> Any:
        return method(self, model, inputs, **given)

    return call
