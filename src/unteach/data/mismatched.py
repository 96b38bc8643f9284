"""Other answers that need no data of their own: those of the rows that are kept, to the questions
that are forgotten."""

import random
from dataclasses import dataclass
from typing import Any

from unteach.data.examples import Example
from unteach.data.handlers.qa import QADataset
from unteach.data.streams import ALTERNATE, Stream
from unteach.errors import UserError
from unteach.seeds import derive_seed


@dataclass
class MismatchedAnswers:
    """A dataset that gives each question of `forget` the answer of a row of `retain`, drawn anew in
    every epoch as a function of (seed, epoch, row)."""

    forget: Stream
    retain: Stream
    seed: int

    def __post_init__(self) -> None:
        for stream in (self.forget, self.retain):
            _refuse_without_answers(stream)

    def __len__(self) -> int:
        return len(self.forget)

    def place(self, row: int) -> str:
        """Say where the question of a row stands."""
        return self.forget.locate(row)

    def variant(self, row: int, epoch: int) -> dict[str, Example]:
        """Build the question of a row with the answer of another, drawn anew in each epoch."""
        generator = random.Random(derive_seed(self.seed, "mismatched", epoch, row))
        retain_dataset, retain_row = self.retain.find(generator.choice(range(len(self.retain))))
        _, answer = retain_dataset.text(retain_row)
        forget_dataset, forget_row = self.forget.find(row)
        return {ALTERNATE: forget_dataset.build_with_answer(forget_row, answer)}


def have_alternates(datasets: list[Any]) -> bool:
    """Whether the rows of these datasets have other answers of their own."""
    return all(ALTERNATE in dataset[0] for dataset in datasets)


def _refuse_without_answers(stream: Stream) -> None:
    """Refuse a stream whose rows have no questions and answers."""
    for part in stream.datasets:
        if not isinstance(part, QADataset):
            raise UserError(
                f"data.{stream.name}: {type(part).__name__} has no questions and answers, and this "
                "method gives the questions of data.forget the answers of data.retain; take rows "
                "of both with questions and answers, or give the rows of data.forget other answers "
                "(a column alternate)"
            )
