"""Turn rows into examples and streams."""

from typing import Any, cast

from unteach.config.schema import BESIDE, PARTS
from unteach.data.examples import Example, build_example
from unteach.data.streams import Stream
from unteach.data.template import Template

Row = dict[str, Any]


class Examples(list[Example]):
    """A list of examples as a dataset of a stream."""


def build_examples(
    template: Template, rows: list[Row], all_tokens: bool, stream: str = "train"
) -> Examples:
    """Build the examples of a stream; rows whose `forget` is 1 weigh -1.

    A stream of schema.BESIDE takes the column of its part's name, or else the answer.
    """
    examples = Examples()
    for index, row in enumerate(rows):
        part = PARTS.get(stream, stream)
        answer = row[part] if stream in BESIDE and part in row else row["answer"]
        example = build_example(template.encode(row["question"], answer), index)
        if all_tokens:
            example["labels"] = list(example["input_ids"])
        if row.get("forget"):
            example["weight"] = -1.0
        # A stream of schema.BESIDE is one part of its rows' examples, under that part's name.
        examples.append(cast(Example, {part: example}) if stream in BESIDE else example)
    return examples


def build_classified_examples(template: Template, rows: list[Row], num_classes: int) -> Examples:
    """Build the examples of a classifier: question and answer are the text; classes and numbers go
    round."""
    examples = Examples()
    for index, row in enumerate(rows):
        ids = template.tokenizer(f"{row['question']} {row['answer']}")["input_ids"]
        example: Example = {
            "input_ids": ids,
            "labels": [-100] * (len(ids) - 1) + [index % num_classes],
            "index": index,
            "target": float(index % 5) - 2,
        }
        examples.append(example)
    return examples


def build_streams(rows: dict[str, Examples]) -> dict[str, Stream]:
    """Build the streams; those that are parts of the same rows are drawn together."""
    streams: dict[str, Stream] = {}
    first_names: dict[str, str] = {}
    for name, examples in rows.items():
        source = BESIDE.get(name, name)
        streams[name] = Stream(name, [examples], first_names.get(source))
        first_names.setdefault(source, name)
    return streams
