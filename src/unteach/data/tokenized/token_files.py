"""Tokenised files: a folder of memory-mapped Arrow shards with a manifest, as `unteach tokenize`
writes it.

A shard is an Arrow IPC file of one record batch with one row, of which each column is a list:
`input_ids`, int32, the tokens of all its examples end to end; `lengths`, how many each example has;
and what the mask needs: nothing for text, of which all is learned; `learned_from`, where an example
is learned from one token on to its end; otherwise `turns`, how many stretches an example has, and
`runs`, the lengths of all stretches, by turns only read and learned. A column of counts is of the
least unsigned type that holds them. Examples are numpy views of the mapped file.

The files of PygmalionAI's training-code are read too: `input_ids` and `labels` as lists of int64, a
row each, or plain int64 `input_ids` without labels, of which each record batch is a row.
"""

import bisect
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import fingerprints, json_files
from unteach.data.io.arrow_files import record_batches
from unteach.data.io.tokenized_paths import MANIFEST, is_tokenized
from unteach.data.row_selection import RowSelection
from unteach.data.template import Template
from unteach.data.truncation import IGNORED
from unteach.errors import UserError, refuse_path, refuse_unreadable
from unteach.lazy import np, pyarrow
from unteach.registry import dataset
from unteach.wording import shown

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

FORMAT = 2


class Joined:
    """Arrays one after the other, sliced as if they were one; a slice within one of them is a
    view."""

    def __init__(self, arrays: "Sequence[np.ndarray]"):
        self.arrays = [array for array in arrays if len(array)]
        self.ends: list[int] = []
        for array in self.arrays:
            self.ends.append((self.ends[-1] if self.ends else 0) + len(array))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, part: slice) -> "np.ndarray":
        start, stop, _ = part.indices(len(self))
        found = []
        while start < stop:
            place = bisect.bisect_right(self.ends, start)
            first = self.ends[place - 1] if place else 0
            found.append(self.arrays[place][start - first : stop - first])
            start = self.ends[place]
        return (
            found[0]
            if len(found) == 1
            else np.concatenate(found)
            if found
            else np.empty(0, np.int32)
        )


@dataclass
class Shard:
    """One mapped record batch. offsets: where each row of `values` starts, and the end of the last.

    mask: `learned_from`, an array; or `runs` or `labels`, values and offsets; or nothing.
    """

    values: "np.ndarray"
    offsets: "np.ndarray"
    mask: "dict[str, Any]"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def ids(self, row: int) -> "np.ndarray":
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def labels(self, row: int) -> "np.ndarray":
        """The row's tokens where they are learned, and -100 elsewhere."""
        if "labels" in self.mask:
            values, offsets = self.mask["labels"]
            return values[offsets[row] : offsets[row + 1]]
        labels = self.ids(row).astype(np.int64)
        if "learned_from" in self.mask:
            labels[: self.mask["learned_from"][row]] = IGNORED
        elif "runs" in self.mask:
            values, offsets = self.mask["runs"]
            start = 0
            for turn, length in enumerate(values[offsets[row] : offsets[row + 1]]):
                if turn % 2 == 0:
                    labels[start : start + length] = IGNORED
                start += length
        return labels


def read_shards(path: Path) -> list[Shard]:
    """The shards of a tokenised folder or file, mapped; ours are first read through once, for their
    sha256."""
    if path.is_file():
        return _theirs(path)
    shards = []
    for name, sha256 in _named_shards(path):
        file = path / name
        if not file.is_file() or fingerprints.hash_files(file) != sha256:
            raise UserError(
                f"{file}: is not the shard that {MANIFEST} tells of; tokenise again (unteach "
                f"tokenize …)"
            )
        batches = _batches(file)
        with _refuse_other_shapes(file):
            (batch,) = batches
            shards.append(_shard(batch))
    return shards


