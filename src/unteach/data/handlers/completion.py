"""A dataset of prefixes and how they go on."""

from dataclasses import dataclass, replace
from typing import Any

from unteach.data.examples import Example
from unteach.data.handlers.base import RowDataset
from unteach.data.template import Template
from unteach.registry import dataset


@dataset
@dataclass
class CompletionDataset(RowDataset):
    """A prefix and how it goes on, as plain text; the loss is on the completion and the EOS after
    it.

    prefix_key: null where nothing stands before the completion. insert_space: a space stands
    between the two.
    """

    prefix_key: str | None = "prompt"
    text_key: str = "text"
    max_length: int = 2048
    insert_space: bool = False

    def __post_init__(self) -> None:
        if self.prefix_key:
            rows = self.load(self.prefix_key, self.text_key)
        else:
            rows = [("", text) for (text,) in self.load(self.text_key)]
        raw_args = replace(self.template.args, kind="raw")
        self.raw = Template(self.template.tokenizer, raw_args)
        examples = []
        for row_index, (prefix, text) in enumerate(rows):
            examples.append(self.build(row_index, prefix, text))
        self.keep(examples)

    def build(self, row_index: int, prefix: Any, text: Any) -> Example | None:
        """Build the example of one row; None, and count it, where it has no text or no room."""
        has_prefix = prefix == "" or self.row_errors.check_text(
            prefix,
            str(self.prefix_key),
            row_index,
        )
        has_text = self.row_errors.check_text(text, self.text_key, row_index)
        if not has_prefix or not has_text:
            return None
        completion = f" {text}" if self.insert_space else text
        encoded = self.raw.encode(prefix, completion, max_length=self.max_length)
        return self.build_usable(encoded, row_index)
