"""The rows of the run itself, by their role in it, asked about exactly as the run trains on them.

They are read from the examples of the run's datasets, so whatever can be trained on can be
measured: questions with answers, conversations (their last answer), tokens, plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach.data.examples import SEGMENT, Example
from unteach.data.streams import Stream
from unteach.data.template import Template
from unteach.data.truncation import IGNORED
from unteach.engines.base import Ids

ANSWER = "answer"
"""The one column of such rows."""


@dataclass(frozen=True)
class OwnRows:
    """The rows of one role.

    Attributes:
        where: what messages call them.
        stream: the examples.
        row_numbers: which of the stream's rows they are.
    """

    where: str
    stream: Stream
    row_numbers: Sequence[int]


@dataclass(frozen=True)
class OwnRow:
    """One row: what the model reads, what it should answer, and the bare question without
    template."""

    prompt: Ids
    prompt_text: str
    question: str
    answer: Ids
    answer_text: str


def read_row(
    rows: OwnRows,
    row_number: int,
    template: Template,
) -> OwnRow:
    """Read a row of a stream as a prompt and its answer."""
    prompt, answer = split_example(rows.stream.example(row_number))
    prompt_text = str(template.tokenizer.decode(list(prompt)))
    if template.kind != "chat":
        prompt_text = prompt_text.removeprefix(template.tokenizer.bos_token or "")
    # A dataset that knows the words of its rows gives them; of others, the prompt's own are shown.
    dataset, dataset_row = rows.stream.find(row_number)
    if hasattr(dataset, "text"):
        question = dataset.text(dataset_row)[0]
    else:
        question = template.decode(prompt).strip()
    answer_text = template.decode(answer).strip()
    return OwnRow(prompt, prompt_text, question, answer, answer_text)


def split_example(example: Example | dict[str, Any]) -> tuple[Ids, Ids]:
    """Split an example into what is read and its last learned stretch.

    Of a conversation this is the last answer, after all that precedes it. Of a row that holds
    several documents, it is the first of them: the others do not follow on it.
    """
    ids = [int(token) for token in example["input_ids"]]
    labels = [int(label) for label in example["labels"]]
    if SEGMENT in example:
        segments = list(example[SEGMENT])
        num_tokens = segments.count(segments[0])
        ids = ids[:num_tokens]
        labels = labels[:num_tokens]
    # Backwards over what is not learned, then over the stretch that is.
    stop = len(labels)
    while stop > 0 and labels[stop - 1] == IGNORED:
        stop -= 1
    start = stop
    while start > 0 and labels[start - 1] != IGNORED:
        start -= 1
    # Nothing predicts the first token of a row, even where it is learned text.
    start = max(1, start)
    return tuple(ids[:start]), tuple(ids[start:stop])