def _named_shards(folder: Path) -> list[tuple[str, str]]:
    """The file and the sha256 of each shard that the manifest tells of, all of them in its
    folder."""
    try:
        named = [(str(shard["file"]), str(shard["sha256"])) for shard in manifest(folder)["shards"]]
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{folder / MANIFEST}: tells of no shards; tokenise again (unteach tokenize …)"
        ) from None
    for name, _ in named:
        refuse_path(name, folder / MANIFEST)
    return named


@contextlib.contextmanager
def _refuse_other_shapes(file: Path) -> Iterator[None]:
    """Within it, columns that are not there or of another kind are a message."""
    kinds = (pyarrow.ArrowException, KeyError, AttributeError, TypeError, IndexError)
    with refuse_unreadable(str(file), "has not the columns of a tokenised file", *kinds):
        yield


def manifest(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json_files.read_json(folder / MANIFEST, "the tokenised files")
    if not isinstance(told, dict):
        raise UserError(
            f"{folder / MANIFEST}: must be a mapping; tokenise again (unteach tokenize …)"
        )
    if told.get("format") != FORMAT:
        raise UserError(
            f"{folder}: tokenised in format {told.get('format')}, and this unteach reads {FORMAT}; "
            f"do it again"
        )
    return told


def _batches(file: Path) -> list[Any]:
    with refuse_unreadable(str(file), "no whole Arrow file", pyarrow.ArrowException):
        return list(record_batches(pyarrow.memory_map(str(file))))


def _shard(batch: Any) -> Shard:
    columns = {name: _flat(batch.column(name))[0] for name in batch.schema.names}
    mask: dict[str, Any] = {}
    if "learned_from" in columns:
        mask["learned_from"] = columns["learned_from"]
    elif "runs" in columns:
        mask["runs"] = columns["runs"], _offsets(columns["turns"])
    shard = Shard(columns["input_ids"], _offsets(columns["lengths"]), mask)
    if shard.offsets[-1] != len(shard.values):
        raise ValueError(
            f"its lengths count {shard.offsets[-1]} tokens, and it has {len(shard.values)}"
        )
    return shard


def _offsets(lengths: "np.ndarray") -> "np.ndarray":
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _flat(column: Any) -> "tuple[np.ndarray, np.ndarray]":
    """(values, offsets) of a list column, as views."""
    return column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)


def _theirs(file: Path) -> list[Shard]:
    """training-code's files. Without labels a record batch is a row, and all of it is learned."""

    shards = []
    for batch in _batches(file):
        with _refuse_other_shapes(file):
            column = batch.column("input_ids")
            if pyarrow.types.is_integer(column.type):
                values = column.to_numpy()
                shards.append(Shard(values, np.array([0, len(values)]), {}))
            elif "labels" in batch.schema.names:
                shards.append(Shard(*_flat(column), {"labels": _flat(batch.column("labels"))}))
            else:
                raise UserError(
                    f"{file}: has lists of input_ids and no labels; unteach tokenize makes files "
                    f"that say both"
                )
    return shards


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What tells how a tokenizer makes tokens from all others: its rules and its special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if backend is not None:  # which other calls on the tokenizer change
        rules = {
            name: rule for name, rule in rules.items() if name not in ("padding", "truncation")
        }
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps([rules, ends], sort_keys=True).encode()).hexdigest()[:32]


def template_facts(template: Template) -> dict[str, Any]:
    """What tells how a template asks from all others."""
    facts: dict[str, Any] = {**asdict(template.args), "kind": template.kind}
    if template.kind == "chat":
        facts["chat_template"] = fingerprints.hash_value(template.tokenizer.chat_template)
    return facts


def is_text(file: Path) -> bool:
    """Whether one of training-code's files is text, of which all is learned."""
    return not any(shard.mask for shard in _theirs(file))


