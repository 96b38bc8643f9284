"""Short trainings of a copy of the model, after which it is asked again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from unteach.audits.audited_model import AuditedModel
from unteach.audits.taught_rows import TaughtRow
from unteach.config.schema import ModelConfig


@dataclass(frozen=True)
class OwnTexts:
    """Texts that the model writes itself before it is taught, by the lesson's seed: answers to
    openings of no subject where it chats, else texts from their first word. One that is cut at
    its longest is taught as if it ended there.

    Attributes:
        count: how many.
        max_tokens: of each at most.
    """

    count: int
    max_tokens: int


Rows = tuple[TaughtRow, ...] | OwnTexts
"""Rows as files have them, or the model's own texts."""


@dataclass(frozen=True)
class Lesson:
    """One training: a LoRA on a copy, at a constant rate.

    Attributes:
        rows: what is taught.
        learning_rate: of AdamW.
        steps: how many.
        batch_size: rows of a step.
        rank: of the LoRA.
        seed: of the LoRA and the order of rows.
        turns: which answers of a conversation are learned.
    """

    rows: Rows
    learning_rate: float
    steps: int
    batch_size: int
    rank: int
    seed: int
    turns: Literal["all", "last"] = "all"

    @property
    def label(self) -> str:
        return f"{self.learning_rate:g} x{self.steps}"


Teach = Callable[[AuditedModel, Lesson], ModelConfig]
"""Teaches a copy of a model, and gives what came of it. Called again it gives the same; what was
cut off goes on."""
