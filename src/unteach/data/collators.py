"""Examples to tensors: padding on either side, with a mask that never takes the end-of-sequence
token for padding."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from unteach.lazy import np, torch
from unteach.registry import collator

SEGMENT = "segment"
"""Which of its documents a token of a packed row is of, from 1; padding has 0."""


class Collator(Protocol):
    """Turn a list of examples into padded tensors by name."""

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]: ...


@collator
@dataclass
class DataCollatorForSupervisedDataset:
    """Pads input_ids, labels (-100) and attention_mask (0) to the longest example; nested examples
    stay nested.

    Where rows have several documents, `segment` says which a token is of.
    """

    tokenizer: Any
    padding_side: Literal["right", "left"] = "right"
    index: str | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if "input_ids" not in examples[0]:
            return {key: self([example[key] for example in examples]) for key in examples[0]}
        longest = max(len(example["input_ids"]) for example in examples)
        pad = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )

        def padded(key: str, filler: int) -> Any:
            rows = np.full((len(examples), longest), filler, dtype=np.int64)
            for row, example in zip(rows, examples, strict=True):
                length = len(example["input_ids"])
                place = (
                    slice(longest - length, None) if self.padding_side == "left" else slice(length)
                )
                row[place] = example.get(key, 1)
            return torch.from_numpy(rows)

        batch = {
            "input_ids": padded("input_ids", pad),
            "labels": padded("labels", -100),
            "attention_mask": padded("attention_mask", 0),
        }
        if any(SEGMENT in example for example in examples):
            batch[SEGMENT] = padded(SEGMENT, 0)
        if self.index:
            batch[self.index] = torch.tensor([example[self.index] for example in examples])
        return batch
