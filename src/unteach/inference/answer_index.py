"""Where the answers to the rows of a table stand in the files, a few bytes a row."""

import contextlib
from array import array
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO

from unteach.inference.answer_lines import ERROR, ID, Answer, Line, RowID, parse_line, read_lines
from unteach.lazy import np

MAX_OPEN = 64
"""Files that are open at once; every process that ever ran has left one."""


class RowFinder:
    """Finds rows by their ids: the ids' hashes are sorted, and what is found is compared."""

    def __init__(self, lines: Sequence[Line]):
        self.lines = lines
        hashes = np.fromiter((hash(line.id) for line in lines), np.int64, len(lines))
        self.numbers = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.numbers]

    def find(self, id_: RowID) -> tuple[int, Line] | None:
        """Find the number of the row of this id, and its line."""
        wanted = hash(id_)
        position = int(np.searchsorted(self.hashes, wanted))
        while position < len(self.hashes) and self.hashes[position] == wanted:
            number = int(self.numbers[position])
            line = self.lines[number]
            if line.id == id_:
                return number, line
            position += 1
        return None


class FlaggedRows(Set[int]):
    """The numbers of some rows of a table, held as a byte for each row of the table."""

    def __init__(self, flags: bytearray):
        self.flags = flags

    @classmethod
    def _from_iterable(cls, numbers: Any) -> Set[Any]:
        return set(numbers)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and 0 <= number < len(self.flags) and self.flags[number] > 0

    def __iter__(self) -> Iterator[int]:
        return (number for number, flag in enumerate(self.flags) if flag)

    def __len__(self) -> int:
        return len(self.flags) - self.flags.count(0)


class AnswerIndex:
    """Where the best answer to each row stands: one that was answered goes before one that failed.

    Args:
        lines: the rows.
        output: the file that has an answer's columns beside those of its row; all others are parts.
        columns: those of an answer.

    Attributes:
        answered: rows that have an answer and no error.
        num_damaged: lines that were passed over.
    """

    def __init__(self, lines: Sequence[Line], output: Path, columns: Sequence[str]):
        self.output = output
        self.columns = columns
        self.finder = RowFinder(lines)
        self.files: list[Path] = []
        self.answered = FlaggedRows(bytearray(len(lines)))
        self.num_damaged = 0
        self._file_indices = array("i", [-1]) * len(lines)
        self._offsets = array("q", [0]) * len(lines)
        self._open_files: dict[int, BinaryIO] = {}

    def add_file(self, file: Path) -> None:
        """Look through a file; an answer counts only for the row that it was given to."""
        file_index = len(self.files)
        self.files.append(file)
        for offset, content in read_lines(file):
            if content is None:
                self.num_damaged += 1
                continue
            found = self.finder.find(content[ID])
            answer = self._get_answer(file, content)
            if found is None or answer is None:
                continue
            number, line = found
            # The rows of the output are those that its meta file names.
            is_of_row = file == self.output or content.get("of") == line.digest
            if is_of_row and number not in self.answered:
                self._file_indices[number] = file_index
                self._offsets[number] = offset
                self.answered.flags[number] = answer.get(ERROR) is None

    def _get_answer(self, file: Path, content: dict[str, Any]) -> Answer | None:
        """Get the answer in a line; None where it holds none."""
        if file != self.output:
            answer = content.get("answer")
            return answer if isinstance(answer, dict) else None
        if not content.keys() >= set(self.columns):
            return None
        return {name: content[name] for name in self.columns}

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Close the files at the end that `read` opens."""
        try:
            yield
        finally:
            while self._open_files:
                self._open_files.popitem()[1].close()

    def read(self, number: int) -> Answer:
        """Read the best answer to a row."""
        file_index = self._file_indices[number]
        if file_index < 0:
            raise LookupError(f"row {number} has no answer")
        file = self._open(file_index)
        file.seek(self._offsets[number])
        content = parse_line(file.readline())
        answer = None if content is None else self._get_answer(self.files[file_index], content)
        if answer is None:
            raise LookupError(f"{file.name}: the answer to row {number} is gone")
        return answer

    def _open(self, file_index: int) -> BinaryIO:
        if file_index not in self._open_files:
            if len(self._open_files) == MAX_OPEN:
                self._open_files.popitem()[1].close()
            self._open_files[file_index] = self.files[file_index].open("rb")
        return self._open_files[file_index]
