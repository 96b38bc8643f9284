"""Every attack keeps the contract, and one that breaks it is found out."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from unteach import registry
from unteach.audits.attacks.base import Attack, AuditContext, WeightAttack
from unteach.audits.attacks.prefill import Prefill
from unteach.audits.facts import Fact
from unteach.audits.probes import Probe, TextProbe
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
        return [TextProbe(0, context.ask(f"Who {self.asked}?"))]


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


@pytest.mark.parametrize(
    ("cls", "facts", "message"),
    [
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


def test_no_more_of_an_answer_is_given_than_stands_before_its_value() -> None:
    fact = Fact(0, "", "Where?", "Mara Lind lives in Oslo by the sea.", "Oslo", "city")
    attack = Prefill()
    assert attack.cut_answer(fact, 0.25) == "Mara Lind"
    assert attack.cut_answer(fact, 0.9) == "Mara Lind lives in"
    whole = Fact(0, "", "Where?", "By the sea.", "By the sea.")
    assert attack.cut_answer(whole, 0.5) == "By"