def check(path: Path, tokenizer: "PreTrainedTokenizerBase", shards: Iterable[Shard]) -> None:
    """Refuses tokens that another tokenizer made."""
    if path.is_dir():
        made = manifest(path).get("tokenizer")
        if not isinstance(made, dict) or not {"fingerprint", "name", "vocabulary"} <= set(made):
            raise UserError(
                f"{path / MANIFEST}: does not tell of a tokenizer; tokenise again (unteach "
                f"tokenize …)"
            )
        if made["fingerprint"] != tokenizer_fingerprint(tokenizer):
            raise UserError(
                f"{path}: made with the tokenizer of {made['name']} ({made['vocabulary']} tokens), "
                f"and this model's ({getattr(tokenizer, 'name_or_path', '')}, {len(tokenizer)}) "
                "makes other tokens: tokenise again with tokenizer_path=… of this model, or train "
                "that one"
            )
        return
    for values in (shard.values for shard in shards if len(shard.values)):
        for token in (int(values.max()), int(values.min())):
            if not 0 <= token < len(tokenizer):
                raise UserError(
                    f"{path}: holds the token {token}, and this model's tokenizer has "
                    f"{len(tokenizer)}"
                )


def documents(
    hf_args: dict[str, Any], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[Joined, list[int]]:
    """The tokens of tokenised text, and where each document ends."""
    path = Path(hf_args["path"])
    shards = read_shards(path)
    check(path, tokenizer, shards)
    if any(shard.mask for shard in shards):
        raise UserError(
            f"{path}: holds prompts and answers; text to pretrain on is made with kind=text"
        )
    lengths = np.concatenate([np.diff(shard.offsets) for shard in shards])
    choice: RowSelection | None = hf_args.get("choice")
    arrays = [shard.values[shard.offsets[0] : shard.offsets[-1]] for shard in shards]
    if choice is not None and choice != choice.whole():
        joined, ends = Joined(arrays), np.cumsum(lengths)
        taken = choice.numbers(len(lengths))
        arrays = [joined[int(ends[n] - lengths[n]) : int(ends[n])] for n in taken]
        lengths = lengths[taken]
    return Joined(arrays), np.cumsum(lengths).tolist()


@dataset
@dataclass
class TokenizedDataset:
    """Rows of a tokenised file of prompts and answers, as `unteach tokenize` made them."""

    template: Template
    hf_args: dict[str, Any]
    shards: list[Shard] = field(init=False)
    dropped: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        path = Path(self.hf_args["path"])
        if not is_tokenized(path):
            raise UserError(f"{path}: holds no {MANIFEST}; unteach tokenize makes such folders")
        self.shards = read_shards(path)
        check(path, self.template.tokenizer, self.shards)
        if path.is_dir():
            self._same_template(path)
        self.ends: list[int] = []
        for shard in self.shards:
            self.ends.append((self.ends[-1] if self.ends else 0) + len(shard))
        choice = self.hf_args.get("choice") or RowSelection()
        self.numbers = choice.numbers(self.ends[-1])

    def _same_template(self, path: Path) -> None:
        made, here = manifest(path).get("template"), template_facts(self.template)
        if not isinstance(made, dict):
            raise UserError(
                f"{path / MANIFEST}: does not tell of a template; tokenise again (unteach tokenize "
                f"…)"
            )
        if odd := sorted(name for name in {*made, *here} if made.get(name) != here.get(name)):
            told = ", ".join(
                f"{name} was {shown(made.get(name))} and is {shown(here.get(name))}" for name in odd
            )
            raise UserError(
                f"{path}: made with another template ({told}); tokenise again, or set "
                f"model.template_args"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, row: int) -> str:
        """Which row of the tokenised file an example is, counted from 1."""
        return f"row {self.numbers[row] + 1}"

    def __getitem__(self, row: int) -> dict[str, Any]:
        number = self.numbers[row]
        place = bisect.bisect_right(self.ends, number)
        shard, inside = self.shards[place], number - (self.ends[place - 1] if place else 0)
        return {"input_ids": shard.ids(inside), "labels": shard.labels(inside), "index": number}
