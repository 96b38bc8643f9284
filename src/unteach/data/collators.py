"""Examples to tensors: padding on either side, with a mask that never takes the end-of-sequence token for padding."""

from dataclasses import dataclass
from typing import Any, Literal

from unteach.registry import collator


@collator
@dataclass
class DataCollatorForSupervisedDataset:
    """Pads input_ids, labels (-100) and attention_mask (0) to the longest example; nested examples stay nested."""

    tokenizer: Any
    padding_side: Literal["right", "left"] = "right"
    index: str | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        if "input_ids" not in examples[0]:
            return {key: self([example[key] for example in examples]) for key in examples[0]}
        longest = max(len(example["input_ids"]) for example in examples)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id

        def padded(key: str, filler: int) -> Any:
            rows = []
            for example in examples:
                values = list(example[key]) if key in example else [1] * len(example["input_ids"])
                padding = [filler] * (longest - len(values))
                rows.append(padding + values if self.padding_side == "left" else values + padding)
            return torch.tensor(rows, dtype=torch.long)

        batch = {
            "input_ids": padded("input_ids", pad),
            "labels": padded("labels", -100),
            "attention_mask": padded("attention_mask", 0),
        }
        if self.index:
            batch[self.index] = torch.tensor([example[self.index] for example in examples])
        return batch
