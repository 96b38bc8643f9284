"""How rows become tokens: a chunk of them at a time, through the handler that training uses."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unteach import fingerprints, registry
from unteach.data.documents import find_bos, tokenize_documents
from unteach.data.io.tables import Table
from unteach.data.row_errors import MAX_LISTED, RowErrors
from unteach.data.rows import Rows
from unteach.data.template import Template
from unteach.data.tokenized import token_files
from unteach.data.truncation import IGNORED, TokenIds, TooLong, truncate
from unteach.lazy import np

if TYPE_CHECKING:
    import numpy as np


@dataclass
class RowCount:
    """How many rows, and the places of the first of them."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    @classmethod
    def build(cls, rows: Rows, row_indices: Sequence[int]) -> "RowCount":
        """Count rows, and keep the places of the first."""
        first = [str(rows.locate(index)) for index in row_indices[:MAX_LISTED]]
        return cls(len(row_indices), first)

    def add(self, other: "RowCount") -> None:
        """Add the rows that come after."""
        self.count += other.count
        self.places = (self.places + other.places)[:MAX_LISTED]

    def to_json(self) -> list[Any]:
        """Write the count and the places as a list."""
        return [self.count, self.places]


@dataclass
class TokenCounts:
    """What became of rows, and how long what they gave is.

    Args:
        read: rows read.
        kept: rows that gave an example.
        cut: rows that are cut.
        dropped: rows that are left out, by reason.
        examples: how many there are.
        tokens: of all examples.
        learned: tokens that are learned.
        longest: tokens of the longest example.
        lengths: how many examples have at most so many tokens, and more than half of them.
        unshown: rows with text that the chat template does not show, by the key of a turn.
    """

    read: int = 0
    kept: int = 0
    cut: RowCount = field(default_factory=RowCount)
    dropped: dict[str, RowCount] = field(default_factory=dict)
    examples: int = 0
    tokens: int = 0
    learned: int = 0
    longest: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    unshown: dict[str, RowCount] = field(default_factory=dict)

    def add_example(self, length: int, num_learned: int) -> None:
        """Count an example of so many tokens, of which so many are learned."""
        self.examples += 1
        self.tokens += length
        self.learned += num_learned
        self.longest = max(self.longest, length)
        power_of_two = str(1 << (length - 1).bit_length())
        self.lengths[power_of_two] = self.lengths.get(power_of_two, 0) + 1

    def merge(self, other: "TokenCounts") -> None:
        """Add the counts of other rows, which come after these."""
        self.read += other.read
        self.kept += other.kept
        self.cut.add(other.cut)
        for reason, rows in other.dropped.items():
            self.dropped.setdefault(reason, RowCount()).add(rows)
        self.examples += other.examples
        self.tokens += other.tokens
        self.learned += other.learned
        self.longest = max(self.longest, other.longest)
        for length, count in other.lengths.items():
            self.lengths[length] = self.lengths.get(length, 0) + count
        for key, rows in other.unshown.items():
            self.unshown.setdefault(key, RowCount()).add(rows)

    def to_json(self) -> dict[str, Any]:
        """Write the counts as a shard's file has them."""
        values = dict(vars(self))
        values["cut"] = self.cut.to_json()
        values["dropped"] = _counts_to_json(self.dropped)
        values["unshown"] = _counts_to_json(self.unshown)
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TokenCounts":
        """Read the counts of a shard's file."""
        counts = cls(**values)
        counts.cut = RowCount(*values["cut"])
        counts.dropped = _counts_from_json(values["dropped"])
        counts.unshown = _counts_from_json(values["unshown"])
        return counts


def _counts_to_json(counts: dict[str, RowCount]) -> dict[str, Any]:
    """Write counts by their reason or key."""
    return {key: rows.to_json() for key, rows in counts.items()}


def _counts_from_json(values: dict[str, Any]) -> dict[str, RowCount]:
    """Read counts by their reason or key."""
    return {key: RowCount(*rows) for key, rows in values.items()}


@dataclass
class TokenizedChunk:
    """The tokens of some rows, and what became of them.

    Args:
        counts: what became of the rows.
        ids: int32 tokens of each example.
        runs: of each example of answers, the lengths of its stretches, by turns only read and
            learned; none of text, of which all is learned.
    """

    counts: TokenCounts
    ids: "list[np.ndarray]" = field(default_factory=list)
    runs: list[list[int]] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        rows: Rows,
        row_errors: RowErrors,
        num_kept: int,
    ) -> "TokenizedChunk":
        """Start a chunk without examples, with what became of its rows."""
        cut = RowCount.build(rows, row_errors.cut)
        counts = TokenCounts(
            read=len(rows),
            kept=num_kept,
            cut=cut,
        )
        for reason, row_indices in row_errors.dropped.items():
            counts.dropped[reason] = RowCount.build(rows, row_indices)
        for key, row_indices in row_errors.unshown.items():
            counts.unshown[key] = RowCount.build(rows, row_indices)
        return cls(counts)

    def add_text(self, ids: TokenIds) -> None:
        """Add an example of which all tokens are learned."""
        self.ids.append(np.asarray(ids, np.int32))
        self.counts.add_example(len(ids), len(ids))

    def add_answers(self, ids: Sequence[int], labels: Sequence[int]) -> None:
        """Add an example of which the tokens with a label are learned."""
        runs = find_runs(labels)
        self.ids.append(np.asarray(ids, np.int32))
        self.runs.append(runs)
        self.counts.add_example(len(ids), sum(runs[1::2]))

    def merge(self, other: "TokenizedChunk") -> None:
        """Add the chunk that comes after."""
        self.counts.merge(other.counts)
        self.ids += other.ids
        self.runs += other.runs


