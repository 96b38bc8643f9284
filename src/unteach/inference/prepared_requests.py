"""What the rows of a table ask, held as bytes."""

import bisect
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from unteach.data.packed_list import PackedList
from unteach.inference.backends.base import Failure, Request
from unteach.inference.output_columns import Skipped


class Requests(Sequence[Request]):
    """Requests in the order of their rows, each made anew whenever it is asked for.

    Attributes:
        numbers: of their rows, ascending.
        longest: tokens of the longest prompt with its answer.
    """

    def __init__(self) -> None:
        self.numbers = array("q")
        self.longest = 0
        self._fields: PackedList[tuple[Any, ...]] = PackedList()
        self._images: dict[int, tuple[Any, ...]] = {}
        """Images themselves are not packed, which would read them all."""

    def append(self, request: Request) -> None:
        """Add the request of a row that comes after all others."""
        self.numbers.append(request.number)
        self.longest = max(self.longest, len(request.prompt) + len(request.answer))
        if request.images:
            self._images[request.number] = request.images
        self._fields.append(
            (
                request.prompt,
                request.text,
                request.messages,
                request.answer,
                request.answer_text,
                request.seed,
            )
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> list[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | list[Request]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = self.numbers[index]
        prompt, text, messages, answer, answer_text, seed = self._fields[index]
        images = self._images.get(number, ())
        return Request(number, prompt, text, messages, images, answer, answer_text, seed)

    def find(self, number: int) -> int:
        """Find the index of the request of a row, which has one."""
        return bisect.bisect_left(self.numbers, number)


@dataclass
class PreparedRequests:
    """What a table's rows ask.

    Attributes:
        requests: of the rows that are asked.
        num_cut: tokens that each of their prompts lost.
        unasked: the numbers of the others, each with why nothing is asked of it.
        num_special: rows in which special tokens are written, which are read as text.
        special_text: places of the first of them.
    """

    requests: Requests = field(default_factory=Requests)
    num_cut: "array[int]" = field(default_factory=lambda: array("i"))
    unasked: PackedList[tuple[int, Failure | Skipped]] = field(default_factory=PackedList)
    num_special: int = 0
    special_text: list[str] = field(default_factory=list)
