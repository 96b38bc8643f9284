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
from unteach.data.io.arrow_files import read_record_batches
from unteach.data.io.tokenized_paths import MANIFEST, is_tokenized
from unteach.data.row_selection import RowSelection
from unteach.data.template import Template
from unteach.data.truncation import IGNORED
from unteach.errors import UserError, refuse_path, refuse_unreadable
from unteach.lazy import np, pyarrow
from unteach.registry import dataset
from unteach.wording import quote_value

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

FORMAT = 2
AGAIN = "tokenise again (unteach tokenize …)"


class Joined:
    """Arrays one after the other, sliced as if they were one; a slice within one of them is a
    view."""

    def __init__(self, arrays: "Sequence[np.ndarray]"):
        self.arrays = [array for array in arrays if len(array)]
        self.ends = sum_lengths(self.arrays)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, part: slice) -> "np.ndarray":
        start, stop, _ = part.indices(len(self))
        slices = []
        while start < stop:
            array_index, offset = find_part(self.ends, start)
            length = stop - start
            slices.append(self.arrays[array_index][offset : offset + length])
            start = self.ends[array_index]
        if not slices:
            return np.empty(0, np.int32)
        return slices[0] if len(slices) == 1 else np.concatenate(slices)


def sum_lengths(parts: Iterable[Any]) -> list[int]:
    """Sum the lengths of parts that stand one after the other: where each of them ends."""
    ends = []
    end = 0
    for part in parts:
        end += len(part)
        ends.append(end)
    return ends


def find_part(ends: list[int], position: int) -> tuple[int, int]:
    """Find in which part a position lies, and where in it."""
    part_index = bisect.bisect_right(ends, position)
    start = ends[part_index - 1] if part_index else 0
    return part_index, position - start


@dataclass
class Shard:
    """One mapped record batch.

    Args:
        values: tokens of all its rows, end to end.
        offsets: where each row of `values` starts, and the end of the last.
        learned_from: the first learned token of each row, where all after it are learned.
        runs: the lengths of each row's stretches, by turns only read and learned.
        labels: the labels of each row.
    """

    values: "np.ndarray"
    offsets: "np.ndarray"
    learned_from: "np.ndarray | None" = None
    runs: "tuple[np.ndarray, np.ndarray] | None" = None
    labels: "tuple[np.ndarray, np.ndarray] | None" = None

    @property
    def is_text(self) -> bool:
        """Whether all of every row is learned."""
        return self.learned_from is None and self.runs is None and self.labels is None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice_ids(self, row: int) -> "np.ndarray":
        """Slice the tokens of a row."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def build_labels(self, row: int) -> "np.ndarray":
        """Build the row's tokens where they are learned, and -100 elsewhere."""
        if self.labels is not None:
            return _slice_list(self.labels, row)
        labels = self.slice_ids(row).astype(np.int64)
        if self.learned_from is not None:
            labels[: self.learned_from[row]] = IGNORED
        elif self.runs is not None:
            start = 0
            for run_index, length in enumerate(_slice_list(self.runs, row)):
                if run_index % 2 == 0:
                    labels[start : start + length] = IGNORED
                start += length
        return labels


def _slice_list(lists: "tuple[np.ndarray, np.ndarray]", row: int) -> "np.ndarray":
    """Slice one row out of values and their offsets."""
    values, offsets = lists
    return values[offsets[row] : offsets[row + 1]]


def read_shards(path: Path) -> list[Shard]:
    """Map the shards of a tokenised folder or file; ours are read through once for their sha256."""
    if path.is_file():
        return _read_training_code_file(path)
    shards = []
    for name, sha256 in _list_shard_files(path):
        file = path / name
        if not file.is_file() or fingerprints.hash_files(file) != sha256:
            raise UserError(f"{file}: is not the shard that {MANIFEST} tells of; {AGAIN}")
        batches = _read_batches(file)
        with _refuse_other_shapes(file):
            (batch,) = batches
            shards.append(_build_shard(batch))
    return shards


