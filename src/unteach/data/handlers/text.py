"""Plain text as training data: documents, each closed by EOS, cut into rows of at most max_length
tokens."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True)
class Piece:
    """A stretch of the tokens of all documents.

    Args:
        start: its first token.
        stop: the token after its last.
        has_lead: whether the token before the first only leads in, and is of the document.
    """

    start: int
    stop: int
    has_lead: bool


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
        if tokenized_paths.is_tokenized(self.hf_args.get("path")):
            self.tokens, ends = token_files.read_documents(self.hf_args, self.template.tokenizer)
        else:
            self.tokens, ends = self._tokenize(where)
        if not ends:
            raise UserError(explain_no_row_left(where, self.dropped))

        # Documents are cut one by one, or as if all of them were one.
        self.pieces: list[Piece] = []
        start = 0
        if self.packing == "chunked":
            ends = ends[-1:]  # one stretch, whatever documents are in it
        for end in ends:
            self.pieces += self._cut(start, end)
            start = end
        # A row is a piece, or several that fit together.
        self.rows: list[list[int]] = []
        """indices of the pieces of each row"""
        if self.packing == "best_fit":
            lengths = [self._count_tokens(piece) for piece in self.pieces]
            self.rows = pack_best_fit(lengths, self.max_length)
        else:
            self.rows = [[index] for index in range(len(self.pieces))]

    def _tokenize(self, where: str) -> "tuple[token_files.Joined, list[int]]":
        """Tokenize the rows' documents; give their tokens end to end, and where each ends."""
        rows = sources.load_rows(self.hf_args)
        documents, row_errors = tokenize_documents(
            self.template,
            rows,
            self.text_key,
            where,
        )
        self.dropped += row_errors.count_dropped()
        self.row_hashes = duplicates.hash_rows({"text_key": self.text_key}, rows)
        if row_errors.special:
            self.special_notes = [note_special_text(row_errors)]
        if "choice" in self.hf_args:
            self.repeated = duplicates.note_repeats(self.row_hashes, row_errors)
        token_arrays = [ids for _, ids in documents]
        lengths = [len(ids) for ids in token_arrays]
        ends = np.cumsum(lengths).tolist()
        joined = [np.concatenate(token_arrays)] if token_arrays else []
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

    def _cut(self, start: int, stop: int) -> list[Piece]:
        """Cut a stretch of tokens into pieces."""
        max_new = self.max_length - 1
        # The first piece needs no room for a token that leads in, where the tokenizer puts no BOS.
        first_stop = min(start + max_new + (not self.bos), stop)
        pieces = [Piece(start, first_stop, has_lead=False)]
        for piece_start in range(first_stop, stop, max_new):
            piece_stop = min(piece_start + max_new, stop)
            pieces.append(Piece(piece_start, piece_stop, has_lead=not self.bos))
        return pieces

    def _count_tokens(self, piece: Piece) -> int:
        """Count the tokens of a piece with what leads it in."""
        return len(self.bos) + piece.has_lead + piece.stop - piece.start

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Example:
        """Give a row: its pieces end to end, each with what leads it in."""
        ids: list[int] = []
        labels: list[int] = []
        segments: list[int] = []
        pieces = [self.pieces[index] for index in self.rows[row]]
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
