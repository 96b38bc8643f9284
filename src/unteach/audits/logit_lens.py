"""The logit lens: how surely a model says an answer after each of its layers.

What layer l gives is read as the last hidden states are, through the final norm and the head, and

    lens_l = 1/T sum_t log p_l(a_t | prompt, a_<t)

over the T tokens of an answer, in nats. At the last layer it is the model's own mean log-prob. An
answer that is said with certainty inside, and not at the end, is hidden and not forgotten. Cost:
one pass, with the head once a layer.

Source: the logit lens, nostalgebraist 2020; of unlearned models, gnueaj/unlearning-depth-score.
"""

from collections.abc import Sequence

import numpy as np

from unteach.audits.answer_tokens import (
    compute_answer_means,
    refuse_empty_answers,
    refuse_not_finite,
)
from unteach.engines.base import Pair, ProgressCallback
from unteach.engines.batching import Batch, list_items
from unteach.engines.hf import HFEngine
from unteach.engines.prompt_sharing import count_tokens
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.models.forward import OutputSpec
from unteach.models.layer_names import ALL_LAYERS
from unteach.models.layers import refuse_no_lens, unwrap_model

PASS = "logit_lens"
"""What the pass is called in the store and in its budget."""


def compute_logit_lens(
    engine: HFEngine, pairs: Sequence[Pair], on_progress: ProgressCallback = None
) -> np.ndarray:
    """Compute the mean log-prob of each answer's tokens at every layer of a model.

    Args:
        pairs: prompts and answers. Without a prompt, an answer's first token is not scored.

    Returns:
        [answers, layers], from the lowest layer up. The batch size changes nothing but rounding.

    Raises:
        UserError: between the model's last layer and its head is more than one norm, an answer is
            empty, or a log-prob is not finite.
    """
    refuse_empty_answers(pairs)
    try:
        refuse_no_lens(unwrap_model(engine.model))
    except UserError as error:
        raise UserError(f"no logit lens reads this model: {error}") from None
    spec = OutputSpec(lens=(ALL_LAYERS,))

    def measure_batch(batch: Batch) -> list[list[float]]:
        outputs = engine.compute_outputs([pairs[i] for i in list_items(batch)], spec)
        by_layer = [compute_answer_means(outputs, value) for value in outputs.lens.values()]
        means: list[list[float]] = torch.stack(by_layer, dim=1).tolist()  # [B, layers]
        return means

    planner = engine.build_planner(PASS, pairs, count_tokens)
    lens = np.array(engine.measure(PASS, planner, measure_batch, on_progress))
    refuse_not_finite(lens)
    return lens
