"""The answers to a table on disk, so that no row is ever lost: as they come, and in order at the
end.

x.jsonl         the output: a line a row, in the input's order; there when every row has an answer
x.meta.json     what the answers depend on (model, options), and a digest of each row
x.jsonl.parts/  answers as they came, a file a process that ever ran; gone once in the output
.x.jsonl.lock   held by the one run that may write; a killed run leaves it free

An answer counts only for the row, by its id and digest, that it was given to. A line that is torn
or damaged is passed over, and its row is asked again. docs/decisions/files-not-sqlite.md says why
this is no database.
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
from typing import Any, BinaryIO

from unteach import atomic, fingerprints, json_files, owner, run_dir
from unteach.atomic import atomic_write
from unteach.errors import UserError, name_file
from unteach.wording import format_count

ID, ERROR = "row_id", "error"
SYNC_EVERY = 1.0
"""Seconds between two syncs of the parts to the disk; what a killed process wrote is there in any
case."""
NUM_SHOWN = 5
"""Ids of rows that a message lists."""

RowID = int | str
Answer = dict[str, Any]
"""The fields of one row's answer, as they stand in the output."""
Answers = dict[RowID, Answer]


@dataclass
class Line:
    """One row: its id, what is kept of its columns, and what tells it from every other."""

    id: RowID
    kept: dict[str, Any]
    digest: str


@dataclass
class Meta:
    """What the answers of a file depend on: the settings, and the digest of each row by its id."""

    settings: dict[str, Any]
    rows: dict[RowID, str]

    def write(self, path: Path) -> None:
        is_numbered = list(self.rows) == list(range(len(self.rows)))
        rows = {
            "ids": None if is_numbered else list(self.rows),
            "digests": " ".join(self.rows.values()),
        }
        made_by = fingerprints.build_manifest(int(self.settings.get("seed", 0)))
        atomic.write_json(
            path,
            {
                "settings": self.settings,
                "rows": rows,
                "made_by": made_by,
            },
        )

    @classmethod
    def read(cls, path: Path) -> "Meta":
        content = json_files.read_json(path, "what the output was made with")
        try:
            digests = content["rows"]["digests"].split()
            ids = content["rows"]["ids"]
            if ids is None:
                ids = range(len(digests))
            return cls(content["settings"], dict(zip(ids, digests, strict=True)))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(
                f"{path}: not what `unteach infer` wrote; resume=never moves it and its output "
                f"aside"
            ) from None


