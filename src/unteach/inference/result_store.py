"""The answers to a table on disk, so that no row is ever lost: as they come, and in order at the
end.

x.jsonl         the output: a line a row, in the input's order; there when every row has an answer
x.meta.json     what the answers depend on (model, options), and a digest of each row
x.jsonl.parts/  answers as they came, a file a process that ever ran; gone once in the output
.x.jsonl.lock   held by the one run that may write; a killed run leaves it free

An answer counts only for the row, by its id and digest, that it was given to. A line that is torn
or damaged is passed over, and its row is asked again.
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files, owner, run_dir
from unteach.atomic import atomic_write
from unteach.errors import UserError, name_file
from unteach.wording import counted

ID, ERROR = "row_id", "error"
SYNC_EVERY = 1.0
"""Seconds between two syncs of the parts to the disk; what a killed process wrote is there in any
case."""
SHOWN = 5

Known = dict[Any, dict[str, Any]]
"""Answers by the id of their row."""


@dataclass
class Line:
    """One row: its id, what is kept of its columns, and what tells it from every other."""

    id: Any
    kept: dict[str, Any]
    digest: str


@dataclass
class Meta:
    """What the answers of a file depend on: the settings, and the digest of each row by its id."""

    settings: dict[str, Any]
    rows: dict[Any, str]

    def write(self, path: Path) -> None:
        numbered = list(self.rows) == list(range(len(self.rows)))
        rows = {
            "ids": None if numbered else list(self.rows),
            "digests": " ".join(self.rows.values()),
        }
        made_by = fingerprints.build_manifest(int(self.settings.get("seed", 0)))
        atomic.write_json(path, {"settings": self.settings, "rows": rows, "made_by": made_by})

    @classmethod
    def read(cls, path: Path) -> "Meta":
        read = json_files.read_json(path, "what the output was made with")
        try:
            digests = read["rows"]["digests"].split()
            ids = range(len(digests)) if read["rows"]["ids"] is None else read["rows"]["ids"]
            return cls(read["settings"], dict(zip(ids, digests, strict=True)))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(
                f"{path}: not what `unteach infer` wrote; resume=never moves it and its output "
                f"aside"
            ) from None


class ResultStore:
    """columns: the names of an answer's fields, in the order in which they stand in the output."""

    def __init__(self, output: Path, columns: Sequence[str]):
        self.output, self.columns = output, tuple(columns)
        self.meta = output.with_name(f"{output.stem}.meta.json")
        self.parts = output.with_name(f"{output.name}.parts")
        self.damaged = 0

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else writes meanwhile. Raises Busy where somebody does."""
        return owner.own(self.output)

    def open(
        self, settings: dict[str, Any], lines: Sequence[Line], resume: str, changed: str
    ) -> list[str]:
        """Makes the files ready for these rows under these settings; gives a sentence for each
        thing to be said.

        Raises UserError where they hold answers to other rows, or under other settings, and changed
        is not `redo`.
        """
        said: list[str] = []
        settings = json.loads(json.dumps(settings, default=str))  # as they will be read back
        atomic.remove_stale_temp_files(self.output.parent)
        if resume == "never":
            said += self._move_aside()
        old = self._old()
        if old is None and self.output.exists():
            raise UserError(
                f"{self.output}: this file is there and `unteach infer` did not write it (no "
                f"{self.meta.name} is beside it). Name another output_file, or resume=never to "
                "move it aside"
            )
        rows = {line.id: line.digest for line in lines}
        if old is not None and (old.settings, list(old.rows.items())) != (
            settings,
            list(rows.items()),
        ):
            differing = run_dir.list_differences(old.settings, settings)
            among = _among(old.rows, rows)
            if changed != "redo":
                what = "; ".join(
                    [*([f"other settings: {', '.join(differing)}"] if differing else []), *among]
                )
                raise UserError(
                    f"{self.output} holds answers to something else: {what}.\n  changed=redo keeps "
                    f"the answers that "
                    "hold and asks the others again; resume=never starts afresh; both move the old "
                    "file aside. To keep "
                    f"them beside the new ones, add output_file={self._free_name()}"
                )
            said += self._move_aside() if differing else self._carry(old, lines)
            said += [f"{sentence}; asked again" for sentence in among if not differing]
            old = None
        if old is None:
            Meta(settings, rows).write(self.meta)
        return said

    def _free_name(self) -> Path:
        """A name beside the output's that nothing has yet."""
        names = (
            self.output.with_name(f"{self.output.stem}_{number}.jsonl")
            for number in itertools.count(2)
        )
        return next(
            name
            for name in names
            if not name.exists() and not name.with_suffix(".meta.json").exists()
        )

    def _old(self) -> "Meta | None":
        return Meta.read(self.meta) if self.meta.exists() else None

    def _move_aside(self) -> list[str]:
        moved = [
            (path, run_dir.move_aside(path))
            for path in (self.output, self.parts, self.meta)
            if path.exists()
        ]
        return [f"moved the old {path} to {aside}" for path, aside in moved]

    def _carry(self, old: "Meta", lines: Sequence[Line]) -> list[str]:
        """Takes the answers that still hold out of the old output, into the parts, and moves the
        output aside."""
        if not self.output.exists():
            return []
        digests = {line.id: line.digest for line in lines}
        known = self._of_output(
            {id_ for id_, digest in old.rows.items() if digests.get(id_) == digest}
        )
        self.parts.mkdir(exist_ok=True)
        text = "".join(_part(id_, digests[id_], answer) for id_, answer in known.items())
        atomic.write_text(self.parts / f"carried-{secrets.token_hex(4)}.jsonl", text)
        return [f"moved the old {self.output} to {run_dir.move_aside(self.output)}"]

    def done(self, lines: Sequence[Line]) -> set[int]:
        """The numbers of the lines that have an answer and no error."""
        known = self.known(lines)
        return {
            number
            for number, line in enumerate(lines)
            if (known.get(line.id) or {ERROR: ""})[ERROR] is None
        }

    def known(self, lines: Sequence[Line]) -> Known:
        """The answers that there are, those that failed too; what was answered goes before what
        failed."""
        found: Known = {}
        digests = {line.id: line.digest for line in lines}
        for id_, answer in self._of_output(set(digests)).items():
            found[id_] = answer
        for file in sorted(self.parts.glob("*.jsonl")):
            for read in self._lines(file):
                if digests.get(read.get(ID)) == read.get("of") and isinstance(
                    read.get("answer"), dict
                ):
                    before = found.get(read[ID])
                    if before is None or before.get(ERROR) is not None:
                        found[read[ID]] = read["answer"]
        return found

    def _of_output(self, wanted: set[Any]) -> Known:
        if not self.output.exists():
            return {}
        return {
            read[ID]: {name: read[name] for name in self.columns}
            for read in self._lines(self.output)
            if read.get(ID) in wanted and all(name in read for name in self.columns)
        }

    def _lines(self, file: Path) -> Iterator[dict[str, Any]]:
        """The whole lines of a file; those that are not are counted."""
        with file.open("rb") as lines:
            for line in lines:
                read = None
                with contextlib.suppress(ValueError):
                    read = json.loads(line) if line.endswith(b"\n") else None
                if isinstance(read, dict) and isinstance(read.get(ID), int | str):
                    yield read
                else:
                    self.damaged += 1

    @contextlib.contextmanager
    def writing(self, rank: int) -> Iterator["Part"]:
        self.parts.mkdir(exist_ok=True)
        with (self.parts / f"{rank}-{secrets.token_hex(8)}.jsonl").open("ab") as file:
            part = Part(file)
            try:
                yield part
            finally:
                part.sync()

    def finish(self, lines: Sequence[Line]) -> Known:
        """Writes the output from all that is known, in the order of the rows, and clears the parts
        away."""
        known = self.known(lines)
        with atomic_write(self.output) as temporary, temporary.open("wb") as file:
            for line in lines:
                answer = known[line.id]
                whole = {
                    ID: line.id,
                    **line.kept,
                    **{name: answer.get(name) for name in self.columns},
                }
                file.write(dumps(whole))
        if self.parts.exists():
            shutil.rmtree(self.parts)
        return known


