"""Rows to tokenised files: streamed in, tokenised by several processes, written shard by shard.

Rows go through the handler that training reads them with, a chunk at a time, so that a tokenised
file holds what training would have made. Shards that are whole stay in `.<name>.partial` beside the
place where the files will be, and the same command goes on after them. Once its manifest is
written, that folder itself takes its place under one rename: no shard is ever moved out of it.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, fingerprints, json_files, registry, wording
from unteach.atomic import atomic_write
from unteach.data.documents import find_bos, tokenize_documents
from unteach.data.io import tables, tokenized_paths
from unteach.data.io.sources import Rows
from unteach.data.row_errors import SHOWN, no_row_left
from unteach.data.template import Template
from unteach.data.tokenized import token_files
from unteach.data.truncation import IGNORED, TooLong, truncate
from unteach.errors import UserError
from unteach.lazy import np, pyarrow

if TYPE_CHECKING:
    import numpy as np

CHUNK_ROWS = 512
"""Rows that a process takes at a time."""
HEAD = "head.json"
OWN_NAME = re.compile(r"head\.json|unteach_tokens\.json|tokens-\d+\.(arrow|json)")
"""What unfinished files are called."""
SHARD_TOKENS = 1 << 24
"""A shard is written once it has so many tokens: 64 MiB of ids."""


@dataclass(frozen=True)
class Recipe:
    """How rows become tokens. columns: the handler's arguments that name the columns it reads."""

    handler: str
    columns: dict[str, Any]
    template: Template
    max_length: int
    too_long: TooLong

    @property
    def of_text(self) -> bool:
        return self.handler == "PretrainingDataset"

    def __call__(self, rows: Rows, where: str) -> "Made":
        """The tokens of a chunk of rows."""
        return self._documents(rows, where) if self.of_text else self._answers(rows, where)

    def _answers(self, rows: Rows, where: str) -> "Made":
        cls: Any = registry.dataset.get(self.handler)
        policy = {"too_long": self.too_long} if "too_long" in cls.__dataclass_fields__ else {}
        handler = cls(
            template=self.template,
            hf_args={"path": where, "rows": rows},
            max_length=self.max_length,
            **self.columns,
            **policy,
        )
        made = Made.of(
            rows,
            handler.faults,
            handler.cut_rows,
            {example["index"] for example in handler.examples},
        )
        for key, numbers in getattr(handler, "unshown", {}).items():
            made.counts.unshown[key] = told_rows(rows, numbers)
        for example in handler.examples:
            made.add(example["input_ids"], runs_of(example["labels"]))
        return made

    def _documents(self, rows: Rows, where: str) -> "Made":
        documents, faults = tokenize_documents(self.template, rows, self.columns["text_key"], where)
        room = self.max_length - len(find_bos(self.template))
        whole = self.too_long == "split"  # training cuts documents into its rows
        fitted = [
            (n, len(ids) > room, [(ids, ids)] if whole else truncate(ids, ids, room, self.too_long))
            for n, ids in documents
        ]
        for number in (number for number, _, pieces in fitted if not pieces):
            faults.drop(f"more than {room} tokens", number)
        cut = [number for number, longer, pieces in fitted if longer and pieces and not whole]
        made = Made.of(rows, faults, cut, {number for number, _, pieces in fitted if pieces})
        for ids, _ in (piece for _, _, pieces in fitted for piece in pieces):
            made.add(ids, None)
        return made


@dataclass
class Made:
    """The tokens of a chunk, and what became of its rows."""

    counts: "Counts"
    ids: "list[np.ndarray]" = field(default_factory=list)
    runs: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Rows, faults: Any, cut: list[int], kept: set[int]) -> "Made":
        dropped = {why: told_rows(rows, numbers) for why, numbers in faults.empty.items()}
        return cls(Counts(len(rows), len(kept), told_rows(rows, cut), dropped))

    def add(self, ids: Any, runs: list[int] | None) -> None:
        self.ids.append(np.asarray(ids, np.int32))
        learned = len(ids) if runs is None else sum(runs[1::2])
        self.runs += [] if runs is None else [runs]
        self.counts.add(len(ids), learned)


def told_rows(rows: Rows, numbers: list[int]) -> list[Any]:
    """How many rows, and the places of the first."""
    return [len(numbers), [str(rows.places[number]) for number in numbers[:SHOWN]]]


