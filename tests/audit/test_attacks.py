"""Every attack keeps the contract, and one that breaks it is found out."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unteach import registry
from unteach.audits import battery
from unteach.audits.attacks import weights
from unteach.audits.attacks.base import (
    ORIGINAL,
    Attack,
    AuditContext,
    InsideAttack,
    ScoreAttack,
    WeightAttack,
)
from unteach.audits.attacks.logit_lens import judge_layers
from unteach.audits.attacks.prefill import Prefill
from unteach.audits.attacks.weights import Quantize
from unteach.audits.audited_model import AuditedModel
from unteach.audits.facts import Fact
from unteach.audits.probes import Finding, Probe, TextProbe
from unteach.engines.hf import HFEngine
from unteach.evals.base import Progress
from unteach.plugins import load_file
from unteach.testing import check_attack

NAMES = [entry.name for entry in registry.attack.entries()]
TRAINING = {"learning_rates": [1e-3], "looks": [2]}
SHORT = {"relearn": TRAINING, "relearn_benign": TRAINING, "leak_at_k": {"n": 2}}
"""Fields of what takes long: one training, few samples."""


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_keeps_the_contract(name: str) -> None:
    check_attack(name, SHORT.get(name))


@dataclass
class Moody(Attack):
    """Asks otherwise each time."""

    asked: int = 0

    def write_probes(self, context: AuditContext) -> list[Probe]:
        self.asked += 1
        return [TextProbe(0, context.ask(context.facts[0], f"Who {self.asked}?"))]


@dataclass
class Careless(WeightAttack):
    """Leaves the weights changed where something is raised."""

    measured: list[str] = field(default_factory=lambda: ["clean"])

    @contextlib.contextmanager
    def change(self, model: Any) -> Iterator[None]:
        weight = model.model.layers[0].mlp.up_proj.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.add_(1)
        yield
        with torch.no_grad():
            weight.copy_(kept)


@dataclass
class Meddling(InsideAttack):
    """Leaves a hook on the model."""

    def look_inside(
        self, context: AuditContext, engine: HFEngine, progress: Progress
    ) -> dict[int, Finding]:
        engine.model.lm_head.register_forward_hook(lambda *_: None)
        return {}


@dataclass
class Hoarding(ScoreAttack):
    """Keeps a model that it has loaded."""

    def score_facts(
        self, context: AuditContext, models: Mapping[str, AuditedModel], progress: Progress
    ) -> dict[int, float | None]:
        return {0: float(models[ORIGINAL].model.config.vocab_size)}


@pytest.mark.parametrize(
    ("cls", "facts", "message"),
    [
        (Meddling, {"cost": "1"}, "leaves a hook on lm_head"),
        (Hoarding, {"cost": "1"}, "keeps the weights of original"),
        (Moody, {"cost": "1"}, "writes other probes again"),
        (Careless, {"cost": "1"}, "leaves model.layers.0.mlp.up_proj.weight changed"),
        (Moody, {}, "says no cost"),
    ],
)
def test_an_attack_that_breaks_it_is_found_out(
    monkeypatch: pytest.MonkeyPatch, cls: type, facts: dict[str, str], message: str
) -> None:
    entry = registry.Entry("odd", cls, facts)
    monkeypatch.setitem(registry.attack._entries, "odd", entry)
    with pytest.raises(AssertionError, match=message):
        check_attack("odd")


def test_a_candidate_comes_out_where_it_alone_is_first_at_some_layer() -> None:
    sums = np.array([[-1.0, -5.0, -2.0], [-2.0, -1.0, -2.0], [-3.0, -3.0, -3.0]])
    assert judge_layers(4, sums) == Finding(4, (True, True, False))
    assert judge_layers(4, sums[:, 2:]).hits == (False, False, False), "a tie"


PLUGIN = """
from dataclasses import dataclass
from unteach.audits.attacks.base import WeightAttack

@dataclass
class Shake(WeightAttack):
    strength: float = 1.0
"""


def test_an_edited_attack_finds_no_old_numbers(tmp_path: Path) -> None:
    """Its fields are the same, and its file is not."""
    file = tmp_path / "shake.py"
    labels = []
    for text in (PLUGIN, PLUGIN, f"{PLUGIN}    # harder"):
        file.write_text(text)
        labels.append(battery._label_change(load_file(str(file)).Shake()))
    assert labels[0] == labels[1] != labels[2]


def test_four_bits_of_bitsandbytes_are_absent_without_it(
    monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    monkeypatch.setattr(weights, "has_extra", lambda extra: False)
    assert 'pip install ".[quant]"' in Quantize("nf4").find_model_fault(tiny)
    assert Quantize("rtn4").find_model_fault(tiny) == ""


def test_no_more_of_an_answer_is_given_than_stands_before_its_value() -> None:
    fact = Fact(0, "", "Where?", "Mara Lind lives in Oslo by the sea.", "Oslo", "city")
    attack = Prefill()
    assert attack.cut_answer(fact, 0.25) == "Mara Lind"
    assert attack.cut_answer(fact, 0.9) == "Mara Lind lives in"
    whole = Fact(0, "", "Where?", "By the sea.", "By the sea.")
    assert attack.cut_answer(whole, 0.5) == "By"
