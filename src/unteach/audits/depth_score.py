"""UDS, the unlearning depth score: at which depth a model has forgotten what a retrained one never
knew.

Into the original (full) model the states of another are patched, one layer at a time, where it
predicts the tokens of a fact's value (patching.py). With full's mean log-prob f of the value's
tokens and f_l with layer l patched, the drop is D_l = f - f_l. The retain model's drops D1 say
which layers hold the fact, those with D1_l > threshold; the audited model's D2 say how much of it
is gone there:

    UDS = sum_l D1_l clip(D2_l / D1_l, 0, 1) / sum_l D1_l    over the layers with D1_l > threshold

0: the states say all that full's say; 1: as little as the retain model's. A fact that no layer
holds has no score, and the model's is the mean over the others.

Source: gnueaj/unlearning-depth-score. That code takes the last layer's states behind the final
norm, so that they are normed twice and full in full is not quite 0; here they are the layer's
output, unless `published` is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unteach.audits.patching import Place, RecordedStates, compute_patched_logprobs
from unteach.engines.base import Pair, ProgressCallback
from unteach.engines.hf import HFEngine

THRESHOLD = 0.05
"""Nats by which a layer's drop must exceed 0 for the layer to hold a fact."""
Form = Literal["corrected", "published"]
"""Where the last layer's states are taken: `corrected`, the layer's output; `published`, behind the
final norm."""
PLACES: dict[Form, Place] = {"corrected": "layer", "published": "layer_normed_last"}


@dataclass(frozen=True)
class DepthScore:
    """The depth score of a model.

    Attributes:
        value: the mean over the facts that have a score; None where none has.
        by_fact: the score of each; None where no layer holds it.
    """

    value: float | None
    by_fact: list[float | None]

    @property
    def num_skipped(self) -> int:
        """How many facts have no score."""
        return self.by_fact.count(None)


def compute_drops(
    full: HFEngine,
    states: RecordedStates | None,
    pairs: Sequence[Pair],
    form: Form = "corrected",
    source_name: str = "",
    on_progress: ProgressCallback = None,
) -> np.ndarray:
    """Compute D_l for each fact: by how much full says it less surely with a layer of another.

    Call it with the states of the retain model and of each audited one.

    Args:
        full: the original model.
        states: what is patched in (`record_states` for the place of the form); None where the
            store of `full` has everything.
        pairs: for each fact what is before its value, and the value (`build_value_pair`).
        source_name: tells the weights that the states are of from others; needed where `full` has a
            store.

    Returns:
        [facts, layers], in nats.

    Raises:
        UserError: as `compute_patched_logprobs`.
    """
    measured = compute_patched_logprobs(full, states, pairs, PLACES[form], source_name, on_progress)
    return measured.drops


def compute_depth_score(
    retain_drops: np.ndarray, drops: np.ndarray, threshold: float = THRESHOLD
) -> DepthScore:
    """Compute the depth score of a model from two sets of drops [facts, layers].

    Of drops of logit lenses through full's own norm and head (`last_layer` of patching.py) it is
    the score by logit lens.

    Args:
        retain_drops: D1, of the retain model.
        drops: D2, of the audited model.
    """
    by_fact: list[float | None] = []
    for d1, d2 in zip(retain_drops, drops, strict=True):
        holds = d1 > threshold
        if not holds.any():
            by_fact.append(None)
            continue
        # D1 clip(D2 / D1, 0, 1), for D1 > 0.
        erased = np.clip(d2[holds], 0.0, d1[holds])
        by_fact.append(float(erased.sum() / d1[holds].sum()))
    scores = [score for score in by_fact if score is not None]
    value = float(np.mean(scores)) if scores else None
    return DepthScore(value, by_fact)
