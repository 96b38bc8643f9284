"""A dataset of prefixes and how they go on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from unteach.data.examples import Example
from unteach.data.handlers.base import RowDataset
from unteach.data.template import Template
from unteach.registry import dataset


@dataset
@dataclass
class CompletionDataset(RowDataset[tuple[str, str]]):
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
        columns = [self.prefix_key] if self.prefix_key else []
        self.open_rows(*columns, self.text_key)
        raw_args = replace(self.template.args, kind="raw")
        self.raw = Template(self.template.tokenizer, raw_args)
        self.build_examples()

    def read_row(self, row_index: int, cells: Sequence[Any]) -> tuple[str, str] | None:
        """Read a row's prefix, which may be empty, and how it goes on."""
        *prefixes, text = cells
        prefix = prefixes[0] if prefixes else ""
        has_prefix = prefix == "" or self.row_errors.check_text(
            prefix,
            str(self.prefix_key),
            row_index,
        )
        has_text = self.row_errors.check_text(text, self.text_key, row_index)
        return (prefix, text) if has_prefix and has_text else None

    def encode_row(self, row_index: int, read: tuple[str, str]) -> list[Example]:
        """Build the example of one row; none, and count it, where it has no room."""
        prefix, text = read
        completion = f" {text}" if self.insert_space else text
        encoded = self.raw.encode(prefix, completion, max_length=self.max_length)
        return self.build_usable(encoded, row_index)
