"""RepSelect: the algebra of what it leaves of a gradient, its adversary, and its search."""

import copy
from typing import Any

import peft
import pytest
import torch

from tests.methods.edit.context import build_context
from unteach.errors import UserError
from unteach.methods.edit.adversary import RATE, Adversary
from unteach.methods.edit.repselect import measure_norm, search_strength
from unteach.methods.edit.spectral import Kind, collapse, find_directions
from unteach.models.forward import OutputSpec, extend
from unteach.testing import build_method
from unteach.testing.tiny_world import build_tiny_world

KINDS: list[Kind] = ["soft", "quadratic", "hard"]


@pytest.fixture
def world() -> tuple[Any, dict[str, Any]]:
    loaded, _, rows = build_tiny_world(build_method("GradDiff"))
    return loaded, rows


@pytest.fixture(params=[(7, 5), (5, 7)], ids=str)
def matrix(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.randn(*request.param, generator=torch.Generator().manual_seed(0))


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_directions_are_those_of_the_svd(matrix: torch.Tensor) -> None:
    _, values, _ = torch.linalg.svd(matrix.double())
    found = find_directions(matrix, 3)
    torch.testing.assert_close(found.values, values[:3])
    assert_near(found.outputs.T @ matrix.double() @ found.inputs, torch.diag(values[:3]))


@pytest.mark.parametrize("kind", ["soft", "quadratic"])
def test_one_direction_changes_nothing(matrix: torch.Tensor, kind: Kind) -> None:
    assert_near(collapse(matrix, find_directions(matrix, 1), "both", kind), matrix)


def test_all_directions_on_both_sides_give_the_pseudoinverse(matrix: torch.Tensor) -> None:
    directions = find_directions(matrix, 100)
    expected = directions.values[-1] ** 2 * torch.linalg.pinv(matrix.double()).T
    assert_near(collapse(matrix, directions, "both", "soft").double(), expected)


def test_all_directions_on_one_side_become_alike(matrix: torch.Tensor) -> None:
    directions = find_directions(matrix, 5)
    for side in ("act", "grad"):
        found = collapse(matrix, directions, side, "soft")  # type: ignore[arg-type]
        values = torch.linalg.svdvals(found.double())
        assert_near(values, directions.values[-1].expand(5))


def test_hard_on_one_side_is_hard_on_both(matrix: torch.Tensor) -> None:
    directions = find_directions(matrix, 2)
    both = collapse(matrix, directions, "both", "hard")
    assert_near(collapse(matrix, directions, "act", "hard"), both)
    assert_near(collapse(matrix, directions, "grad", "hard"), both)


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_passes_through(matrix: torch.Tensor, kind: Kind) -> None:
    found = collapse(-3 * matrix, find_directions(-3 * matrix, 3), "both", kind)
    assert_near(found, -3 * collapse(matrix, find_directions(matrix, 3), "both", kind))


def test_rounding_is_no_direction() -> None:
    """A gradient of few tokens has few directions; the weakest of them is no noise."""
    generator = torch.Generator().manual_seed(1)
    low = torch.randn(60, 3, generator=generator) @ torch.randn(3, 50, generator=generator)
    directions = find_directions(low, 40)
    assert len(directions.values) == 3
    assert not len(find_directions(torch.zeros(4, 3), 2).values)
    assert torch.equal(
        collapse(torch.zeros(4, 3), find_directions(torch.zeros(4, 3), 2), "both", "soft"),
        torch.zeros(4, 3),
    )


def test_without_collapse_it_is_one_step_of_ascent(world: Any) -> None:
    loaded, rows = world
    context = build_context(loaded, rows)
    edit = build_method("RepSelect", {"n_pcs": 1, "adversary": False, "strength": 0.3})
    weights = edit.find_weights(loaded.model)
    gradients = context.compute_gradients("forget", weights)
    before = {name: weight.clone() for name, weight in loaded.model.named_parameters()}
    edit.edit(context)
    for name, weight in loaded.model.named_parameters():
        if name in weights:
            torch.testing.assert_close(weight, before[name] + 0.3 * gradients[name])
        else:
            assert torch.equal(weight, before[name])


def test_the_step_does_not_depend_on_the_batch_size(world: Any) -> None:
    loaded, rows = world
    edit = build_method("RepSelect", {"n_pcs": 8, "adversary": False})
    assert not edit.depends_on_micro_batches()
    steps = [edit.find_step(build_context(loaded, rows, batch_size=size)) for size in (1, 5)]
    for name, part in steps[0].items():
        assert_near(steps[1][name], part)


def test_the_adversary_is_a_lora_of_peft(world: Any) -> None:
    """The same A, the same batches: SGD on a LoRA of PEFT's comes to the same B."""
    loaded, rows = world
    context = build_context(loaded, rows)
    edit = build_method("RepSelect", {})
    modules = edit.find_modules(loaded.model)
    adversary = Adversary.draw(modules, seed=0)
    copied = copy.deepcopy(loaded.model)
    copied.__dict__.pop("forward")
    started = {name: a.clone() for name, a in adversary.a.items()}
    with adversary.attached(modules):
        adversary.relearn(context, "forget")
        with_adversary = context.compute_gradients("forget", edit.find_weights(loaded.model))
    without = context.compute_gradients("forget", edit.find_weights(loaded.model))

    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=edit.target_modules)
    model = extend(peft.get_peft_model(copied, config))
    factors = dict(model.named_parameters())
    prefix = "base_model.model."
    for name, a in started.items():
        factors[f"{prefix}{name}.lora_A.default.weight"].data.copy_(a)
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for batch in context.iterate_batches("forget"):
        loss = -model(batch=batch, want={"forget": OutputSpec()})["forget"].value.mean()
        loss.backward()
        sgd.step()
        sgd.zero_grad()
    for name, b in adversary.b.items():
        assert b.abs().sum() > 0
        assert_near(b, factors[f"{prefix}{name}.lora_B.default.weight"])
        assert_near(adversary.a[name], factors[f"{prefix}{name}.lora_A.default.weight"])
    assert any(not torch.equal(with_adversary[name], without[name]) for name in without)
    assert edit.depends_on_micro_batches()