class ResultStore:
    """The files of one output.

    damaged: lines that were passed over.

    Args:
        columns: the names of an answer's fields, in the order in which they stand in the output.
    """

    def __init__(self, output: Path, columns: Sequence[str]):
        self.output = output
        self.columns = tuple(columns)
        self.meta = output.with_name(f"{output.stem}.meta.json")
        self.parts = output.with_name(f"{output.name}.parts")
        self.damaged = 0

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Let nobody else write meanwhile; raise Busy where somebody does."""
        return owner.own(self.output)

    def open(
        self,
        settings: dict[str, Any],
        lines: Sequence[Line],
        resume: str,
        changed: str,
    ) -> list[str]:
        """Make the files ready for the answers to these rows under these settings.

        Returns:
            A sentence for each thing that the user should know.

        Raises:
            UserError: where they hold answers to other rows, or under other settings, and `changed`
                is not `redo`.
        """
        notes: list[str] = []
        settings = json.loads(json.dumps(settings, default=str))  # as they will be read back
        atomic.remove_stale_temp_files(self.output.parent)
        if resume == "never":
            notes += self._move_aside()
        old = Meta.read(self.meta) if self.meta.exists() else None
        if old is None and self.output.exists():
            raise UserError(
                f"{self.output}: this file is there and `unteach infer` did not write it (no "
                f"{self.meta.name} is beside it). Name another output_file, or resume=never to "
                "move it aside"
            )
        new = Meta(settings, {line.id: line.digest for line in lines})
        if old is None:
            new.write(self.meta)
        elif old != new or list(old.rows) != list(new.rows):
            notes += self._adapt(old, new, changed)
            new.write(self.meta)
        return notes

    def _adapt(self, old: Meta, new: Meta, changed: str) -> list[str]:
        """Keep what still holds of the answers to something else, or refuse them."""
        keys = run_dir.list_differences(old.settings, new.settings)
        changes = describe_changes(old.rows, new.rows)
        if changed != "redo":
            differences = list(changes)
            if keys:
                names = ", ".join(keys)
                differences.insert(0, f"other settings: {names}")
            listed = "; ".join(differences)
            raise UserError(
                f"{self.output} holds answers to something else: {listed}.\n"
                f"  changed=redo keeps the answers that hold and asks the others again; "
                f"resume=never starts afresh; both move the old file aside. To keep them beside "
                f"the new ones, add output_file={self._find_free_name()}"
            )
        # Another setting changes every answer.
        if keys:
            return self._move_aside()
        notes = self._carry_over(old, new)
        return notes + [f"{sentence}; asked again" for sentence in changes]

    def _find_free_name(self) -> Path:
        """Find a name beside the output's that nothing has yet."""
        for number in itertools.count(2):
            path = self.output.with_name(f"{self.output.stem}_{number}.jsonl")
            if not path.exists() and not path.with_suffix(".meta.json").exists():
                return path
        raise AssertionError("numbers do not end")

    def _move_aside(self) -> list[str]:
        """Move everything aside; say what went where."""
        notes = []
        for path in (self.output, self.parts, self.meta):
            if path.exists():
                moved_to = run_dir.move_aside(path)
                notes.append(f"moved the old {path} to {moved_to}")
        return notes

    def _carry_over(self, old: Meta, new: Meta) -> list[str]:
        """Take the answers that still hold out of the old output, which is moved aside."""
        if not self.output.exists():
            return []
        unchanged = set()
        for id_, digest in old.rows.items():
            if new.rows.get(id_) == digest:
                unchanged.add(id_)
        encoded = []
        for id_, answer in self._read_output(unchanged).items():
            encoded.append(encode_answer(id_, new.rows[id_], answer).decode())
        self.parts.mkdir(exist_ok=True)
        part = self.parts / f"carried-{secrets.token_hex(4)}.jsonl"
        atomic.write_text(part, "".join(encoded))
        moved_to = run_dir.move_aside(self.output)
        return [f"moved the old {self.output} to {moved_to}"]

    def done(self, lines: Sequence[Line]) -> set[int]:
        """Return the numbers of the lines that have an answer and no error."""
        answers = self.known(lines)
        numbers = set()
        for number, line in enumerate(lines):
            answer = answers.get(line.id)
            if answer and answer[ERROR] is None:
                numbers.add(number)
        return numbers

    def known(self, lines: Sequence[Line]) -> Answers:
        """Read the answers that there are, also those that failed.

        Where a row has several, one that was answered goes before one that failed.
        """
        digests = {line.id: line.digest for line in lines}
        answers = self._read_output(set(digests))
        for file in sorted(self.parts.glob("*.jsonl")):
            for content in self._read_lines(file):
                id_, answer = content[ID], content.get("answer")
                is_of_row = digests.get(id_) == content.get("of")
                if not is_of_row or not isinstance(answer, dict):
                    continue
                before = answers.get(id_)
                if before is None or before.get(ERROR) is not None:
                    answers[id_] = answer
        return answers

    def _read_output(self, ids: set[RowID]) -> Answers:
        """Read the answers to these rows in the output, where they have every column."""
        if not self.output.exists():
            return {}
        answers: Answers = {}
        columns = set(self.columns)
        for content in self._read_lines(self.output):
            id_ = content[ID]
            if id_ in ids and columns <= content.keys():
                answers[id_] = {name: content[name] for name in self.columns}
        return answers

    def _read_lines(self, file: Path) -> Iterator[dict[str, Any]]:
        """Yield the whole lines of a file; those that are not are counted."""
        with file.open("rb") as lines:
            for line in lines:
                content = _parse_line(line)
                if content is None:
                    self.damaged += 1
                else:
                    yield content

    @contextlib.contextmanager
    def writing(self, rank: int) -> Iterator["PartWriter"]:
        """Open a part of this process's own for its answers."""
        self.parts.mkdir(exist_ok=True)
        part = self.parts / f"{rank}-{secrets.token_hex(8)}.jsonl"
        with part.open("ab") as file:
            writer = PartWriter(file)
            try:
                yield writer
            finally:
                writer.sync()

    def finish(self, lines: Sequence[Line]) -> Answers:
        """Write the output from all that is known, in the order of the rows; remove the parts."""
        answers = self.known(lines)
        with atomic_write(self.output) as temporary, temporary.open("wb") as file:
            for line in lines:
                answer = answers[line.id]
                values = {name: answer.get(name) for name in self.columns}
                row = {ID: line.id, **line.kept, **values}
                file.write(encode(row))
        if self.parts.exists():
            shutil.rmtree(self.parts)
        return answers


class PartWriter:
    """Appends answers, each whole in the operating system's hands when the call returns."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.last_sync = time.monotonic()

    def __call__(self, line: Line, answer: Answer) -> None:
        with name_file(self.file.name):
            self.file.write(encode_answer(line.id, line.digest, answer))
            self.file.flush()
        if time.monotonic() - self.last_sync > SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        with name_file(self.file.name):
            os.fsync(self.file.fileno())
        self.last_sync = time.monotonic()


def encode_answer(id_: RowID, digest: str, answer: Answer) -> bytes:
    """Encode a line of a part."""
    return encode(
        {
            ID: id_,
            "of": digest,
            "answer": answer,
        }
    )


def encode(value: object) -> bytes:
    """Encode a value as one line of JSON in UTF-8.

    Half characters, which UTF-8 does not have, are written as escapes.
    """
    try:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        return line.encode()
    except UnicodeEncodeError:
        line = json.dumps(value, allow_nan=False) + "\n"
        return line.encode()


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Parse a line of an output or a part; None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(content, dict) and isinstance(content.get(ID), int | str)
    return content if is_row else None


def describe_changes(before: dict[RowID, str], after: dict[RowID, str]) -> list[str]:
    """Say in sentences what became of the rows.

    Args:
        before, after: the digest of each row by its id.
    """
    changed = []
    for id_, digest in after.items():
        if before.get(id_, digest) != digest:
            changed.append(id_)
    new = [id_ for id_ in after if id_ not in before]
    gone = [id_ for id_ in before if id_ not in after]
    sentences = []
    if changed:
        sentences.append(f"{format_count(len(changed), 'row')} changed ({_list_few(changed)})")
    for what, ids in (("new", new), ("gone", gone)):
        if ids:
            be = "is" if len(ids) == 1 else "are"
            sentences.append(f"{format_count(len(ids), 'row')} {be} {what} ({_list_few(ids)})")
    if not sentences and list(before) != list(after):
        sentences.append("the rows are in another order")
    return sentences


def _list_few(ids: list[RowID]) -> str:
    text = ", ".join(map(str, ids[:NUM_SHOWN]))
    num_more = len(ids) - NUM_SHOWN
    return f"{text} and {num_more} more" if num_more > 0 else text
