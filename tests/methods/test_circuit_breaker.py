"""CircuitBreaker: what must hold at the reference, of its schedule, and of what it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.methods.base import Context
from unteach.models import adapters, loading
from unteach.models.hub import PATH
from unteach.models.reference import Reference
from unteach.testing import build_method, check_method, method_loss
from unteach.testing.examples import build_examples
from unteach.testing.losses import step_gradient
from unteach.training.step import setup_method

NAME = "CircuitBreaker"
BOTH = {"ramp_steps": None}


@pytest.fixture(scope="module")
def batch(kit: Path) -> tuple[list[dict], list[dict]]:
    return tuple(read_rows(kit / "data" / f"{name}.jsonl")[:4] for name in ("forget10", "retain90"))  # type: ignore[return-value]


def compute(args: dict[str, Any], kit: Path, batch: Any, policy: str) -> tuple[float, float]:
    return method_loss(NAME, args, kit / policy, kit / "reference", *batch, {})


def test_at_the_reference_the_forget_term_is_one_and_every_gradient_is_zero(
    kit: Path, batch: Any
) -> None:
    loss, norm = compute({**BOTH, "nudge": 0.0}, kit, batch, "reference")
    assert loss == pytest.approx(10.0, rel=1e-6)
    assert norm == pytest.approx(0, abs=1e-3)


def test_a_nudge_starts_it_off_the_reference_in_the_first_step_alone(kit: Path, batch: Any) -> None:
    _, still = compute({**BOTH, "nudge": 0.0}, kit, batch, "reference")
    _, moved = compute(BOTH, kit, batch, "reference")
    assert moved > 100 * still
    method = build_method(NAME, BOTH)
    method.prepare(Context(0, 8))
    target = torch.randn(3, 8)
    nudged = method._nudge(target)
    lengths = (nudged - target).norm(dim=-1) / target.norm(dim=-1)
    assert torch.allclose(lengths, torch.full((3,), 0.01), atol=1e-6)
    method.after_step({}, 0.0)
    assert method._nudge(target) is target


def test_the_weight_goes_from_forget_to_retain_with_the_steps(kit: Path, batch: Any) -> None:
    """Step 150 of 300 has half of either: the same as gamma and alpha 5 without a ramp."""
    method = build_method(NAME, {})
    method.load_state({"num_steps": 149})
    assert method._compute_ramp() == 0.5
    again = build_method(NAME, {})
    again.load_state(method.state())
    again.after_step({}, 0.0)
    assert again._compute_ramp() == pytest.approx(151 / 300)
    again.load_state({"num_steps": 900})
    assert again._compute_ramp() == 1.0, "it never turns round"
    first, _ = compute({"ramp_steps": 1}, kit, batch, "policy")
    retain, _ = compute({**BOTH, "gamma": 0.0}, kit, batch, "policy")
    assert first == pytest.approx(retain, rel=1e-6)


@pytest.mark.parametrize(
    "args",
    [
        {"square_norm": True, "ramp_steps": None},
        {"alpha": 0.0},
        {"target_layers": ["layers.0", "layers.1"], "retain_layers": ["embedding", "last"]},
        {"retain_loss_type": "NLL"},
        {"retain_loss_type": "EMBED_DIFF"},
    ],
    ids=str,
)
def test_options_conform(args: dict[str, Any]) -> None:
    check_method(NAME, args, processes="retain_layers" in args)


def test_an_adapter_trains_against_the_model_without_it(tiny_folder: Path) -> None:
    """A fresh one, whose B is 0: the first step moves it, and the next turns the states away."""
    peft_args = {"r": 4, "target_modules": "all-linear"}
    config = ModelConfig({PATH: str(tiny_folder), "dtype": "float32"}, peft_args=peft_args)
    loaded = loading.load(config, training=True)
    rows = {
        name: build_examples(loaded.template, [{"question": q, "answer": a}], False, name)
        for name, q, a in (("forget", "Who?", "Ann."), ("retain", "Where?", "In Rome."))
    }
    method = build_method(NAME, {"alpha": 0.0, "ramp_steps": None, "target_layers": ["layers.1"]})
    setup_method(loaded.model, method, 0, {}, loaded.template)
    frozen: Any = adapters.BasePolicy(loaded.model, "")
    optimizer = torch.optim.Adam([p for p in loaded.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        _, loss = step_gradient(loaded, method, {"forget": rows["forget"]}, frozen, 1)
        optimizer.step()
        method.after_step({}, 0.0)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(10.0, abs=0.01)
    assert losses[-1] < 9.5, losses


def test_the_reference_is_cut_above_the_highest_target(tiny_folder: Path) -> None:
    from unteach.models.reference import drop_unused_layers

    method = build_method(NAME, {"target_layers": ["layers.0"]})
    frozen = loading.load_frozen(ModelConfig({PATH: str(tiny_folder)}))
    drop_unused_layers(frozen, method.reference())
    assert len(frozen.model.layers) == 1
    Reference(method.reference(), frozen=frozen)
    whole = loading.load_frozen(ModelConfig({PATH: str(tiny_folder)}))
    method = build_method(NAME, {"target_layers": ["layers.0"], "retain_layers": ["last"]})
    assert len(drop_unused_layers(whole, method.reference()).model.layers) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"target_layers": []}, "target_layers names no layer"),
        ({"ramp_steps": 0}, "ramp_steps must be at least 1"),
        ({"nudge": -1.0}, "nudge must not be negative"),
        ({"alpha": -1.0}, "alpha must not be negative"),
        ({"retain_loss_type": "MSE"}, "STATES, NLL, KL"),
    ],
)
def test_mistakes_are_said(args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_method(NAME, args)
