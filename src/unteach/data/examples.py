"""What a dataset gives of a row: tokens and labels, or several of them by name."""

from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from unteach.data.truncation import IGNORED, TokenIds

if TYPE_CHECKING:
    from unteach.data.template import Encoded

SEGMENT: Final = "segment"
"""Which of its documents a token of a packed row is of, from 1; padding has 0."""
DEFERRED: Final = "deferred"
"""A key of an example without its tokens yet."""


class Example(TypedDict, total=False):
    """A row of a dataset.

    Attributes:
        input_ids: its tokens.
        labels: the same, with -100 where a token is not learned.
        index: the index of its row in the source.
        weight: what its loss is multiplied by; -1: it is ascended. Default: 1.
        target: a number that stands for a label.
        segment: of each token, which document of the row it is of, where there are several.
        deferred: whether it has no tokens yet.
        original, alternate: a row with two answers has an example of each.
        chosen, rejected: likewise of a preference.
        original, mismatched: likewise of a judged answer, and another row's.
    """

    input_ids: TokenIds
    labels: TokenIds
    index: int
    weight: float
    target: float
    segment: list[int]
    deferred: bool
    original: "Example"
    alternate: "Example"
    chosen: "Example"
    rejected: "Example"
    mismatched: "Example"


def build_example(encoded: "Encoded", row_index: int) -> Example:
    """Build the example of a row from the tokens of its prompt and its answer."""
    return {
        "input_ids": encoded.input_ids,
        "labels": encoded.labels,
        "index": row_index,
    }


def read_prompt(example: Example) -> list[int]:
    """Read the tokens before the first one that is learned: all, where none is."""
    ids, labels = list(example["input_ids"]), list(example["labels"])
    length = 0
    while length < len(ids) and labels[length] == IGNORED:
        length += 1
    return ids[:length]


def join_alternatives(examples: list[Example]) -> Example:
    """Join the examples of several answers to one question, by their number.

    Evaluation alone takes such examples.
    """
    return cast(Example, dict(enumerate(examples)))


def find_row_index(example: Example) -> int:
    """Find the index of an example's row; of several answers or variants all have the same."""
    nested: dict[Any, Any] = dict(example)
    while "index" not in nested:
        nested = next(iter(nested.values()))
    return int(nested["index"])