def find_runs(labels: Iterable[int]) -> list[int]:
    """Find the lengths of the stretches of a row, by turns only read and learned.

    The first is one that is only read, and may be 0.
    """
    runs: list[int] = []
    for is_learned, stretch in itertools.groupby(labels, lambda label: label != IGNORED):
        if is_learned and not runs:
            runs.append(0)
        runs.append(len(list(stretch)))
    return runs


@dataclass(frozen=True)
class Recipe:
    """How rows become tokens.

    Args:
        handler: the dataset that reads them.
        columns: its arguments that name columns.
        template: the model's.
        max_length: tokens of an example.
        too_long: what becomes of a longer row.
    """

    handler: str
    columns: dict[str, Any]
    template: Template
    max_length: int
    too_long: TooLong

    @property
    def is_text(self) -> bool:
        """Whether rows are text, of which all is learned."""
        return self.handler == "PretrainingDataset"

    def tokenize(self, rows: Rows, where: str) -> TokenizedChunk:
        """Tokenize a chunk of rows."""
        if self.is_text:
            return self._tokenize_text(rows, where)
        return self._tokenize_answers(rows, where)

    def _tokenize_answers(self, rows: Rows, where: str) -> TokenizedChunk:
        """Tokenize prompts with answers by the dataset that training would read them with."""
        dataset_class: Any = registry.dataset.get(self.handler)
        arguments = dict(self.columns)
        if "too_long" in dataset_class.__dataclass_fields__:
            arguments["too_long"] = self.too_long
        dataset = dataset_class(
            template=self.template,
            hf_args={"path": where, "rows": rows},
            max_length=self.max_length,
            **arguments,
        )
        chunk = TokenizedChunk.start(rows, dataset.row_errors, len(set(dataset.examples.rows)))
        for example in dataset.examples:
            chunk.add_answers(example["input_ids"], example["labels"])
        return chunk

    def _tokenize_text(self, rows: Rows, where: str) -> TokenizedChunk:
        """Tokenize documents, each within max_length or, for training to cut them, whole."""
        text_key = self.columns["text_key"]
        row_errors = RowErrors(where, rows)
        documents = list(tokenize_documents(self.template, text_key, row_errors))
        row_errors.refuse()
        room = self.max_length - len(find_bos(self.template))
        # Training cuts documents into its rows: they are kept whole.
        is_whole = self.too_long == "split"

        kept = []
        for row_index, ids in documents:
            pieces = (
                [(ids, ids)]
                if is_whole
                else truncate(
                    ids,
                    ids,
                    room,
                    self.too_long,
                )
            )
            if not pieces:
                row_errors.drop(f"more than {room} tokens", row_index)
                continue
            kept.append(pieces)
            if len(ids) > room and not is_whole:
                row_errors.cut.append(row_index)

        chunk = TokenizedChunk.start(rows, row_errors, len(kept))
        for pieces in kept:
            for piece_ids, _ in pieces:
                chunk.add_text(piece_ids)
        return chunk


def build_facts(
    table: Table,
    recipe: Recipe,
    tokenizer_path: str,
) -> dict[str, Any]:
    """Build what tells these tokens from all others, as the manifest has it.

    Args:
        table: the rows.
        recipe: the columns, the tokenizer, the template and what becomes of long rows.
        tokenizer_path: what the user calls the tokenizer.
    """
    tokenizer = recipe.template.tokenizer
    source: dict[str, Any] = {}
    for file in table.files:
        source[str(file)] = fingerprints.hash_files(file)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    template = None if recipe.is_text else token_files.build_template_facts(recipe.template)
    return {
        "kind": "text" if recipe.is_text else "answers",
        "source": source or {table.where: None},
        "columns": recipe.columns,
        "tokenizer": {
            "name": tokenizer_path,
            "fingerprint": token_files.hash_tokenizer(tokenizer),
            "vocabulary": len(tokenizer),
            "special": special,
        },
        "template": template,
        "max_length": recipe.max_length,
        "too_long": recipe.too_long,
    }
