"""Plain text as training data: documents, each closed by EOS, cut into rows of at most max_length
tokens."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from unteach.data import duplicates
from unteach.data.documents import find_bos, read_documents, tokenize_documents
from unteach.data.examples import SEGMENT, Example
from unteach.data.handlers.base import note_special_text
from unteach.data.io import sources, tokenized_paths
from unteach.data.packing import pack_best_fit
from unteach.data.row_errors import RowErrors, explain_no_row_left
from unteach.data.template import Template
from unteach.data.tokenized import token_files
from unteach.data.truncation import IGNORED
from unteach.errors import UserError
from unteach.lazy import np
from unteach.registry import dataset
from unteach.wording import format_count

Packing = Literal["chunked", "apart", "best_fit"]


class Piece(NamedTuple):
    """A stretch of the tokens of all documents.

    Attributes:
        start: its first token.
        stop: the token after its last.
        has_lead: whether the token before the first only leads in, and is of the document.
    """

    start: int
    stop: int
    has_lead: bool


class Pieces(Sequence[Piece]):
    """Pieces in arrays, each made anew whenever it is asked for."""

    def __init__(self) -> None:
        self._starts, self._stops = array("q"), array("q")
        self._have_lead = bytearray()

    def append(self, start: int, stop: int, has_lead: bool) -> None:
        """Add a piece."""
        self._starts.append(start)
        self._stops.append(stop)
        self._have_lead.append(has_lead)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Piece:  # type: ignore[override]
        return Piece(self._starts[index], self._stops[index], bool(self._have_lead[index]))


@dataset
@dataclass
class PretrainingDataset:
    """Plain text, every token learned: documents one after the other, each closed by EOS, cut into
    pieces.

    A piece has at most max_length tokens. The first only leads in and is not learned: BOS or, where
    the tokenizer puts none, the token before; the first piece has none before it. packing:
    `chunked` cuts all documents as if they were one; `apart` puts tokens of one document into a
    row; `best_fit` puts the pieces of several into one, none of which sees, or follows on, another.
    text_key: a column, or several whose words are joined as they are. hf_args.path may be a
    tokenised file.
    """

    template: Template
    hf_args: dict[str, Any]
    text_key: str | list[str] = "text"
    max_length: int = 2048
    packing: Packing = "chunked"
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    row_hashes: Any = field(init=False, default=None)
    """an array with a number for each document, equal where two say the same; None for tokens"""
    repeated: list[str] = field(init=False, default_factory=list)
    special_notes: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        where = sources.describe_source(self.hf_args)
        if self.max_length < 2:
            raise UserError(f"{where}: max_length must be at least 2, got {self.max_length}")
        self.bos = find_bos(self.template)
        ends: Sequence[int]
        if tokenized_paths.is_tokenized(self.hf_args.get("path")):
            self.tokens, ends = token_files.read_documents(self.hf_args, self.template.tokenizer)
        else:
            self.tokens, ends = self._tokenize(where)
        if not ends:
            raise UserError(explain_no_row_left(where, self.dropped))

        # Documents are cut one by one, or as if all of them were one.
        self.pieces = Pieces()
        start = 0
        if self.packing == "chunked":
            ends = ends[-1:]  # one stretch, whatever documents are in it
        for end in ends:
            self._cut(start, end)
            start = end
        self.packed: list[list[int]] | None = None
        """indices of the pieces of each row; None: a row is a piece"""
        if self.packing == "best_fit":
            lengths = [self._count_tokens(piece) for piece in self.pieces]
            self.packed = pack_best_fit(lengths, self.max_length)

    def _tokenize(self, where: str) -> "tuple[token_files.Joined, Sequence[int]]":
        """Tokenize the rows' documents; give their tokens end to end, and where each ends."""
        rows = sources.load_rows(self.hf_args)
        row_errors = RowErrors(where, rows)
        tokens, ends = array("i"), array("q")
        for _, ids in tokenize_documents(self.template, self.text_key, row_errors):
            tokens.extend(ids)
            ends.append(len(tokens))
        row_errors.refuse()
        self.dropped += row_errors.count_dropped()
        self.row_hashes = duplicates.hash_rows({"text_key": self.text_key}, rows)
        if row_errors.special:
            self.special_notes = [note_special_text(row_errors)]
        if "choice" in self.hf_args:
            self.repeated = duplicates.note_repeats(self.row_hashes, row_errors)
        joined = [np.frombuffer(tokens, np.int32)] if tokens else []
        return token_files.Joined(joined), ends

    def read_documents(self) -> tuple[list[tuple[int, str]], RowErrors]:
        """Read the documents' texts again, each with the index of its row: of a corpus that is
        trained on the tokens alone are kept.

        Raises:
            UserError: the source has no texts.
        """
        where = sources.describe_source(self.hf_args)
        if tokenized_paths.is_tokenized(self.hf_args.get("path")):
            raise UserError(f"{where}: holds tokens and no texts; name the file of the texts")
        return read_documents(sources.load_rows(self.hf_args), self.text_key, where)

    def notes(self) -> list[str]:
        """Say which documents are left out, hold special tokens, or stand twice."""
        dropped = []
        for reason, count in self.dropped.items():
            num_rows = format_count(count, "row")
            dropped.append(f"{num_rows} dropped, {reason}")
        return dropped + self.special_notes + self.repeated

    def _cut(self, start: int, stop: int) -> None:
        """Cut a stretch of tokens into pieces."""
        max_new = self.max_length - 1
        # The first piece needs no room for a token that leads in, where the tokenizer puts no BOS.
        first_stop = min(start + max_new + (not self.bos), stop)
        self.pieces.append(start, first_stop, has_lead=False)
        for piece_start in range(first_stop, stop, max_new):
            piece_stop = min(piece_start + max_new, stop)
            self.pieces.append(piece_start, piece_stop, has_lead=not self.bos)

    def _count_tokens(self, piece: Piece) -> int:
        """Count the tokens of a piece with what leads it in."""
        return len(self.bos) + piece.has_lead + piece.stop - piece.start

    def __len__(self) -> int:
        return len(self.pieces if self.packed is None else self.packed)

    def __getitem__(self, row: int) -> Example:
        """Give a row: its pieces end to end, each with what leads it in."""
        ids: list[int] = []
        labels: list[int] = []
        segments: list[int] = []
        indices = [row] if self.packed is None else self.packed[row]
        pieces = [self.pieces[index] for index in indices]
        for segment, piece in enumerate(pieces, 1):
            first = piece.start - piece.has_lead
            piece_ids = [*self.bos, *self.tokens[first : piece.stop].tolist()]
            num_read = len(self.bos) + piece.has_lead
            if len(pieces) > 1:
                # The first token of a document follows on none.
                num_read = max(num_read, 1)
            ids += piece_ids
            labels += [IGNORED] * num_read + piece_ids[num_read:]
            segments += [segment] * len(piece_ids)
        example: Example = {
            "input_ids": ids,
            "labels": labels,
            "index": row,
        }
        if len(pieces) > 1:
            example[SEGMENT] = segments
        return example
