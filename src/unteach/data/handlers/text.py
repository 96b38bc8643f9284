"""Plain text as training data: documents, each closed by EOS, cut into rows of at most max_length
tokens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unteach.data import duplicates
from unteach.data.collators import SEGMENT
from unteach.data.documents import find_bos, tokenize_documents
from unteach.data.handlers.qa import Example, note_special
from unteach.data.io import sources, tokenized_paths
from unteach.data.packing import best_fit
from unteach.data.row_errors import no_row_left
from unteach.data.template import Template
from unteach.data.tokenized import token_files
from unteach.data.truncation import IGNORED
from unteach.errors import UserError
from unteach.lazy import np
from unteach.registry import dataset
from unteach.wording import counted

Packing = Literal["chunked", "apart", "best_fit"]


@dataclass(frozen=True)
class Piece:
    """Tokens start to stop of all documents; led: the token before the first only leads in, and is
    of the document."""

    start: int
    stop: int
    led: bool


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
        where = sources.named(self.hf_args)
        if self.max_length < 2:
            raise UserError(f"{where}: max_length must be at least 2, got {self.max_length}")
        self.bos = find_bos(self.template)
        if tokenized_paths.is_tokenized(self.hf_args.get("path")):
            self.tokens, ends = token_files.documents(self.hf_args, self.template.tokenizer)
        else:
            self.tokens, ends = self._tokenise(where)
        if not ends:
            raise UserError(no_row_left(where, self.dropped))
        bounds = (
            [(0, ends[-1])]
            if self.packing == "chunked"
            else list(zip([0, *ends], ends, strict=False))
        )
        self.pieces = [piece for first, last in bounds for piece in self.cut(first, last)]
        self.rows: Sequence[Sequence[int]] = [[number] for number in range(len(self.pieces))]
        if self.packing == "best_fit":
            self.rows = best_fit([self.length(piece) for piece in self.pieces], self.max_length)

    def _tokenise(self, where: str) -> "tuple[token_files.Joined, list[int]]":
        rows = sources.load_rows(self.hf_args)
        numbered, faults = tokenize_documents(self.template, rows, self.text_key, where)
        self.dropped += faults.counted()
        self.row_hashes = duplicates.hash_rows({"text_key": self.text_key}, rows)
        if faults.special:
            self.special_notes = [note_special(faults, faults.special)]
        if "choice" in self.hf_args:
            self.repeated = duplicates.note(self.row_hashes, faults)
        documents = [ids for _, ids in numbered]
        ends = np.cumsum([len(ids) for ids in documents]).tolist()
        return token_files.Joined([np.concatenate(documents)] if documents else []), ends

    def notes(self) -> list[str]:
        """What there is to say about documents that were left out or stand twice."""
        return [
            f"{counted(count, 'row')} dropped, {why}" for why, count in self.dropped.items()
        ] + [
            *self.special_notes,
            *self.repeated,
        ]

    def cut(self, first: int, last: int) -> list[Piece]:
        """The pieces of the tokens first to last."""
        room = self.max_length - 1
        # The first piece needs no room for a token that leads in, where the tokenizer puts no BOS.
        first_stop = min(first + room + (not self.bos), last)
        pieces = [Piece(first, first_stop, led=False)]
        for start in range(first_stop, last, room):
            pieces.append(Piece(start, min(start + room, last), led=not self.bos))
        return pieces

    def length(self, piece: Piece) -> int:
        return len(self.bos) + piece.led + piece.stop - piece.start

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Example:
        ids: list[int] = []
        labels: list[int] = []
        segments: list[int] = []
        pieces = [self.pieces[number] for number in self.rows[row]]
        for number, piece in enumerate(pieces, 1):
            told = [*self.bos, *self.tokens[piece.start - piece.led : piece.stop].tolist()]
            read = len(self.bos) + piece.led
            # what begins a document follows on none
            read = max(read, 1) if len(pieces) > 1 else read
            ids += told
            labels += [IGNORED] * read + told[read:]
            segments += [number] * len(told)
        return {"input_ids": ids, "labels": labels, "index": row} | (
            {SEGMENT: segments} if len(pieces) > 1 else {}
        )