class Part:
    """Appends answers, each whole in the operating system's hands when the call returns."""

    def __init__(self, file: Any):
        self.file, self.synced = file, time.monotonic()

    def __call__(self, line: Line, answer: dict[str, Any]) -> None:
        with name_file(self.file.name):
            self.file.write(_part(line.id, line.digest, answer).encode("utf-8", "surrogatepass"))
            self.file.flush()
        if time.monotonic() - self.synced > SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        with name_file(self.file.name):
            os.fsync(self.file.fileno())
        self.synced = time.monotonic()


def _part(id_: Any, digest: str, answer: dict[str, Any]) -> str:
    return dumps({ID: id_, "of": digest, "answer": answer}).decode()


def dumps(value: object) -> bytes:
    """One line of JSON as UTF-8; half characters, which UTF-8 does not have, are written as
    escapes."""
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, allow_nan=False) + "\n").encode()


def _among(before: dict[Any, str], after: dict[Any, str]) -> list[str]:
    """What became of the rows, in sentences."""
    found = {
        "changed": [
            id_ for id_, digest in after.items() if id_ in before and before[id_] != digest
        ],
        "new": [id_ for id_ in after if id_ not in before],
        "gone": [id_ for id_ in before if id_ not in after],
    }
    said = []
    for how, ids in found.items():
        if ids:
            be = "is" if len(ids) == 1 else "are"
            became = how if how == "changed" else f"{be} {how}"
            said.append(f"{counted(len(ids), 'row')} {became} ({_few(ids)})")
    return said or (["the rows are in another order"] if list(before) != list(after) else [])


def _few(ids: list[Any]) -> str:
    return ", ".join(map(str, ids[:SHOWN])) + (
        f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    )
