"""The examples of many rows, their tokens end to end in arrays: a tenth of the memory that they
take as lists."""

import math
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, cast

from unteach import atomic, json_files
from unteach.data.examples import DEFERRED, Example
from unteach.data.truncation import IGNORED
from unteach.lazy import np

COLUMNS: Final = ("ids", "ends", "starts", "labels", "label_ends", "rows", "forms", "firsts")
"""Names of the arrays."""
NUMBERS: Final = ("weight", "target")
"""Keys of an example that hold one number."""
FORMS = "forms.json"
NOT_TOKENIZED = -1


class PackedExamples(Sequence[Example]):
    """Examples in order, each made anew whenever it is asked for.

    Attributes:
        ids: the tokens of all examples.
        ends: of each example, where its tokens end.
        starts: how many of its tokens are only read before the first that is learned; -1: it has no
            tokens yet.
        labels: what follows those, of examples where that is not simply their tokens.
        label_ends: of each example, where its labels end.
        rows: the index of its row.
        forms: 0, or the number of a form in `form_names`: such an example has others by these names
            and no tokens of its own.
        firsts: the first of these others in `inner`.
        numbers: of each example, the number that it has under a key of NUMBERS; nan: none.
    """

    def __init__(self, examples: Iterable[Example] = ()):
        self.ids = array("i")
        self.ends = array("q")
        self.starts = array("i")
        self.labels = array("i")
        self.label_ends = array("q")
        self.rows = array("q")
        self.forms = array("b")
        self.firsts = array("q")
        self.form_names: list[tuple[str | int, ...]] = []
        self.inner: PackedExamples | None = None
        self.numbers: dict[str, array[float]] = {}
        for example in examples:
            self.append(example)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if index < 0:
            index += len(self)
        if self.forms[index]:
            return self._build_nested(index)
        example: Example = {"index": int(self.rows[index])}
        if self.starts[index] == NOT_TOKENIZED:
            example[DEFERRED] = True
        else:
            ids = _slice(self.ids, self.ends, index)
            num_read = int(self.starts[index])
            learned = _slice(self.labels, self.label_ends, index) or ids[num_read:]
            example["input_ids"] = ids
            example["labels"] = [IGNORED] * num_read + learned
        for name, numbers in self.numbers.items():
            if not math.isnan(numbers[index]):
                cast(dict[str, Any], example)[name] = float(numbers[index])
        return example

    def __eq__(self, others: object) -> bool:
        return isinstance(others, Sequence) and list(self) == list(others)

    __hash__ = None  # type: ignore[assignment]

    def _build_nested(self, index: int) -> Example:
        """Build an example of others by their names."""
        assert self.inner is not None
        first = int(self.firsts[index])
        names = self.form_names[self.forms[index] - 1]
        nested = {name: self.inner[first + offset] for offset, name in enumerate(names)}
        return cast(Example, nested)

    def append(self, example: Example) -> None:
        """Add an example."""
        if "index" not in example:
            self._append_nested(example)
            return
        labels: list[int] = []
        if DEFERRED in example:
            start = NOT_TOKENIZED
        else:
            ids = list(example["input_ids"])
            labels = list(example["labels"])
            start = _count_read(labels)
            labels = labels[start:]
            if labels == ids[start:]:
                labels = []
            self.ids.extend(ids)
            self.labels.extend(labels)
        self._close(start, example["index"])
        for name in NUMBERS:
            if name in example:
                self._note_number(name, example[name])
        for numbers in self.numbers.values():
            if len(numbers) < len(self):
                numbers.append(math.nan)

    def _note_number(self, name: str, number: float) -> None:
        """Note a number of the last example."""
        if name not in self.numbers:
            self.numbers[name] = array("d", [math.nan]) * (len(self) - 1)
        self.numbers[name].append(number)

    def _append_nested(self, example: Example) -> None:
        """Add an example of others by their names."""
        names: tuple[str | int, ...] = tuple(example)
        if names not in self.form_names:
            self.form_names.append(names)
        if self.inner is None:
            self.inner = PackedExamples()
        first = len(self.inner)
        for part in cast(dict[str, Example], example).values():
            self.inner.append(part)
        form = self.form_names.index(names) + 1
        self._close(0, self.inner.rows[first], form, first)
        for numbers in self.numbers.values():
            numbers.append(math.nan)

    def _close(self, start: int, row_index: int, form: int = 0, first: int = 0) -> None:
        """Note where the last example ends, and what else it has an entry of."""
        self.ends.append(len(self.ids))
        self.starts.append(start)
        self.label_ends.append(len(self.labels))
        self.rows.append(row_index)
        self.forms.append(form)
        self.firsts.append(first)

    def extend(self, others: "PackedExamples") -> None:
        """Add examples that come after these."""
        num_before, num_ids, num_labels = len(self), len(self.ids), len(self.labels)
        num_inner = len(self.inner) if self.inner is not None else 0
        self.ids.extend(others.ids)
        self.ends.extend(end + num_ids for end in others.ends)
        self.starts.extend(others.starts)
        self.labels.extend(others.labels)
        self.label_ends.extend(end + num_labels for end in others.label_ends)
        self.rows.extend(others.rows)
        for names in others.form_names:
            if names not in self.form_names:
                self.form_names.append(names)
        form_numbers = [0, *(self.form_names.index(names) + 1 for names in others.form_names)]
        self.forms.extend(form_numbers[form] for form in others.forms)
        self.firsts.extend(first + num_inner for first in others.firsts)
        if others.inner is not None:
            self.inner = self.inner or PackedExamples()
            self.inner.extend(others.inner)
        for name in {**self.numbers, **others.numbers}:
            if name not in self.numbers:
                self.numbers[name] = array("d", [math.nan]) * num_before
            self.numbers[name].extend(others.numbers.get(name, [math.nan] * len(others)))

    def save(self, folder: Path) -> None:
        """Save the arrays into a folder, a file each."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in COLUMNS:
            save_array(folder / f"{name}.npy", getattr(self, name))
        for name, numbers in self.numbers.items():
            save_array(folder / f"{name}.npy", numbers)
        forms = {"forms": self.form_names, "numbers": list(self.numbers)}
        atomic.write_json(folder / FORMS, forms)
        if self.inner is not None:
            self.inner.save(folder / "inner")

    @classmethod
    def load(cls, folder: Path) -> "PackedExamples":
        """Load what was saved; the arrays are mapped, and read where they are asked for."""
        examples: Any = cls()
        for name in COLUMNS:
            setattr(examples, name, load_array(folder / f"{name}.npy"))
        forms = json_files.read_mapping(folder / FORMS, "saved examples")
        examples.form_names = [tuple(names) for names in forms["forms"]]
        for name in forms["numbers"]:
            examples.numbers[name] = load_array(folder / f"{name}.npy")
        if (folder / "inner").is_dir():
            examples.inner = cls.load(folder / "inner")
        loaded: PackedExamples = examples
        return loaded


def _slice(values: "array[int]", ends: "array[int]", index: int) -> list[int]:
    """Slice out what an example has of `values`."""
    start = ends[index - 1] if index else 0
    part: list[int] = values[start : ends[index]].tolist()
    return part


def _count_read(labels: list[int]) -> int:
    """Count the tokens before the first that is learned."""
    count = 0
    while count < len(labels) and labels[count] == IGNORED:
        count += 1
    return count


def save_array(file: Path, values: "array[Any]") -> None:
    """Save an array as numpy does."""
    np.save(file, np.frombuffer(values, values.typecode) if len(values) else [])


def load_array(file: Path) -> Any:
    """Load an array that was saved; what is asked for of it is read then."""
    # An empty file cannot be mapped.
    return np.load(file, mmap_mode="r" if file.stat().st_size > 128 else None)