def test_the_directions_may_be_those_of_the_retain_rows(world: Any) -> None:
    loaded, rows = world
    context = build_context(loaded, rows)
    args = {"n_pcs": 4, "collapse": "hard", "adversary": False, "distribution": "retain"}
    edit = build_method("RepSelect", args)
    assert edit.streams() == ("forget", "retain")
    weights = edit.find_weights(loaded.model)
    retain = context.compute_gradients("retain", weights)
    for name, part in edit.find_step(context).items():
        directions = find_directions(retain[name], 4)
        left = float((part.double() @ directions.inputs).norm())
        assert left < 1e-5 * float(part.norm())


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_search_meets_the_budget(power: float, scale: float) -> None:
    looks: list[tuple[float, float]] = []
    for strength in search_strength(0.05, 0.01, looks):
        looks.append((strength, scale * strength**power))
    assert 0.95 * 0.01 <= looks[-1][1] <= 0.01 and len(looks) <= 30


def test_the_search_ends_where_nothing_meets_the_budget() -> None:
    looks: list[tuple[float, float]] = []
    for strength in search_strength(0.05, 0.01, looks):
        looks.append((strength, float("nan")))
    assert len(looks) == 30


def test_adaptive_keeps_the_strength_within_the_budget(world: Any) -> None:
    """From the untouched weights: what it kept is W0 - strength G~."""
    loaded, rows = world
    start = {name: weight.clone() for name, weight in loaded.model.named_parameters()}

    def measure_kl() -> float:
        squares = [(w - start[name]).square().sum() for name, w in loaded.model.named_parameters()]
        return float(sum(squares))

    args = {"n_pcs": 4, "adversary": False, "budget": 0.01}
    edit = build_method("RepSelectAdaptive", args)
    step = edit.find_step(build_context(loaded, rows))
    numbers = edit.edit(build_context(loaded, rows, measure_kl=measure_kl))
    assert 0.0095 <= numbers["kl"] <= 0.01
    assert numbers["strength"] * measure_norm(step) == pytest.approx(numbers["kl"] ** 0.5, rel=1e-3)
    for name, part in step.items():
        torch.testing.assert_close(
            loaded.model.get_parameter(name).data, start[name] - numbers["strength"] * part
        )


def test_adaptive_keeps_the_model_where_nothing_is_within_the_budget(world: Any) -> None:
    loaded, rows = world
    start = {name: weight.clone() for name, weight in loaded.model.named_parameters()}
    notes: list[str] = []
    context = build_context(loaded, rows, notes=notes, measure_kl=lambda: 1.0)
    numbers = build_method("RepSelectAdaptive", {"adversary": False}).edit(context)
    assert numbers["strength"] == 0
    assert any("no strength within" in note for note in notes)
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(weight, start[name])


def test_weights_that_it_cannot_edit_are_named(world: Any) -> None:
    loaded, _ = world
    with pytest.raises(UserError, match=r"target_modules=nowhere: .*down_proj, gate_proj"):
        build_method("RepSelect", {"target_modules": "nowhere"}).refuse_model(loaded)
    with pytest.raises(UserError, match=r"is a LlamaRMSNorm; only torch\.nn\.Linear"):
        build_method("RepSelect", {"target_modules": r"model\.norm"}).refuse_model(loaded)
    with pytest.raises(UserError, match="target_modules is no regular expression"):
        build_method("RepSelect", {"target_modules": "("})
    loaded.model.model.layers[0].mlp.experts = torch.nn.ParameterDict(
        {"gate_up_proj": torch.nn.Parameter(torch.zeros(2, 3, 4))}
    )
    with pytest.raises(UserError, match=r"experts\.gate_up_proj holds .* all experts"):
        build_method("RepSelect", {}).refuse_model(loaded)
