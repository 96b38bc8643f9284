"""A model that another engine than transformers runs, as vLLM: it is asked in tokens as any is, and
its weights are out of reach."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from unteach.audits.attacks.base import (
    Attack,
    InsideAttack,
    ScoreAttack,
    TrainingAttack,
    WeightAttack,
)
from unteach.audits.attacks.processor_off import list_processors
from unteach.audits.audited_model import AuditedModel, Change
from unteach.audits.battery import BatteryPlan, limit_answers
from unteach.audits.probes import Probe, RankProbe
from unteach.config.schema import ModelConfig
from unteach.engines.base import Engine, Store
from unteach.errors import UserError
from unteach.evals import measurement_cache

if TYPE_CHECKING:
    from unteach.audits.attacks.base import AuditContext
    from unteach.models.loading import LoadedModel

NEEDS_WEIGHTS = {
    WeightAttack: "it changes weights",
    TrainingAttack: "it trains a copy of the model",
    InsideAttack: "it looks inside the model",
    ScoreAttack: "it looks inside the model",
}
"""Attacks that ask for more than what a model says."""


SETTINGS_FILE = "generation_config.json"
SERVED = {
    "repetition_penalty",
    # What tokens mean, and how long a text is: said by us.
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("max_length", "max_new_tokens"),
    # How tokens are drawn: an audit takes the likeliest, or draws from the whole distribution.
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    # What changes no text.
    *("use_cache", "cache_implementation", "transformers_version", "_from_model_config"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    "return_dict_in_generate",
}
"""Settings of a model's generation that hold under any engine, or say nothing there."""


class ClosableEngine(Engine, Protocol):
    """An engine that holds a model until it is closed."""

    def close(self) -> None: ...


BuildEngine = Callable[[ModelConfig, int, Store], ClosableEngine]
"""(the model, tokens of its longest row, where measurements are kept) -> what runs it."""


@dataclass
class EngineModel(AuditedModel):
    """A model that an engine of its own runs.

    Attributes:
        build_engine: builds the engine.
        longest: tokens of the longest row that it is asked.
        settings: what its answers depend on beside model and precision.
    """

    build_engine: BuildEngine
    longest: int
    settings: str

    @contextlib.contextmanager
    def open_engine(self, label: str = "", change: Change | None = None) -> Iterator[Engine]:
        """Open the engine; it is closed at the end, so that the next model has the memory."""
        assert change is None, "attacks on weights are absent"
        precision = f"{self.settings} {self.empty.compute}"
        store = measurement_cache.Store(self.cache, self.identity, precision, self.dist.rank)
        engine = self.build_engine(self.config, self.longest, store)
        try:
            yield engine
        finally:
            engine.close()


def describe_settings(name: str, backend: object) -> str:
    """Describe a backend by the settings that its answers depend on."""
    free: frozenset[str] = getattr(backend, "FREE", frozenset())
    settings = {key: value for key, value in vars(backend).items() if key not in free}
    return f"{name} {json.dumps(settings, sort_keys=True, default=str)}"


def drop_weight_attacks(plan: BatteryPlan, attacks: Mapping[str, Attack], name: str) -> BatteryPlan:
    """Drop the attacks that need the weights of a model, each with its reason.

    Args:
        attacks: those that were asked for.
        name: of the engine that has the weights.
    """
    absent = dict(plan.absent)
    for attack_name, attack in attacks.items():
        for kind, reason in NEEDS_WEIGHTS.items():
            if isinstance(attack, kind):
                absent[attack_name] = f"{reason}, which {name} holds; leave backend out for it"
    kept = {key: attack for key, attack in plan.attacks.items() if key not in absent}
    probes = {key: asked for key, asked in plan.probes.items() if key in kept}
    return replace(plan, attacks=kept, probes=probes, absent=absent)


def refuse_unserved(path: str, empty: "LoadedModel", name: str) -> None:
    """Raise UserError for a model that says other things than its logits alone make it say, by what
    an engine leaves out: a decoding of its own, and settings of generation_config.json."""
    unserved = list_processors(empty)
    settings = empty.model.generation_config.to_diff_dict()
    for key, value in settings.items():
        named = f"{key} of {SETTINGS_FILE}"
        if key not in SERVED and not _is_neutral(key, value) and named not in unserved:
            unserved.append(named)
    if unserved:
        raise UserError(
            f"backend={name}: {path} has {', '.join(unserved)}, which {name} does not apply; leave "
            "backend out"
        )


def _is_neutral(key: str, value: object) -> bool:
    """Say whether a setting changes no text: it is off, or the one beam and the factor of 1 that
    files spell out."""
    is_one = value == 1 and value is not True
    return not value or (is_one and not key.startswith("min_"))


def find_longest(plan: BatteryPlan, context: "AuditContext") -> int:
    """Find how many tokens the longest row of a plan has, with what may be written after it."""
    limit = limit_answers(context)
    probes = [probe for asked in plan.probes.values() for probe in asked]
    return max((_count_tokens(probe, limit) for probe in probes), default=0)


def _count_tokens(probe: Probe, limit: int) -> int:
    if isinstance(probe, RankProbe):
        return len(probe.prompt) + max(map(len, probe.continuations))
    return len(probe.prompt) + limit
