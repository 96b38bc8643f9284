"""Whether padded rows are what they are alone, for models that are asked through their own forward
alone.

Classifiers and models that read images have no layers of ours to try (see probing.py): two rows of
a few tokens go through the model, each alone and then padded to one length, and what it says of
them is compared.
"""

from typing import TYPE_CHECKING

from unteach.errors import is_out_of_memory
from unteach.lazy import torch
from unteach.models import probing
from unteach.models.layers import unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCE = 1e-4
"""How far the logits of a row may be from those of it alone, in units of their length, in fp32."""
HALF_TOLERANCE = 1e-1
"""The same in half precision."""


def describe_padded_batches(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", left: bool = False
) -> str | None:
    """Say why the rows of a model go through it one at a time.

    Args:
        left: rows are padded on the left, and the last position is what is asked for; else on the
            right, and each row has one vector of logits, as a classifier gives.

    Returns:
        None where padded rows are what they are alone.
    """
    causal = unwrap_model(model)
    name = type(causal).__name__
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            rows = probing.make_ordinary_rows(causal, tokenizer)
            is_same = _are_rows_the_same(model, rows, tokenizer, left)
    except Exception as error:  # a forward of others may fail in any way
        if is_out_of_memory(error):
            raise
        return (
            f"{name} could not be tried with padded rows ({type(error).__name__}); its rows go "
            f"through it one by one"
        )
    finally:
        model.train(was_training)
    if is_same:
        return None
    side = "left" if left else "right"
    return f"padding on the {side} changes what {name} says of a row; its rows go one by one"


def _are_rows_the_same(
    model: "PreTrainedModel", rows: "Tensor", tokenizer: "PreTrainedTokenizerBase", left: bool
) -> bool:
    """Compare the rows [2, T], each alone, with both together, the first one cut and padded."""
    half = rows.shape[1] // 2
    num_padding = rows.shape[1] - half
    short, long = rows[:1, :half], rows[1:]
    filler = torch.full_like(rows[:1, half:], tokenizer.pad_token_id or 0)
    mask = torch.ones_like(rows)
    if left:
        padded = torch.cat([filler, short], dim=1)
        mask[0, :num_padding] = 0
    else:
        padded = torch.cat([short, filler], dim=1)
        mask[0, half:] = 0
    together = _compute_logits(model, torch.cat([padded, long]), mask, left)
    alone = [_compute_logits(model, row, torch.ones_like(row), left) for row in (short, long)]
    expected = torch.cat(alone)
    if not bool(torch.isfinite(expected).all()):
        # Of a model whose weights are no numbers nothing can be said; what it answers is refused
        # where it is read.
        return True
    is_half = torch.finfo(next(model.parameters()).dtype).bits < 32
    distances = (together - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)
    return bool(distances.max() <= (HALF_TOLERANCE if is_half else TOLERANCE))


def _compute_logits(
    model: "PreTrainedModel", ids: "Tensor", mask: "Tensor", left: bool
) -> "Tensor":
    """Compute the logits of each row [B, C]: of its classes, or of the token that follows."""
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits.double()
    return logits[:, -1] if left else logits
