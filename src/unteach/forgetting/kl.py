"""How far a model that was taught anew is from the one before: KL(before || now) on text that the
one before writes by itself, as a landing measures it."""

import itertools
from pathlib import Path

from unteach.audits.session import configure_model_like
from unteach.config.schema import ModelConfig
from unteach.config.watching import Land
from unteach.lazy import torch
from unteach.models import loading
from unteach.training.drift import DriftMeter, list_openings


def measure_kl(before: ModelConfig, now: str, seed: int, cache_dir: Path) -> float:
    """Measure KL(before || now), in nats a token.

    Both models are in memory at once.

    Args:
        before: the model that writes the texts.
        now: the folder of one of the same shape.
        seed: of the texts.
        cache_dir: keeps the texts, and what the model before says of them.
    """
    loaded = loading.load(before, training=False)
    meter = DriftMeter(loaded, loaded.model.parameters())
    openings = itertools.cycle(list_openings(loaded.template))
    prompts = list(itertools.islice(openings, Land.texts))
    meter.prepare(prompts, Land.tokens, seed, cache_dir)
    other = loading.load(configure_model_like(before, now), training=False)
    values = dict(other.model.named_parameters())
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            # What is quantized is a base that both share.
            if parameter.is_floating_point():
                parameter.copy_(values[name])
    return meter.measure()