def _list_shard_files(folder: Path) -> list[tuple[str, str]]:
    """List the file and the sha256 of each shard of the manifest, all of them in its folder."""
    files = []
    try:
        for shard in read_manifest(folder)["shards"]:
            files.append((str(shard["file"]), str(shard["sha256"])))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / MANIFEST}: tells of no shards; {AGAIN}") from None
    for name, _ in files:
        refuse_path(name, folder / MANIFEST)
    return files


@contextlib.contextmanager
def _refuse_other_shapes(file: Path) -> Iterator[None]:
    """Refuse columns that are not there or of another kind."""
    errors = (pyarrow.ArrowException, KeyError, AttributeError, TypeError, IndexError)
    with refuse_unreadable(str(file), "has not the columns of a tokenised file", *errors):
        yield


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a tokenised folder."""
    manifest: dict[str, Any] = json_files.read_json(folder / MANIFEST, "the tokenised files")
    if not isinstance(manifest, dict):
        raise UserError(f"{folder / MANIFEST}: must be a mapping; {AGAIN}")
    if manifest.get("format") != FORMAT:
        written = manifest.get("format")
        raise UserError(
            f"{folder}: tokenised in format {written}, and this unteach reads {FORMAT}; do it again"
        )
    return manifest


def _read_batches(file: Path) -> "list[pyarrow.RecordBatch]":
    """Map the record batches of an Arrow file."""
    with refuse_unreadable(str(file), "no whole Arrow file", pyarrow.ArrowException):
        mapped = pyarrow.memory_map(str(file))
        return list(read_record_batches(mapped))


def _build_shard(batch: "pyarrow.RecordBatch") -> Shard:
    """Build a shard of ours from its record batch."""
    columns = {}
    for name in batch.schema.names:
        columns[name], _ = _split_lists(batch.column(name))
    shard = Shard(columns["input_ids"], _sum_offsets(columns["lengths"]))
    if "learned_from" in columns:
        shard.learned_from = columns["learned_from"]
    elif "runs" in columns:
        shard.runs = columns["runs"], _sum_offsets(columns["turns"])
    num_counted = shard.offsets[-1]
    num_tokens = len(shard.values)
    if num_counted != num_tokens:
        raise ValueError(f"its lengths count {num_counted} tokens, and it has {num_tokens}")
    return shard


def _sum_offsets(lengths: "np.ndarray") -> "np.ndarray":
    """Sum lengths into where each row starts, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _split_lists(column: "pyarrow.ListArray[Any]") -> "tuple[np.ndarray, np.ndarray]":
    """Split a list column into its values and offsets, as views."""
    values = column.values.to_numpy(zero_copy_only=True)
    offsets = column.offsets.to_numpy(zero_copy_only=True)
    return values, offsets


def _read_training_code_file(file: Path) -> list[Shard]:
    """Map a file of training-code. Without labels a record batch is a row, and all of it is
    learned."""
    shards = []
    for batch in _read_batches(file):
        with _refuse_other_shapes(file):
            column = batch.column("input_ids")
            if pyarrow.types.is_integer(column.type):
                values = column.to_numpy()
                shards.append(Shard(values, np.array([0, len(values)])))
            elif "labels" in batch.schema.names:
                values, offsets = _split_lists(column)
                labels = _split_lists(batch.column("labels"))
                shards.append(Shard(values, offsets, labels=labels))
            else:
                raise UserError(
                    f"{file}: has lists of input_ids and no labels; unteach tokenize makes files "
                    f"that say both"
                )
    return shards


