"""What handlers of rows share: each row gives one example with an answer in it; the others are
counted.

A handler is built with its configured arguments and the model's `template`; its items are what can
be trained or scored. `dropped` and `cut` count, by reason, the rows that cannot and the answers
that were shortened.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unteach.data import duplicates
from unteach.data.examples import DEFERRED, Example, build_example, find_row_index
from unteach.data.io import sources
from unteach.data.row_errors import RowErrors, explain_no_row_left
from unteach.data.template import Encoded, Template
from unteach.data.truncation import IGNORED, TooLong, truncate
from unteach.errors import UserError
from unteach.wording import format_count

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
class RowDataset:
    """A handler of rows of which each gives one example with an answer in it; counts what became of
    the others."""

    template: Template
    hf_args: dict[str, Any]
    examples: list[Example] = field(init=False)
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    cut: int = field(init=False, default=0)
    cut_rows: list[int] = field(init=False, default_factory=list)
    row_errors: RowErrors = field(init=False)
    row_hashes: Any = field(init=False, default=None)
    """an array with a number for each row read, equal where rows say the same; None for rows that
    came from memory"""

    @property
    def where(self) -> str:
        """What messages call the source."""
        return sources.describe_source(self.hf_args)

    def load(self, *keys: str, optional: Sequence[str | None] = ()) -> list[tuple[Any, ...]]:
        """Load columns of all rows, side by side.

        Args:
            keys: columns that each row must have.
            optional: further columns, None in every row that has none; for no column (None) all
                cells are None.
        """
        rows = sources.load_rows(self.hf_args)
        self.row_errors = RowErrors(self.where, rows)
        if "rows" not in self.hf_args:
            column_keys = duplicates.find_column_keys(type(self), vars(self))
            self.row_hashes = duplicates.hash_rows(column_keys, rows)

        columns = [sources.read_column(rows, key, self.where) for key in keys]
        for key in optional:
            if key is None:
                columns.append([None] * len(rows))
            else:
                columns.append([row.get(key) for row in rows])
        cells_of_rows = list(zip(*columns, strict=True))
        for row_index, cells in enumerate(cells_of_rows):
            if self.template.hides(cells):
                self.row_errors.special.append(row_index)
        return cells_of_rows

    def keep(self, examples: Sequence[Example | None]) -> None:
        """Refuse what is wrong, count what is dropped, keep the rest."""
        self.row_errors.refuse()
        self.dropped += self.row_errors.count_dropped()
        self.examples = [example for example in examples if example is not None]
        self._forget_hashes_of_dropped()
        if not self.examples and "rows" not in self.hf_args:
            raise UserError(explain_no_row_left(self.where, self.dropped))

    def _forget_hashes_of_dropped(self) -> None:
        """Leave rows without an example out of those that are compared: they repeat nothing."""
        if self.row_hashes is None:
            return
        dropped = set(range(len(self.row_hashes)))
        for example in self.examples:
            dropped.discard(find_row_index(example))
        self.row_hashes[sorted(dropped)] = 0

    def build_usable(self, encoded: Encoded, row_index: int) -> Example | None:
        """Build a row's example; None, and count it, where no answer is left to learn."""
        if not encoded.answer or len(encoded.input_ids) < 2:
            self.row_errors.drop(NO_ROOM, row_index)
            return None
        self.count_cut(bool(encoded.cut), row_index)
        return build_example(encoded, row_index)

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
            self.cut += 1
            self.cut_rows.append(row_index)

    @property
    def num_tokenized(self) -> int | None:
        """How many rows are tokenised at once; None where all are."""
        selection = self.hf_args.get("choice")
        return selection.tokenized if selection is not None else None

    def is_deferred(self, row_index: int) -> bool:
        """Whether a row is tokenised only when its example is used."""
        return self.num_tokenized is not None and row_index >= self.num_tokenized

    def is_tokenized(self, row: int) -> bool:
        """Whether an example has its tokens already."""
        return DEFERRED not in self.examples[row]

    def encode_deferred(self, row_index: int) -> list[Example]:
        """Build the examples of a row that was not tokenised at once."""
        raise NotImplementedError

    def place(self, row: int) -> str:
        """Say where an example's row stands, as `line 3`."""
        row_index = find_row_index(self.examples[row])
        return self.row_errors.list_places([row_index])

    def notes(self) -> list[str]:
        """Say which rows are dropped, cut, written with special tokens, or stand twice."""
        notes = []
        for reason, count in self.dropped.items():
            num_rows = format_count(count, "row")
            notes.append(f"{num_rows} dropped, {reason}")
        if self.cut:
            places = self.row_errors.list_places(self.cut_rows)
            num_rows = format_count(self.cut, "row")
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
        pieces = self.encode_deferred(row_index)
        self.row_errors.refuse()
        # Of a row that a run would drop, nothing is learned.
        nothing: Example = {
            "input_ids": [self.template.eos],
            "labels": [IGNORED],
            "index": row_index,
        }
        tokenized = pieces[0] if pieces else nothing
        if "weight" in example:
            tokenized["weight"] = example["weight"]
        return tokenized
