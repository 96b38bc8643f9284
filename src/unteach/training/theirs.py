"""Other people's subclasses of transformers.Trainer: their loss, our checkpoints, evaluation and stopping."""

from typing import Any

import torch
from torch.utils.data import Dataset

from unteach.config.schema import TheirTrainer
from unteach.training.resumable import Resumable


class Together(Dataset):
    """One item an anchor row: {stream: example}, the others drawn at random, as OpenUnlearning deals them."""

    def __init__(self, streams: dict[str, Any], anchor: str):
        self.streams, self.anchor = streams, anchor

    def __len__(self) -> int:
        return len(self.streams[self.anchor])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            name: stream[row if name == self.anchor else int(torch.randint(0, len(stream), (1,)))]
            for name, stream in self.streams.items()
        }


def their_trainer(theirs: TheirTrainer, streams: dict[str, Any], anchor: str, **given: Any) -> Resumable:
    """Their class under our checkpoints and evaluation; one stream is its train_dataset, several come together."""
    dataset = streams[anchor] if len(streams) == 1 else Together(streams, anchor)
    kept: Any = type(theirs.cls.__name__, (Resumable, theirs.cls), {})
    evaluated = dataset if given.get("evaluator") else None
    trainer: Resumable = kept(train_dataset=dataset, eval_dataset=evaluated, **given, **theirs.arguments)
    return trainer