@dataclass
class Counts:
    """What became of rows, and how long what they gave is. cut, dropped, unshown (by a key of
    conversations that the chat template does not show): how many, and the first places."""

    read: int = 0
    kept: int = 0
    cut: list[Any] = field(default_factory=lambda: [0, []])
    dropped: dict[str, list[Any]] = field(default_factory=dict)
    examples: int = 0
    tokens: int = 0
    learned: int = 0
    longest: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    """how many have at most so many tokens, and more than half of them"""
    unshown: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, length: int, learned: int) -> None:
        self.examples = self.examples + 1
        self.tokens = self.tokens + length
        self.learned = self.learned + learned
        self.longest = max(self.longest, length)
        upper = str(1 << (length - 1).bit_length())
        self.lengths[upper] = self.lengths.get(upper, 0) + 1

    def merge(self, other: "Counts") -> None:
        for name in ("read", "kept", "examples", "tokens", "learned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self._add_places(self.cut, other.cut)
        for why, told in other.dropped.items():
            self._add_places(self.dropped.setdefault(why, [0, []]), told)
        for key, told in other.unshown.items():
            self._add_places(self.unshown.setdefault(key, [0, []]), told)
        for upper, count in other.lengths.items():
            self.lengths[upper] = self.lengths.get(upper, 0) + count

    @staticmethod
    def _add_places(mine: list[Any], other: list[Any]) -> None:
        mine[:] = [mine[0] + other[0], [*mine[1], *other[1]][:SHOWN]]


def runs_of(labels: Any) -> list[int]:
    """The lengths of the stretches of a row, by turns only read and learned; the first may be 0."""
    learned = [label != IGNORED for label in labels]
    stretches = [(told, len(list(same))) for told, same in itertools.groupby(learned)]
    return [*([0] if stretches[0][0] else []), *(length for _, length in stretches)]


def facts(table: tables.Table, recipe: Recipe, tokenizer_path: str) -> dict[str, Any]:
    """What tells these tokens from all others: the rows, the columns, the tokenizer, the template,
    the policy."""
    tokenizer = recipe.template.tokenizer
    return {
        "kind": "text" if recipe.of_text else "answers",
        "source": {str(file): fingerprints.hash_files(file) for file in table.files}
        or {table.where: None},
        "columns": recipe.columns,
        "tokenizer": {
            "name": tokenizer_path,
            "fingerprint": token_files.tokenizer_fingerprint(tokenizer),
            "vocabulary": len(tokenizer),
            "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        },
        "template": None if recipe.of_text else token_files.template_facts(recipe.template),
        "max_length": recipe.max_length,
        "too_long": recipe.too_long,
    }


def write(
    table: tables.Table, recipe: Recipe, output: Path, processes: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes the tokenised files of a table to the folder `output`; gives the manifest.

    facts: what stands in the manifest and, if it differs, makes shards of an earlier try worthless.
    """
    partial = output.with_name(f".{output.name}.partial")
    _open_partial(partial, facts)
    if (partial / tokenized_paths.MANIFEST).exists():
        return _finish(partial, output)
    shards = _whole_shards(partial)
    total = Counts()
    for shard in shards:
        total.merge(Counts(**shard.pop("counts")))
    chunks = _chunks(table, skip=total.read)
    for made in _gathered(_in_order(chunks, lambda rows: recipe(rows, table.where), processes)):
        shard = _write_shard(partial, len(shards), made)
        total.merge(Counts(**shard.pop("counts")))
        shards.append(shard)
        print(
            f"{shard['file']}: {wording.counted(total.read, 'row')} read, "
            f"{wording.counted(total.tokens, 'token')}",
            flush=True,
        )
    shards = [shard for shard in shards if shard["rows"]]
    if not shards:
        raise UserError(no_row_left(table.where, _with_places(total.dropped)))
    manifest = {"format": token_files.FORMAT, **facts, **counted(total), "shards": shards}
    atomic.write_json(partial / tokenized_paths.MANIFEST, manifest)
    return _finish(partial, output)


def _open_partial(partial: Path, facts: dict[str, Any]) -> None:
    """Make the folder of unfinished files ready: shards that were made of something else go."""
    head = partial / HEAD
    names = (
        [path.name for path in partial.iterdir() if not atomic.is_temporary(path)]
        if partial.is_dir()
        else []
    )
    if strange := sorted(name for name in names if not OWN_NAME.fullmatch(name)):
        raise UserError(
            f"{partial}: is for unfinished tokens, and holds {strange[0]}; move it away"
        )
    if (partial / tokenized_paths.MANIFEST).exists():
        made = json_files.read_mapping(partial / tokenized_paths.MANIFEST, "the unfinished files")
        if all(
            made.get(name) == fact for name, fact in _as_read_back(facts).items()
        ) and _has_shards(partial, made):
            return
    elif head.exists() and json_files.read_json(head, "the unfinished files") == _as_read_back(
        facts
    ):
        return
    # The head goes first: without it, nothing there counts.
    for name in sorted(names, key=lambda name: name != HEAD):
        (partial / name).unlink()
    atomic.write_json(head, facts)


def _as_read_back(facts: dict[str, Any]) -> Any:
    return json.loads(json.dumps(facts))


def _has_shards(partial: Path, manifest: dict[str, Any]) -> bool:
    files = {partial / shard["file"]: shard["bytes"] for shard in manifest["shards"]}
    return all(file.is_file() and file.stat().st_size == size for file, size in files.items())


def _finish(partial: Path, output: Path) -> dict[str, Any]:
    """Take away what only unfinished files need, and put the folder in its place.

    Cut off anywhere, the same again ends the same: the manifest is there and says which shards
    belong to it.
    """
    manifest = json_files.read_mapping(partial / tokenized_paths.MANIFEST, "the tokenised files")
    kept = {tokenized_paths.MANIFEST, *(shard["file"] for shard in manifest["shards"])}
    atomic.remove_stale_temp_files(partial)
    for path in list(partial.iterdir()):
        if path.name not in kept and OWN_NAME.fullmatch(path.name):
            path.unlink()
    atomic.sync(partial)
    atomic.rename(partial, output)
    return manifest


def counted(total: Counts) -> dict[str, Any]:
    """The counts as the manifest has them."""
    told = dataclasses.asdict(total)
    rows = {name: told.pop(name) for name in ("read", "kept")}
    (cut, cut_at), dropped, unshown = told.pop("cut"), told.pop("dropped"), told.pop("unshown")
    rows |= {"cut": cut, "dropped": {why: count for why, (count, _) in dropped.items()}}
    rows["first"] = {why: places for why, (_, places) in dropped.items()} | (
        {"cut": cut_at} if cut else {}
    )
    rows |= {"unshown": unshown} if unshown else {}
    told["lengths"] = {upper: told["lengths"][upper] for upper in sorted(told["lengths"], key=int)}
    return {"rows": rows, **told}


def _with_places(dropped: dict[str, list[Any]]) -> dict[str, int]:
    """Why rows were dropped, with the first places -> how many."""
    return {
        f"{why} ({', '.join(places)}{' …' if count > SHOWN else ''})": count
        for why, (count, places) in dropped.items()
    }


def _chunks(table: tables.Table, skip: int) -> Iterator[Rows]:
    placed = itertools.islice(table, skip, None)
    while rows := Rows(itertools.islice(placed, CHUNK_ROWS)):
        yield rows


def _gathered(chunks: Iterable[Made]) -> Iterator[Made]:
    """Chunks put together until they fill a shard."""
    whole = Made(Counts())
    for made in chunks:
        whole.counts.merge(made.counts)
        whole.ids += made.ids
        whole.runs += made.runs
        if whole.counts.tokens >= SHARD_TOKENS:
            yield whole
            whole = Made(Counts())
    if whole.counts.read:
        yield whole


def _write_shard(folder: Path, number: int, made: Made) -> dict[str, Any]:
    """Writes a shard and, after it, what is told of it: only then does it count."""

    columns = {
        "input_ids": np.concatenate(made.ids) if made.ids else np.empty(0, np.int32),
        "lengths": _least([len(ids) for ids in made.ids]),
    }
    if made.runs and all(len(runs) == 2 for runs in made.runs):
        columns["learned_from"] = _least([runs[0] for runs in made.runs])
    elif made.runs:
        columns["turns"] = _least([len(runs) for runs in made.runs])
        columns["runs"] = _least(list(itertools.chain.from_iterable(made.runs)))
    batch = pyarrow.record_batch({name: _one_list(values) for name, values in columns.items()})
    file = folder / f"tokens-{number:05d}.arrow"
    with (
        atomic_write(file) as temporary,
        pyarrow.ipc.new_file(str(temporary), batch.schema) as writer,
    ):
        writer.write_batch(batch)
    told = {
        "file": file.name,
        "rows": len(made.ids),
        "tokens": made.counts.tokens,
        "bytes": file.stat().st_size,
    }
    told |= {"sha256": fingerprints.hash_files(file), "counts": dataclasses.asdict(made.counts)}
    atomic.write_json(file.with_suffix(".json"), told)
    return told


def _least(counts: list[int]) -> "np.ndarray":
    """As an array of the least unsigned type that holds them."""
    return np.array(counts, np.min_scalar_type(max(counts, default=0)))


def _one_list(values: "np.ndarray") -> Any:
    """A column of one row, which is a list of all the values."""
    return pyarrow.ListArray.from_arrays(
        pyarrow.array([0, len(values)], pyarrow.int32()), pyarrow.array(values)
    )


def _whole_shards(folder: Path) -> list[dict[str, Any]]:
    """What is told of the shards that an earlier try finished, up to the first that is not
    there."""
    found: list[dict[str, Any]] = []
    while (file := folder / f"tokens-{len(found):05d}.json").exists():
        told = json_files.read_mapping(file, "a finished shard")
        tokens = folder / told["file"]
        if not tokens.is_file() or fingerprints.hash_files(tokens) != told["sha256"]:
            print(f"note: {tokens} is missing or damaged; it and what follows it is made again")
            break
        found.append(told)
    return found


def _in_order(
    chunks: Iterable[Rows], work: Callable[[Rows], Made], processes: int
) -> Iterator[Made]:
    """The work on each chunk, in the order of the chunks; never more of them at hand than keeps all
    processes busy."""
    if processes == 1:
        yield from map(work, chunks)
        return
    global _work
    _work = work  # which a forked process has without its being sent
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("fork"), _end_with_parent
    ) as pool:
        waiting: deque[Any] = deque()
        for rows in chunks:
            waiting.append(pool.submit(_at_work, rows))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_work: Callable[[Rows], Made]


def _at_work(rows: Rows) -> Made:
    return _work(rows)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
