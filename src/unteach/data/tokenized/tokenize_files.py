"""Rows to tokenised files: streamed in, tokenised by several processes, written shard by shard.

Rows go through the handler that training reads them with, a chunk at a time, so that a tokenised
file holds what training would have made. Shards that are whole stay in `.<name>.partial` beside the
place where the files will be, and the same command goes on after them. Once its manifest is
written, that folder itself takes its place under one rename: no shard is ever moved out of it.
"""

import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, fingerprints, json_files
from unteach.data.io.tables import Table
from unteach.data.io.tokenized_paths import MANIFEST
from unteach.data.row_errors import MAX_LISTED, explain_no_row_left
from unteach.data.rows import Rows
from unteach.data.tokenized.ordered_pool import map_in_order
from unteach.data.tokenized.recipe import Recipe, RowCount, TokenCounts, TokenizedChunk
from unteach.data.tokenized.token_files import FORMAT
from unteach.errors import UserError
from unteach.lazy import np, pyarrow
from unteach.wording import format_count

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

CHUNK_ROWS = 512
"""Rows that a process takes at a time."""
HEAD = "head.json"
"""The file of unfinished tokens that says what they are made of."""
OWN_NAME = re.compile(r"head\.json|unteach_tokens\.json|tokens-\d+\.(arrow|json)")
"""What unfinished files are called."""
SHARD_TOKENS = 1 << 24
"""A shard is written once it has so many tokens: 64 MiB of ids."""


