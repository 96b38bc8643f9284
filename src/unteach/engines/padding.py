"""Rows of ids as a batch of one length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def pad_rows(
    rows: Sequence[Sequence[int]],
    padding_id: int,
    device: "torch.device",
    left: bool = False,
) -> "dict[str, Tensor]":
    """Pad rows of ids to the longest one.

    Returns:
        input_ids [B, T] and attention_mask [B, T].
    """
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        num_padding = longest - len(row)
        padding = [padding_id] * num_padding
        is_token, is_padding = [1] * len(row), [0] * num_padding
        ids.append([*padding, *row] if left else [*row, *padding])
        mask.append(is_padding + is_token if left else is_token + is_padding)
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
