"""A dataset of prompts without answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unteach.data.examples import Example
from unteach.data.handlers.base import RowDataset
from unteach.data.truncation import IGNORED
from unteach.registry import dataset


@dataset
@dataclass
class PromptDataset(RowDataset[str]):
    """Prompts that are asked and never answered: nothing of them is learned.

    max_length: tokens of a prompt; a longer one is dropped and counted.
    """

    DEFERS: ClassVar[bool] = True
    prompt_key: str = "prompt"
    max_length: int = 2048

    def __post_init__(self) -> None:
        self.open_rows(self.prompt_key)
        self.build_examples()

    def read_row(self, row_index: int, cells: Sequence[Any]) -> str | None:
        """Read a row's prompt."""
        (prompt,) = cells
        is_text = self.row_errors.check_text(prompt, self.prompt_key, row_index)
        return prompt if is_text else None

    def encode_row(self, row_index: int, read: str) -> list[Example]:
        """Build the example of one row; none, and count it, where it is too long."""
        ids = list(self.template.encode_prompt(read))
        if len(ids) > self.max_length:
            self.row_errors.drop(f"more than {self.max_length} tokens", row_index)
            return []
        return [{"input_ids": ids, "labels": [IGNORED] * len(ids), "index": row_index}]
