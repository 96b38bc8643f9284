"""A dataset of prompts without answers."""

from dataclasses import dataclass
from typing import Any

from unteach.data.examples import DEFERRED, Example
from unteach.data.handlers.base import RowDataset
from unteach.data.truncation import IGNORED
from unteach.registry import dataset


@dataset
@dataclass
class PromptDataset(RowDataset):
    """Prompts that are asked and never answered: nothing of them is learned.

    max_length: tokens of a prompt; a longer one is dropped and counted.
    """

    prompt_key: str = "prompt"
    max_length: int = 2048

    def __post_init__(self) -> None:
        self.prompts: list[Any] = []
        for (prompt,) in self.load(self.prompt_key):
            self.prompts.append(prompt)
        examples: list[Example] = []
        for row_index, prompt in enumerate(self.prompts):
            if not self.row_errors.check_text(prompt, self.prompt_key, row_index):
                continue
            if self.is_deferred(row_index):
                examples.append({"index": row_index, DEFERRED: True})
            else:
                examples += self.encode_deferred(row_index)
        self.keep(examples)

    def encode_deferred(self, row_index: int) -> list[Example]:
        """Build the example of one row; none, and count it, where it is too long."""
        ids = list(self.template.encode_prompt(self.prompts[row_index]))
        if len(ids) > self.max_length:
            self.row_errors.drop(f"more than {self.max_length} tokens", row_index)
            return []
        return [{"input_ids": ids, "labels": [IGNORED] * len(ids), "index": row_index}]
