"""What a classifier says of rows of tokens, each read at its last one whatever token that is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unteach.lazy import torch
from unteach.models.layers import unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def compute_class_logits(
    model: "PreTrainedModel", rows: Sequence[Sequence[int]], pad: int
) -> "Tensor":
    """The logits [B, C] of rows of token ids, padded on the right.

    A decoder finds a row's last token as the last that is not padding, by its id: a row that ends
    in that id itself, as one does that ends in EOS where EOS pads, would be read at the token
    before. Such a batch is padded with an id that stands in none of its rows.
    """
    config, filler = unwrap_model(model).config, pad
    finds_last_by_id = hasattr(unwrap_model(model), "score")
    if finds_last_by_id and any(row[-1] == pad for row in rows if row):
        used = {token for row in rows for token in row}
        filler = next(
            (
                token
                for token in range(int(config.get_text_config().vocab_size))
                if token not in used
            ),
            pad,
        )
    longest = max(map(len, rows))
    device = next(model.parameters()).device
    ids = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device
    )
    settings = [config, config.get_text_config()]
    before = [one.pad_token_id for one in settings]
    try:
        for one in settings if finds_last_by_id else ():
            one.pad_token_id = filler
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits.float()
        return logits
    finally:
        for one, number in zip(settings, before, strict=True):
            one.pad_token_id = number
