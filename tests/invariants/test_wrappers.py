"""Surgery and perturbations round methods: the same step for every split, and the algebra that ties
them to the plain step."""

from typing import Any

import pytest
import torch

from unteach.testing import build_method, build_wrappers, check_method, step_gradient
from unteach.testing.tiny_world import build_tiny_world
from unteach.training.step import setup_method

MLP = r"model\.layers\.0\.mlp"
LAT: dict[str, Any] = {"name": "LAT", "module": MLP, "steps": 3}
RMU = {"module_regex": r"model\.layers\.1"}
LONG = pytest.mark.long
CASES = [
    ("GradDiff", {}, {"surgery": "pcgrad"}),
    ("NPO", {"retain_loss_type": "KL"}, {"surgery": {"name": "pcgrad", "per": "global"}}),
    ("RMU", RMU, {"surgery": "pcgrad"}),
    ("GradDiff", {}, {"surgery": "sago"}),
    ("DPO", {}, {"surgery": "sago"}),
    ("GradDiff", {}, {"surgery": "sago_prefer_retain"}),
    ("NPO", {}, {"surgery": "blur"}),
    ("JensUnPP", {}, {"surgery": "blur"}),
    ("NPO", {}, {"surgery": "gru"}),
    ("IdkAP", {}, {"surgery": {"name": "gru", "ce_coeff": 1.0, "cos_clip": -0.5}}),
    ("GradDiff", {}, {"surgery": "ngdiff"}),
    ("RMU", RMU, {"surgery": "ngdiff"}),
    ("NPO", {}, {"perturb": "SAM"}),
    ("RMU", RMU, {"perturb": {"name": "SAM", "rho": 0.1}}),
    ("LLMU", {}, {"perturb": "SAM"}),
    ("NPO", {}, {"perturb": "RandomSmoothing"}),
    ("GradDiff", {}, {"perturb": {"name": "RandomSmoothing", "sigma": 0.01, "n": 2}}),
    ("GradDiff", {}, {"perturb": LAT}),
    ("RMU", RMU, {"perturb": LAT}),
    ("DPO", {}, {"perturb": {**LAT, "direction": "both"}}),
    ("IdkSFT", {}, {"perturb": {**LAT, "direction": "away"}}),
    ("NPO", {}, {"surgery": "pcgrad", "perturb": "SAM"}),
    ("NPO", {"alpha": 0.0}, {"perturb": "SAM"}),
]
"""Of each rule one case is fast; the others are slow proofs."""
seen: set[str] = set()


def pick_cases() -> list[Any]:
    cases = []
    for name, args, wrappers in CASES:
        rules = str({k: v if isinstance(v, str) else v["name"] for k, v in wrappers.items()})
        marks = [LONG] if rules in seen else []
        seen.add(rules)
        cases.append(pytest.param(name, args, wrappers, marks=marks, id=f"{name} {wrappers}"))
    return cases


@pytest.mark.parametrize(("name", "args", "wrappers"), pick_cases())
def test_every_wrapper_conforms(name: str, args: Any, wrappers: Any) -> None:
    check_method(name, args, **wrappers)


def compute(
    name: str, wrappers: Any, world: Any = None, args: Any = None
) -> tuple[torch.Tensor, Any]:
    """The gradient of one step in two micro-batches, and the world that it was computed in."""
    method = build_method(name, args or {})
    world = world or build_tiny_world(method)
    loaded, frozen, rows = world
    setup_method(loaded.model, method, 0, {}, loaded.template)
    built = build_wrappers(**wrappers)
    gradient, _ = step_gradient(loaded, method, rows, frozen, 2, size=8, wrappers=built)
    return gradient, world


@pytest.mark.parametrize(
    "wrappers",
    [
        {"perturb": {"name": "SAM", "rho": 0.0}},
        {"perturb": {"name": "RandomSmoothing", "sigma": 0.0}},
        {"perturb": {**LAT, "epsilon": 0.0}},
        {"surgery": {"name": "gru", "cos_clip": 0.0, "ce_coeff": 1.0}},
    ],
    ids=str,
)
def test_a_wrapper_that_does_nothing_is_the_plain_step(wrappers: Any) -> None:
    plain, world = compute("NPO", {})
    wrapped, _ = compute("NPO", wrappers, world)
    assert float((wrapped - plain).norm() / plain.norm()) < 1e-5


def test_pcgrad_is_the_plain_step_only_where_nothing_conflicts() -> None:
    """Learning other answers while the retain answers are held conflicts nowhere near the start;
    ascending does."""
    rule = {"surgery": {"name": "pcgrad", "per": "global"}}
    for name, conflicts in (("IdkSFT", False), ("GradDiff", True)):
        plain, world = compute(name, {})
        wrapped, _ = compute(name, rule, world)
        distance = float((wrapped - plain).norm() / plain.norm())
        assert (distance > 1e-3) == conflicts, (name, distance)


@pytest.mark.parametrize(
    "perturb",
    [{"name": "SAM", "rho": 0.3}, {"name": "RandomSmoothing", "sigma": 0.1}, LAT],
    ids=lambda perturb: perturb["name"],
)
def test_weights_come_back_bit_by_bit_and_the_gradient_is_another(perturb: Any) -> None:
    plain, world = compute("NPO", {})
    before = {name: p.detach().clone() for name, p in world[0].model.named_parameters()}
    perturbed, _ = compute("NPO", {"perturb": perturb}, world)
    assert float((perturbed - plain).norm() / plain.norm()) > 1e-3
    for name, parameter in world[0].model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    again, _ = compute("NPO", {}, world)
    assert torch.equal(again, plain), "nothing stays on the model"