def write_tokenized_files(
    table: Table,
    recipe: Recipe,
    output_dir: Path,
    num_processes: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write the tokenised files of a table.

    Args:
        table: the rows.
        recipe: how they become tokens.
        output_dir: the folder, which is not there yet.
        num_processes: processes that tokenise.
        facts: what stands in the manifest and, if it differs, makes shards of an earlier try
            worthless.

    Returns:
        The manifest.
    """
    partial_dir = output_dir.with_name(f".{output_dir.name}.partial")
    _open_partial(partial_dir, facts)
    if (partial_dir / MANIFEST).exists():
        return _finish(partial_dir, output_dir)

    # Go on after the shards that an earlier try finished.
    total = TokenCounts()
    shards = _list_whole_shards(partial_dir)
    for shard in shards:
        total.merge(TokenCounts.from_json(shard.pop("counts")))

    def tokenize(rows: Rows) -> TokenizedChunk:
        return recipe.tokenize(rows, table.where)

    row_chunks = _split_into_chunks(table, num_skipped=total.read)
    chunks = map_in_order(tokenize, row_chunks, num_processes)
    for shard_chunk in _join_to_shards(chunks):
        shard = _write_shard(partial_dir, len(shards), shard_chunk)
        total.merge(TokenCounts.from_json(shard.pop("counts")))
        shards.append(shard)
        num_rows = format_count(total.read, "row")
        num_tokens = format_count(total.tokens, "token")
        print(f"{shard['file']}: {num_rows} read, {num_tokens}", flush=True)

    shards = [shard for shard in shards if shard["rows"]]
    if not shards:
        num_dropped = _count_by_reason(total.dropped)
        raise UserError(explain_no_row_left(table.where, num_dropped))
    manifest = {
        "format": FORMAT,
        **facts,
        **build_manifest_counts(total),
        "shards": shards,
    }
    atomic.write_json(partial_dir / MANIFEST, manifest)
    return _finish(partial_dir, output_dir)


def _open_partial(partial_dir: Path, facts: dict[str, Any]) -> None:
    """Open the folder of unfinished files; shards that were made of something else go."""
    names = []
    if partial_dir.is_dir():
        names = [path.name for path in partial_dir.iterdir() if not atomic.is_temporary(path)]
    for name in sorted(names):
        if not OWN_NAME.fullmatch(name):
            raise UserError(
                f"{partial_dir}: is for unfinished tokens, and holds {name}; move it away"
            )
    if _is_made_of(partial_dir, facts):
        return
    # The head goes first: without it, nothing there counts.
    for name in sorted(names, key=lambda name: name != HEAD):
        (partial_dir / name).unlink()
    atomic.write_json(partial_dir / HEAD, facts)


def _is_made_of(partial_dir: Path, facts: dict[str, Any]) -> bool:
    """Whether unfinished files were made of the same, so that they can be gone on from."""
    # As facts read back from a file are: tuples are lists there.
    facts = json.loads(json.dumps(facts))
    if (partial_dir / MANIFEST).exists():
        manifest = json_files.read_mapping(partial_dir / MANIFEST, "the unfinished files")
        made_of = {name: manifest.get(name) for name in facts}
        return made_of == facts and _has_shards(partial_dir, manifest)
    head = partial_dir / HEAD
    return head.exists() and json_files.read_json(head, "the unfinished files") == facts


def _has_shards(partial_dir: Path, manifest: dict[str, Any]) -> bool:
    """Whether every shard of a manifest is there in its length."""
    for shard in manifest["shards"]:
        file = partial_dir / shard["file"]
        if not file.is_file() or file.stat().st_size != shard["bytes"]:
            return False
    return True


def _finish(partial_dir: Path, output_dir: Path) -> dict[str, Any]:
    """Take away what only unfinished files need, and put the folder in its place.

    Cut off anywhere, the same again ends the same: the manifest is there and says which shards
    belong to it.
    """
    manifest = json_files.read_mapping(partial_dir / MANIFEST, "the tokenised files")
    kept = {shard["file"] for shard in manifest["shards"]}
    kept.add(MANIFEST)
    atomic.remove_stale_temp_files(partial_dir)
    for path in list(partial_dir.iterdir()):
        if path.name not in kept and OWN_NAME.fullmatch(path.name):
            path.unlink()
    atomic.sync(partial_dir)
    atomic.rename(partial_dir, output_dir)
    return manifest


def build_manifest_counts(total: TokenCounts) -> dict[str, Any]:
    """Build the counts as the manifest has them."""
    num_dropped = {}
    first_places = {}
    for reason, dropped in total.dropped.items():
        num_dropped[reason] = dropped.count
        first_places[reason] = dropped.places
    if total.cut.count:
        first_places["cut"] = total.cut.places
    rows: dict[str, Any] = {
        "read": total.read,
        "kept": total.kept,
        "cut": total.cut.count,
        "dropped": num_dropped,
        "first": first_places,
    }
    if total.unshown:
        rows["unshown"] = total.to_json()["unshown"]
    return {
        "rows": rows,
        "examples": total.examples,
        "tokens": total.tokens,
        "learned": total.learned,
        "longest": total.longest,
        "lengths": dict(sorted(total.lengths.items(), key=lambda item: int(item[0]))),
    }


def _count_by_reason(dropped: dict[str, RowCount]) -> dict[str, int]:
    """Count dropped rows by the reason with the first places."""
    counts = {}
    for reason, rows in dropped.items():
        more = " …" if rows.count > MAX_LISTED else ""
        places = ", ".join(rows.places)
        counts[f"{reason} ({places}{more})"] = rows.count
    return counts


def _split_into_chunks(table: Table, num_skipped: int) -> Iterator[Rows]:
    """Split the rows of a table into chunks, after those that are tokenised already."""
    placed_rows = itertools.islice(table, num_skipped, None)
    while rows := Rows(itertools.islice(placed_rows, CHUNK_ROWS)):
        yield rows


def _join_to_shards(chunks: Iterable[TokenizedChunk]) -> Iterator[TokenizedChunk]:
    """Join chunks until they fill a shard."""
    shard = TokenizedChunk(TokenCounts())
    for chunk in chunks:
        shard.merge(chunk)
        if shard.counts.tokens >= SHARD_TOKENS:
            yield shard
            shard = TokenizedChunk(TokenCounts())
    if shard.counts.read:
        yield shard


def _write_shard(
    partial_dir: Path,
    shard_index: int,
    chunk: TokenizedChunk,
) -> dict[str, Any]:
    """Write a shard and, after it, the file that describes it: only then does it count.

    Args:
        partial_dir: the folder of unfinished files.
        shard_index: how many shards stand before it.
        chunk: its examples.

    Returns:
        The description, with the counts of its rows.
    """
    # Counts take the form of mask that is the smallest: none, a first learned token, or stretches.
    columns = {
        "input_ids": np.concatenate(chunk.ids) if chunk.ids else np.empty(0, np.int32),
        "lengths": _pack_counts(list(map(len, chunk.ids))),
    }
    num_turns = list(map(len, chunk.runs))
    if set(num_turns) == {2}:
        columns["learned_from"] = _pack_counts([runs[0] for runs in chunk.runs])
    elif num_turns:
        all_runs = itertools.chain.from_iterable(chunk.runs)
        columns["turns"] = _pack_counts(num_turns)
        columns["runs"] = _pack_counts(list(all_runs))

    # One record batch of one row, so that reading it gives views of the mapped file.
    lists = {name: _as_one_row(values) for name, values in columns.items()}
    batch = pyarrow.record_batch(lists)
    file = partial_dir / f"tokens-{shard_index:05d}.arrow"
    with (
        atomic.atomic_write(file) as temporary,
        pyarrow.ipc.new_file(str(temporary), batch.schema) as writer,
    ):
        writer.write_batch(batch)
    shard = {
        "file": file.name,
        "rows": len(chunk.ids),
        "tokens": chunk.counts.tokens,
        "bytes": file.stat().st_size,
        "sha256": fingerprints.hash_files(file),
        "counts": chunk.counts.to_json(),
    }
    atomic.write_json(file.with_suffix(".json"), shard)
    return shard


def _pack_counts(counts: Sequence[int]) -> "np.ndarray":
    """Pack counts into an array of the least unsigned type that holds them."""
    return np.array(counts, np.min_scalar_type(max(counts, default=0)))


def _as_one_row(values: "np.ndarray") -> Any:
    """Build a column of one row, which is a list of all the values."""
    offsets = pyarrow.array([0, len(values)], pyarrow.int32())
    return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(values))


def _list_whole_shards(partial_dir: Path) -> list[dict[str, Any]]:
    """List the shards that an earlier try finished, up to the first that is not whole."""
    shards: list[dict[str, Any]] = []
    while (file := partial_dir / f"tokens-{len(shards):05d}.json").exists():
        shard = json_files.read_mapping(file, "a finished shard")
        tokens = partial_dir / shard["file"]
        if not tokens.is_file() or fingerprints.hash_files(tokens) != shard["sha256"]:
            logger.info(f"{tokens} is missing or damaged; it and what follows it is made again")
            break
        shards.append(shard)
    return shards
