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
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from unteach import atomic, owner, run_dir
from unteach.atomic import atomic_write
from unteach.errors import UserError, name_file
from unteach.inference.answer_index import AnswerIndex
from unteach.inference.answer_lines import (
    ERROR,
    ID,
    SKIPPED,
    Answer,
    Line,
    RowID,
    encode,
    encode_answer,
    read_lines,
)
from unteach.inference.result_meta import Meta, describe_changes
from unteach.wording import format_count

SYNC_EVERY = 1.0
"""Seconds between two syncs of the parts to the disk; what a killed process wrote is there in any
case."""
NUM_ERRORS_SHOWN = 3


@dataclass
class AnswerCounts:
    """What became of the rows.

    Attributes:
        errors: the first that differ.
    """

    num_rows: int = 0
    num_failed: int = 0
    num_skipped: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Count a row."""
        self.num_rows += 1
        self.num_skipped += answer.get("finish_reason") == SKIPPED
        error = answer.get(ERROR)
        if error is None:
            return
        self.num_failed += 1
        if len(self.errors) < NUM_ERRORS_SHOWN and error not in self.errors:
            self.errors.append(error)


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
        old = self._read_meta()
        new = Meta.build(settings, lines)
        if old is None:
            new.write(self.meta)
        elif old != new:
            notes += self._adapt(old, new, changed)
            new.write(self.meta)
        return notes

    def describe_standing(
        self,
        settings: dict[str, Any],
        lines: Sequence[Line],
        resume: str,
        changed: str,
    ) -> str:
        """Say what `open` would find; nothing is written.

        Raises:
            UserError: `open` would refuse the files.
        """
        is_there = self.output.exists() or self.parts.exists() or self.meta.exists()
        if resume == "never":
            return "new; the old answers would be moved aside" if is_there else "new"
        old = self._read_meta()
        new = Meta.build(json.loads(json.dumps(settings, default=str)), lines)
        if old is None:
            return "new"
        if old != new:
            self._refuse_other(old, new, changed)
            if run_dir.list_differences(old.settings, new.settings):
                return "begun with other settings; the old answers would be moved aside"
            return "begun otherwise; the answers that hold would be kept, the others asked again"
        num_left = len(lines) - len(self.done(lines))
        if num_left or not self.output.exists():
            return f"begun; {num_left:,} of {format_count(len(lines), 'row')} would be asked"
        return "finished"

    def _read_meta(self) -> Meta | None:
        """Read what answers that are there depend on; refuse a file that is nobody's answers."""
        old = Meta.read(self.meta) if self.meta.exists() else None
        if old is None and self.output.exists():
            raise UserError(
                f"{self.output}: this file is there and `unteach infer` did not write it (no "
                f"{self.meta.name} is beside it). Name another output_file, or resume=never to "
                "move it aside"
            )
        return old

    def _refuse_other(self, old: Meta, new: Meta, changed: str) -> None:
        """Raise UserError for answers to something else, unless they may be asked again."""
        if changed == "redo":
            return
        differences = describe_changes(old.map_digests(), new.map_digests())
        keys = run_dir.list_differences(old.settings, new.settings)
        if keys:
            names = ", ".join(keys)
            differences = [f"other settings: {names}", *differences]
        listed = "; ".join(differences)
        raise UserError(
            f"{self.output} holds answers to something else: {listed}.\n"
            f"  changed=redo keeps the answers that hold and asks the others again; "
            f"resume=never starts afresh; both move the old file aside. To keep them beside "
            f"the new ones, add output_file={self._find_free_name()}"
        )

    def _adapt(self, old: Meta, new: Meta, changed: str) -> list[str]:
        """Keep what still holds of the answers to something else, or refuse them."""
        self._refuse_other(old, new, changed)
        keys = run_dir.list_differences(old.settings, new.settings)
        old_digests, new_digests = old.map_digests(), new.map_digests()
        # Another setting changes every answer.
        if keys:
            return self._move_aside()
        notes = self._carry_over(old_digests, new_digests)
        changes = describe_changes(old_digests, new_digests)
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

    def _carry_over(self, old: dict[RowID, str], new: dict[RowID, str]) -> list[str]:
        """Take the answers that still hold out of the old output, which is moved aside.

        Args:
            old, new: the digest of each row by its id.
        """
        if not self.output.exists():
            return []
        self.parts.mkdir(exist_ok=True)
        part = self.parts / f"carried-{secrets.token_hex(4)}.jsonl"
        with atomic_write(part) as temporary, temporary.open("wb") as file:
            for _, content in read_lines(self.output):
                if content is None:
                    self.damaged += 1
                    continue
                id_ = content[ID]
                is_unchanged = id_ in old and new.get(id_) == old[id_]
                if is_unchanged and content.keys() >= set(self.columns):
                    answer = {name: content[name] for name in self.columns}
                    file.write(encode_answer(id_, new[id_], answer))
        moved_to = run_dir.move_aside(self.output)
        return [f"moved the old {self.output} to {moved_to}"]

    def done(self, lines: Sequence[Line]) -> Set[int]:
        """Return the numbers of the lines that have an answer and no error."""
        return self._find_answers(lines).answered

    def _find_answers(self, lines: Sequence[Line]) -> AnswerIndex:
        """Find the answers that there are, also those that failed; damaged lines are counted."""
        index = AnswerIndex(lines, self.output, self.columns)
        if self.output.exists():
            index.add_file(self.output)
        for file in sorted(self.parts.glob("*.jsonl")):
            index.add_file(file)
        self.damaged += index.num_damaged
        return index

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

    def finish(self, lines: Sequence[Line]) -> AnswerCounts:
        """Write the output from all that is known, in the order of the rows; remove the parts."""
        counts = AnswerCounts()
        answers = self._find_answers(lines)
        with (
            answers.reading(),
            atomic_write(self.output) as temporary,
            temporary.open("wb") as file,
        ):
            for number, line in enumerate(lines):
                answer = answers.read(number)
                values = {name: answer.get(name) for name in self.columns}
                row = {ID: line.id, **line.kept, **values}
                file.write(encode(row))
                counts.add(answer)
        if self.parts.exists():
            shutil.rmtree(self.parts)
        return counts


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
