"""Compare what is written with what was trained: two models on the same rows, in nats a token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.data.synthetic import authors
from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 4
MAX_TOKENS = 128
"""Tokens of a row that are read."""
TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
"""Nats a token, by the dtype that is written; of a model that is worse than 1 nat a token, this
share of its loss."""
COARSEST = TOLERANCE["bfloat16"]


@dataclass(frozen=True)
class Difference:
    """How far two models are apart, over the row where they differ most.

    Attributes:
        nats: the mean distance of a token's log-probs.
        scale: the mean size of a token's log-prob.
    """

    nats: float
    scale: float

    def is_more_than(self, tolerance: float) -> bool:
        return not self.nats <= tolerance * max(1.0, self.scale)


def built_in_texts() -> list[str]:
    """Return a few sentences for where nothing that a model was trained on is at hand."""
    return [f"{row['question']} {row['answer']}" for row in authors.build_rows("full")[:ROWS]]


def tokenize_rows(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase | None", model: "PreTrainedModel"
) -> "list[Tensor]":
    """Turn texts into rows of ids [1, T]; without a tokenizer, draw ids that do not depend on
    anything."""
    embeddings: Any = model.get_input_embeddings()
    num_ids = int(embeddings.weight.shape[0])
    if tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        return [
            torch.randint(num_ids, (1, MAX_TOKENS // 4), generator=generator) for _ in range(ROWS)
        ]
    rows = []
    for text in texts[:ROWS]:
        ids = [number for number in tokenizer(text).input_ids[:MAX_TOKENS] if number < num_ids]
        if len(ids) > 1:
            rows.append(torch.tensor([ids]))
    return rows


def measure(model: "PreTrainedModel", rows: "Sequence[Tensor]") -> "list[Tensor] | None":
    """Return each row's log-probs, in fp32: of its tokens [T-1], or of a classifier's labels.

    None where the model cannot be run on this machine.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            log_probs = []
            for row in rows:
                logits = model(input_ids=row.to(device)).logits
                log_probs.append(_compute_log_probs(logits.float().cpu(), row.cpu()))
            return log_probs
    except Exception:  # a forward of others may fail in any way, and then nothing is compared
        return None
    finally:
        model.train(was_training)


def _compute_log_probs(logits: "Tensor", row: "Tensor") -> "Tensor":
    """Compute the log-probs of a row [1, T] from logits [1, T, V], or a classifier's [1, C]."""
    if logits.ndim == 2:
        # The one number of a regression is its answer.
        return logits[0] if logits.shape[-1] == 1 else logits[0].log_softmax(-1)
    log_probs = logits[0, :-1].log_softmax(-1)
    return log_probs.gather(-1, row[0, 1:, None])[:, 0]


def compare(expected: "Sequence[Tensor]", written: "Sequence[Tensor]") -> Difference:
    """Return the difference over the row where it is largest; not a number where one of the two
    gives none."""
    differences = []
    for row, other in zip(expected, written, strict=True):
        nats = float((row - other).abs().mean())
        difference = Difference(nats, float(row.abs().mean()))
        if math.isnan(nats):
            return difference
        differences.append(difference)
    return max(differences, key=lambda difference: difference.nats)
