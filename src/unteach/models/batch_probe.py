"""Whether padded rows are what they are alone, for models that are asked through their own forward
alone.

Classifiers and models that read images have no layers of ours to try (see probing.py): two rows of
a few tokens go through the model, each alone and then padded to one length, and what it says of
them is compared.
"""

from typing import TYPE_CHECKING

from unteach.lazy import torch
from unteach.models import probing
from unteach.models.layers import unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLOSE, CLOSE_HALF = 1e-4, 1e-1
"""How far what is said of a row may be from what is said of it alone, in units of its length: in
fp32, and in half."""


def describe_padded_batches(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", left: bool = False
) -> str | None:
    """Say why the rows of a model go through it one at a time; None where padded ones are what they
    are alone.

    left: rows are padded on the left, and the last position is what is asked for; else on the
    right, and each row has one vector of logits, as a classifier gives.
    """
    causal = unwrap_model(model)
    name = type(causal).__name__
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            is_same = _are_rows_the_same(
                model, probing.ordinary_rows(causal, tokenizer), tokenizer, left
            )
    except Exception as error:  # a forward of others may fail in any way
        if probing.is_of_memory(error):
            raise
        return (
            f"{name} could not be tried with padded rows ({type(error).__name__}); its rows go "
            f"through it one by one"
        )
    finally:
        model.train(was_training)
    side = "left" if left else "right"
    return (
        None
        if is_same
        else f"padding on the {side} changes what {name} says of a row; its rows go one by one"
    )


def _are_rows_the_same(
    model: "PreTrainedModel", rows: "Tensor", tokenizer: "PreTrainedTokenizerBase", left: bool
) -> bool:
    width = rows.shape[1]
    short = rows[:1, : width // 2]
    filler = torch.full_like(rows[:1, width // 2 :], tokenizer.pad_token_id or 0)
    padded = torch.cat([filler, short] if left else [short, filler], dim=1)
    mask = torch.ones_like(rows)
    mask[0, : width // 2] = 1 - int(left)
    mask[0, width // 2 :] = int(left)
    together = _logits(model, torch.cat([padded, rows[1:]]), mask, left)
    alone = [_logits(model, row, torch.ones_like(row), left) for row in (short, rows[1:])]
    expected = torch.cat(alone)
    limit = CLOSE_HALF if torch.finfo(next(model.parameters()).dtype).bits < 32 else CLOSE
    distances = (together - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)
    # Of a model whose weights are no numbers nothing can be said; what it answers is refused where
    # it is read.
    return not bool(torch.isfinite(expected).all()) or bool(distances.max() <= limit)


def _logits(model: "PreTrainedModel", ids: "Tensor", mask: "Tensor", left: bool) -> "Tensor":
    """What the model says of each row [B, C]: its classes, or the token that follows."""
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits.double()
    return logits[:, -1] if left else logits