def hash_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash what tells how a tokenizer makes tokens: its rules and its special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = tokenizer.get_vocab()
    else:
        rules = json.loads(backend.to_str())
        # Other calls on the tokenizer change these.
        rules.pop("padding", None)
        rules.pop("truncation", None)
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    text = json.dumps([rules, ends], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def build_template_facts(template: Template) -> dict[str, Any]:
    """Build what tells how a template asks."""
    facts: dict[str, Any] = {**asdict(template.args), "kind": template.kind}
    if template.kind == "chat":
        facts["chat_template"] = fingerprints.hash_value(template.tokenizer.chat_template)
    return facts


def is_text_file(file: Path) -> bool:
    """Whether one of training-code's files is text, of which all is learned."""
    return all(shard.is_text for shard in _read_training_code_file(file))


def refuse_other_tokenizer(
    path: Path,
    tokenizer: "PreTrainedTokenizerBase",
    shards: Iterable[Shard],
) -> None:
    """Refuse tokens that another tokenizer made.

    Args:
        path: a tokenised folder, whose manifest names its tokenizer, or a file, which does not.
        tokenizer: this model's.
        shards: those of the path, whose tokens a file is judged by.
    """
    if path.is_dir():
        made_by = read_manifest(path).get("tokenizer")
        required = {"fingerprint", "name", "vocabulary"}
        if not isinstance(made_by, dict) or not required <= set(made_by):
            raise UserError(f"{path / MANIFEST}: does not tell of a tokenizer; {AGAIN}")
        if made_by["fingerprint"] != hash_tokenizer(tokenizer):
            own_name = getattr(tokenizer, "name_or_path", "")
            raise UserError(
                f"{path}: made with the tokenizer of {made_by['name']} "
                f"({made_by['vocabulary']} tokens), and this model's "
                f"({own_name}, {len(tokenizer)}) makes other tokens: "
                "tokenise again with tokenizer_path=… of this model, or train that one"
            )
        return
    # A file without a manifest says nothing of its tokenizer.
    for shard in shards:
        if not len(shard.values):
            continue
        for token_id in (int(shard.values.max()), int(shard.values.min())):
            if not 0 <= token_id < len(tokenizer):
                raise UserError(
                    f"{path}: holds the token {token_id}, and this model's tokenizer has "
                    f"{len(tokenizer)}"
                )


def read_documents(
    hf_args: dict[str, Any],
    tokenizer: "PreTrainedTokenizerBase",
) -> tuple[Joined, list[int]]:
    """Read tokenised text: the tokens of all documents, and where each of them ends."""
    path = Path(hf_args["path"])
    shards = read_shards(path)
    refuse_other_tokenizer(path, tokenizer, shards)
    if not all(shard.is_text for shard in shards):
        raise UserError(
            f"{path}: holds prompts and answers; text to pretrain on is made with kind=text"
        )
    arrays = []
    for shard in shards:
        start = shard.offsets[0]
        stop = shard.offsets[-1]
        arrays.append(shard.values[start:stop])
    lengths = np.concatenate([np.diff(shard.offsets) for shard in shards])
    selection: RowSelection | None = hf_args.get("choice")
    if selection is not None and selection != selection.drop_limits():
        joined = Joined(arrays)
        ends = np.cumsum(lengths)
        selected = selection.select_indices(len(lengths))
        arrays = []
        for index in selected:
            stop = int(ends[index])
            start = stop - int(lengths[index])
            arrays.append(joined[start:stop])
        lengths = lengths[selected]
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
        refuse_other_tokenizer(path, self.template.tokenizer, self.shards)
        if path.is_dir():
            self._refuse_other_template(path)
        self.ends = sum_lengths(self.shards)
        selection = self.hf_args.get("choice") or RowSelection()
        self.row_indices = selection.select_indices(self.ends[-1])

    def _refuse_other_template(self, path: Path) -> None:
        """Refuse tokens that were made with another template than the run asks with."""
        made_with = read_manifest(path).get("template")
        if not isinstance(made_with, dict):
            raise UserError(f"{path / MANIFEST}: does not tell of a template; {AGAIN}")
        own = build_template_facts(self.template)
        differences = []
        for name in sorted({*made_with, *own}):
            old = made_with.get(name)
            new = own.get(name)
            if old != new:
                differences.append(f"{name} was {quote_value(old)} and is {quote_value(new)}")
        if differences:
            listed = ", ".join(differences)
            raise UserError(
                f"{path}: made with another template ({listed}); tokenise again, "
                "or set model.template_args"
            )

    def __len__(self) -> int:
        return len(self.row_indices)

    def place(self, row: int) -> str:
        """Say which row of the tokenised file an example is, counted from 1."""
        return f"row {self.row_indices[row] + 1}"

    def __getitem__(self, row: int) -> dict[str, Any]:
        row_index = self.row_indices[row]
        shard_index, shard_row = find_part(self.ends, row_index)
        shard = self.shards[shard_index]
        return {
            "input_ids": shard.slice_ids(shard_row),
            "labels": shard.build_labels(shard_row),
            "index": row_index,
        }
