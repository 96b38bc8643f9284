"""What handlers of rows share: each row gives one example with an answer in it; the others are
counted.

A handler is built with its configured arguments and the model's `template`; its items are what can
be trained or scored. `dropped` and `cut` count, by reason, the rows that cannot and the answers
that were shortened.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from unteach.data import duplicates
from unteach.data.examples import DEFERRED, Example, build_example
from unteach.data.handlers.built_rows import MANY_ROWS, BuiltRows, build_all
from unteach.data.handlers.token_cache import TokenCache, build_key
from unteach.data.io import sources
from unteach.data.packed_examples import NOT_TOKENIZED, PackedExamples
from unteach.data.row_errors import RowErrors, explain_no_row_left
from unteach.data.row_selection import RowSelection
from unteach.data.rows import Row, Rows
from unteach.data.template import Encoded, Template
from unteach.data.truncation import IGNORED, TooLong, truncate
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.lazy import np
from unteach.wording import format_count

Read = TypeVar("Read")
"""What a handler reads of a row."""
NO_ROOM = "no room for an answer within max_length"


def note_special_text(row_errors: RowErrors) -> str:
    """Say in which rows special tokens are written."""
    rows = row_errors.special
    return (
        f"{format_count(len(rows), 'row')} with the text of special tokens, which is read as text "
        f"({row_errors.list_places(rows)}); model.template_args.special_tokens=tokens reads them "
        "as the tokens"
    )


@dataclass
class RowDataset(Generic[Read]):
    """A handler of rows of which each gives one example with an answer in it; counts what became of
    the others.

    A handler opens its rows and builds their examples; of one row it says in `read_row` what it
    reads of it, and in `encode_row` which examples come of that.
    """

    DEFERS: ClassVar[bool] = False
    """whether rows may be tokenised only when they are asked for, where a run is only looked at"""
    template: Template
    hf_args: dict[str, Any]
    examples: PackedExamples = field(init=False, default_factory=PackedExamples)
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    row_errors: RowErrors = field(init=False)
    row_hashes: Any = field(init=False, default=None)
    """an array with a number for each row read, equal where rows say the same; None for rows that
    came from memory"""

    @property
    def where(self) -> str:
        """What messages call the source."""
        return sources.describe_source(self.hf_args)

    @property
    def cut(self) -> int:
        """How many answers were cut."""
        return len(self.row_errors.cut)

    @property
    def rows(self) -> Sequence[Row]:
        """The rows of the source."""
        return self.row_errors.rows

    def open_rows(self, *keys: str, optional: Sequence[str | None] = ()) -> None:
        """Open the rows of the source.

        Args:
            keys: columns that each row must have.
            optional: further columns, None in every row that has none; for no column (None) all
                cells are None.
        """
        rows = sources.load_rows(self.hf_args)
        if not rows:
            raise UserError(f"{self.where}: there are no rows")
        self.keys, self.optional_keys = keys, optional
        self.row_errors = RowErrors(self.where, rows)

    def read_row(self, row_index: int, cells: Sequence[Any]) -> Read | None:
        """Read what a row holds; None, with a note in `row_errors`, where it cannot be used.

        Args:
            row_index: the row.
            cells: its cells in the columns that were opened.
        """
        raise NotImplementedError

    def encode_row(self, row_index: int, read: Read) -> list[Example]:
        """Build the examples of what was read of a row; none, and note why, where nothing is left
        to learn."""
        raise NotImplementedError

    def build_examples(self) -> None:
        """Build the examples of all rows; refuse what is wrong, count what is dropped."""
        selection: RowSelection | None = self.hf_args.get("choice")
        cache, key = None, ""
        if selection is not None and selection.token_cache and len(self.rows) >= MANY_ROWS:
            cache, key = TokenCache(Path(selection.token_cache)), self._build_cache_key()
        built = cache.read(key, self.row_errors) if cache else None
        if built is not None:
            self.keep(built)
            return
        built = build_all(self._build_rows, len(self.rows), self.row_errors)
        self.keep(built)
        # One process of a group writes for all; where rows are only looked at nothing is written.
        is_looked_at = selection is not None and selection.tokenized is not None
        if cache and not is_looked_at and launch_environment.rank() == 0:
            cache.write(key, built)

    def _build_cache_key(self) -> str:
        """Build the name of the tokens of these rows in a cache."""
        assert isinstance(self.rows, Rows), "rows that are selected stand in files"
        arguments = {}
        for own in fields(self):
            if own.init and own.name not in ("template", "hf_args"):
                arguments[own.name] = getattr(self, own.name)
        arguments["shots"] = getattr(self, "shots", None)
        return build_key(self.rows.hash_rows(), type(self), arguments, self.template)

    def keep(self, built: BuiltRows) -> None:
        """Keep what all rows came to.

        Raises:
            UserError: rows are wrong, or none of them can be used.
        """
        self.row_errors.refuse()
        self.examples = built.examples
        self.dropped += self.row_errors.count_dropped()
        if "rows" not in self.hf_args:
            self.row_hashes = np.array(built.hashes, np.int64)
            # Rows without an example repeat nothing.
            is_kept = np.zeros(len(self.row_hashes), bool)
            is_kept[np.asarray(self.examples.rows)] = True
            self.row_hashes[~is_kept] = 0
            if not self.examples:
                raise UserError(explain_no_row_left(self.where, self.dropped))

    def _build_rows(self, row_indices: range) -> BuiltRows:
        """Build the examples of some rows."""
        part = self.copy_without_notes()
        built = BuiltRows(PackedExamples(), part.row_errors)
        hasher = duplicates.RowHasher(duplicates.find_column_keys(type(self), vars(self)))
        for row_index in row_indices:
            row = self.rows[row_index]
            cells = self.pick_cells(row, row_index)
            if self.template.hides(cells):
                part.row_errors.special.append(row_index)
            built.hashes.append(hasher.hash_row(row))
            for example in part._build_row(row_index, cells):
                built.examples.append(example)
        return built

    def _build_row(self, row_index: int, cells: Sequence[Any]) -> list[Example]:
        read = self.read_row(row_index, cells)
        if read is None:
            return []
        if self.is_deferred(row_index):
            return [{"index": row_index, DEFERRED: True}]
        return self.encode_row(row_index, read)

    def pick_cells(self, row: Row, row_index: int) -> list[Any]:
        """Pick a row's cells in the columns that were opened."""
        cells = []
        for key in self.keys:
            cells.append(sources.get_cell(self.rows, row_index, row, key, self.where))
        for name in self.optional_keys:
            cells.append(None if name is None else row.get(name))
        return cells

    def copy_without_notes(self) -> Self:
        """Copy this handler with notes on rows of its own, none yet."""
        other = copy.copy(self)
        other.row_errors = RowErrors(self.where, self.rows)
        return other

    def read_again(self, row_index: int) -> Read:
        """Read a row that has an example once more."""
        cells = self.pick_cells(self.rows[row_index], row_index)
        read = self.copy_without_notes().read_row(row_index, cells)
        assert read is not None, "a row that has an example can be read"
        return read

    def build_usable(self, encoded: Encoded, row_index: int) -> list[Example]:
        """Build a row's example; none, and count it, where no answer is left to learn."""
        if not encoded.answer or len(encoded.input_ids) < 2:
            self.row_errors.drop(NO_ROOM, row_index)
            return []
        self.count_cut(bool(encoded.cut), row_index)
        return [build_example(encoded, row_index)]

    def fit(
        self,
        ids: list[int],
        labels: list[int],
        row_index: int,
        max_length: int,
        too_long: TooLong,
    ) -> list[Example]:
        """Build a row's examples within max_length; none, and count it, where nothing is learned.

        Args:
            ids: the row's tokens.
            labels: the same, with IGNORED where a token is not learned.
            row_index: the row.
            max_length: tokens of an example.
            too_long: what becomes of a longer row (see `truncate`).
        """
        pieces = truncate(ids, labels, max_length, too_long)
        is_longer = len(ids) > max_length
        if not pieces:
            is_dropped = is_longer and too_long == "drop"
            reason = f"more than {max_length} tokens" if is_dropped else NO_ROOM
            self.row_errors.drop(reason, row_index)
        self.count_cut(is_longer and bool(pieces) and too_long != "split", row_index)
        examples: list[Example] = []
        for piece_ids, piece_labels in pieces:
            examples.append(
                {
                    "input_ids": piece_ids,
                    "labels": piece_labels,
                    "index": row_index,
                }
            )
        return examples

    def count_cut(self, is_cut: bool, row_index: int) -> None:
        """Note a row whose answer was cut."""
        if is_cut:
            self.row_errors.cut.append(row_index)

    @property
    def num_tokenized(self) -> int | None:
        """How many rows are tokenised at once; None where all are."""
        selection: RowSelection | None = self.hf_args.get("choice")
        return selection.tokenized if selection is not None and self.DEFERS else None

    def is_deferred(self, row_index: int) -> bool:
        """Whether a row is tokenised only when its example is used."""
        return self.num_tokenized is not None and row_index >= self.num_tokenized

    def is_tokenized(self, row: int) -> bool:
        """Whether an example has its tokens already."""
        return bool(self.examples.starts[row] != NOT_TOKENIZED)

    def place(self, row: int) -> str:
        """Say where an example's row stands, as `line 3`."""
        return self.row_errors.list_places([int(self.examples.rows[row])])

    def notes(self) -> list[str]:
        """Say which rows are dropped, cut, written with special tokens, or stand twice."""
        notes = []
        for reason, count in self.dropped.items():
            num_rows = format_count(count, "row")
            notes.append(f"{num_rows} dropped, {reason}")
        if self.row_errors.cut:
            places = self.row_errors.list_places(self.row_errors.cut)
            num_rows = format_count(len(self.row_errors.cut), "row")
            notes.append(f"{num_rows} cut at max_length ({places})")
        if self.row_errors.special:
            notes.append(note_special_text(self.row_errors))
        if "choice" in self.hf_args and self.row_hashes is not None:
            notes += duplicates.note_repeats(self.row_hashes, self.row_errors)
        return notes

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> Example:
        """Give an example, and tokenise it now where that was put off."""
        example = self.examples[row]
        if DEFERRED not in example:
            return example
        row_index = example["index"]
        cells = self.pick_cells(self.rows[row_index], row_index)
        read = self.read_row(row_index, cells)
        pieces = [] if read is None else self.encode_row(row_index, read)
        self.row_errors.refuse()
        # Of a row that a run would drop, nothing is learned.
        nothing: Example = {
            "input_ids": [self.template.eos],
            "labels": [IGNORED],
            "index": row_index,
        }
        return pieces[0] if pieces else nothing
