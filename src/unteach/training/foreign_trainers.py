"""Run other people's subclasses of transformers.Trainer: their loss, our checkpoints, evaluation
and stopping.

Those written for older versions of transformers are called as they were then: without
`num_items_in_batch`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from unteach.config.schema import TheirTrainer
from unteach.data.streams import Stream
from unteach.training.resumable import Resumable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEWER_METHODS = ("compute_loss", "training_step")
"""Methods that are given `num_items_in_batch` since transformers 4.46."""


class JoinedStreams(Dataset):
    """One item for each anchor row: {stream: example}, the other streams' rows drawn at random, as
    OpenUnlearning does it."""

    def __init__(self, streams: dict[str, Stream], anchor: str):
        self.streams = streams
        self.anchor = anchor

    def __len__(self) -> int:
        return len(self.streams[self.anchor])

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = {}
        for name, stream in self.streams.items():
            is_anchor = name == self.anchor
            stream_row = row if is_anchor else int(torch.randint(0, len(stream), (1,)))
            item[name] = stream[stream_row]
        return item


def build_foreign_trainer(
    foreign: TheirTrainer, streams: dict[str, Stream], anchor: str, **kwargs: object
) -> Resumable:
    """Build a plugin's trainer with our checkpoints and evaluation mixed in.

    Args:
        foreign: its class and its own arguments.
        streams: one is its train_dataset; several are joined.
        anchor: the stream whose length is an epoch.
        kwargs: what `Resumable` and a transformers.Trainer take.
    """
    train_dataset = streams[anchor] if len(streams) == 1 else JoinedStreams(streams, anchor)
    overrides: dict[str, Any] = {}
    for name in NEWER_METHODS:
        method = getattr(foreign.cls, name)
        if not _takes_num_items(method):
            overrides[name] = _drop_num_items(method)
    if "compute_loss" in overrides:
        # Its loss is the mean of a micro-batch: the library divides by the number of them.
        overrides["loss_is_scaled_for_ga"] = False

    # The one class that is made at run time: whose methods ours come before is known only now.
    resumable_cls: Any = type(foreign.cls.__name__, (Resumable, foreign.cls), overrides)
    trainer: Resumable = resumable_cls(
        train_dataset=train_dataset,
        eval_dataset=train_dataset if kwargs.get("evaluator") else None,
        **kwargs,
        **foreign.arguments,
    )
    return trainer


def _takes_num_items(method: Callable[..., Any]) -> bool:
    """Say whether a method takes `num_items_in_batch`."""
    parameters = inspect.signature(method).parameters.values()
    return any(
        parameter.name == "num_items_in_batch" or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    )


def _drop_num_items(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method so that the library can call it as it does now."""

    @functools.wraps(method)
    def call(
        self: Resumable,
        model: "PreTrainedModel",
        inputs: dict[str, Any],
        *_: object,
        num_items_in_batch: object = None,
        **kwargs: object,
    ) -> Any:
        return method(self, model, inputs, **kwargs)

    return call
