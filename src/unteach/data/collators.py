"""Examples to tensors: padding on either side, with a mask that never takes the end-of-sequence
token for padding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from unteach.data.examples import SEGMENT, Example
from unteach.data.truncation import IGNORED
from unteach.lazy import np, torch
from unteach.registry import collator

if TYPE_CHECKING:
    from torch import Tensor


class Collator(Protocol):
    """Turn a list of examples into padded tensors by name."""

    def __call__(self, examples: list[Example], /) -> dict[str, Any]: ...


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

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        # Several answers or variants: a batch of each.
        if "input_ids" not in examples[0]:
            nested = {}
            for key in examples[0]:
                examples_of_key = [example[key] for example in examples]
                nested[key] = self(examples_of_key)
            return nested
        pad_id = self.tokenizer.pad_token_id
        if pad_id is None:
            pad_id = self.tokenizer.eos_token_id
        batch = {
            "input_ids": self._pad(examples, "input_ids", pad_id),
            "labels": self._pad(examples, "labels", IGNORED),
            "attention_mask": self._pad(examples, "attention_mask", 0),
        }
        if any(SEGMENT in example for example in examples):
            batch[SEGMENT] = self._pad(examples, SEGMENT, 0)
        if self.index:
            row_indices = [example[self.index] for example in examples]
            batch[self.index] = torch.tensor(row_indices)
        return batch

    def _pad(self, examples: list[Any], key: str, filler: int) -> "Tensor":
        """Pad what the examples have under a key to one tensor [B, T]."""
        lengths = [len(example["input_ids"]) for example in examples]
        longest = max(lengths)
        rows = np.full((len(examples), longest), filler, dtype=np.int64)
        for row, example, length in zip(rows, examples, lengths, strict=True):
            # Without a mask every token is read; without segments a row is one document.
            values = example.get(key, 1)
            if self.padding_side == "left":
                row[longest - length :] = values
            else:
                row[:length] = values
        return torch.from_numpy(rows)
