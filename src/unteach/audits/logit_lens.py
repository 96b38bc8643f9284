"""The logit lens: how surely a model says an answer after each of its layers.

What layer l gives is read as the last hidden states are, through the final norm and the head, and

    lens_l = 1/T sum_t log p_l(a_t | prompt, a_<t)

over the T tokens of an answer, in nats. At the last layer it is the model's own mean log-prob. An
answer that is said with certainty inside, and not at the end, is hidden and not forgotten. Cost:
one pass, in which answers to one prompt share it, with the head once a layer.

Source: the logit lens, nostalgebraist 2020; of unlearned models, gnueaj/unlearning-depth-score.
"""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unteach.audits.answer_tokens import refuse_empty_answers, refuse_not_finite
from unteach.engines.base import Pair, ProgressCallback
from unteach.engines.batching import Batch
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.models.layer_names import ALL_LAYERS, find_modules
from unteach.models.layers import refuse_no_lens, unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PASS = "logit_lens"
"""What the pass is called in the store and in its budget."""


def compute_logit_lens(
    engine: HFEngine,
    pairs: Sequence[Pair],
    depth: float = 0.0,
    on_progress: ProgressCallback = None,
) -> np.ndarray:
    """Compute the mean log-prob of each answer's tokens at the layers of a model.

    The model is not needed where the store has everything.

    Args:
        pairs: prompts and answers. Without a prompt, an answer's first token is not scored.
        depth: the share of the layers, from the lowest up, that is not read, below 1.

    Returns:
        [answers, layers], from the lowest layer up. The batch size changes nothing but rounding.

    Raises:
        UserError: between the model's last layer and its head is more than one norm, an answer is
            empty, or a log-prob is not finite.
    """
    refuse_empty_answers(pairs)

    @functools.cache
    def build_spec() -> OutputSpec:
        return _build_spec(unwrap_model(engine.model), depth)

    def measure_batch(batch: Batch) -> list[list[float]]:
        rows = [[pairs[i] for i in row] for row in batch]
        values_by_answer = engine.measure_rows(rows, build_spec(), _stack_layers)
        return [values.mean(axis=0, dtype=np.float64).tolist() for values in values_by_answer]

    planner = engine.plan_scores(pairs, PASS)
    lens = np.array(engine.measure(f"{PASS} from {depth:g}", planner, measure_batch, on_progress))
    refuse_not_finite(lens)
    return lens


def _build_spec(causal: "PreTrainedModel", depth: float) -> OutputSpec:
    """Ask for the lenses of the layers above a share of the depth. The last layer has none of its
    own: what the model says is its lens."""
    try:
        refuse_no_lens(causal)
    except UserError as error:
        raise UserError(f"no logit lens reads this model: {error}") from None
    names = [address.name for address in find_modules(causal, ALL_LAYERS)]
    return OutputSpec(lens=tuple(names[math.floor(depth * len(names)) : -1]))


def _stack_layers(outputs: TokenOutputs) -> "Tensor":
    """Stack what each layer says of the tokens, and at last the model: [N, layers]."""
    return torch.stack([*outputs.lens.values(), outputs.value], dim=1)
