"""The model without what stands between its logits and what it says."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unteach.audits.attacks.base import WeightAttack
from unteach.models.decoding import switch_off_decoding
from unteach.models.layers import unwrap_model
from unteach.models.loading import LoadedModel
from unteach.registry import attack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SETTINGS = ("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens")
"""Of generation_config.json: those by which the library keeps a model from saying tokens."""


@attack("processor_off", cost="the attacks in `measured` once more")
@dataclass
class ProcessorOff(WeightAttack):
    """Switch off the logits processor that belongs to the model: the second model of a decoding
    (ULD, WHP), and the settings of generation_config.json that keep tokens from being said. What is
    known without it was suppressed and not forgotten."""

    TAKES_AWAY = True
    measured: list[str] = field(
        default_factory=lambda: ["rank", "clean"],
        metadata={"help": "the attacks that ask meanwhile"},
    )

    def find_model_fault(self, loaded: LoadedModel) -> str:
        return "" if list_processors(loaded) else "the model has no logits processor of its own"

    @contextlib.contextmanager
    def change(self, model: "PreTrainedModel") -> Iterator[None]:
        settings = unwrap_model(model).generation_config
        before = {name: getattr(settings, name) for name in SETTINGS}
        for name in SETTINGS:
            setattr(settings, name, None)
        try:
            with switch_off_decoding(model):
                yield
        finally:
            for name, value in before.items():
                setattr(settings, name, value)


def list_processors(loaded: LoadedModel) -> list[str]:
    """List what of a model stands between its logits and what it says."""
    processors = [str(loaded.decoding)] if loaded.decoding is not None else []
    settings = getattr(unwrap_model(loaded.model), "generation_config", None)
    for name in SETTINGS:
        if getattr(settings, name, None):
            processors.append(f"{name} of generation_config.json")
    return processors
