"""The contract of a one-shot edit: gradients of all rows, whatever the batch."""

import copy
from typing import Any

import pytest
import torch

from tests.methods.edit.context import build_context
from unteach.methods.edit.base import EditContext
from unteach.testing import build_method, step_gradient
from unteach.testing.examples import build_examples
from unteach.testing.tiny_world import build_tiny_world


@pytest.fixture(scope="module")
def world() -> tuple[Any, dict[str, Any]]:
    loaded, _, rows = build_tiny_world(build_method("GradDiff"))
    return loaded, rows


def find_all(context: EditContext) -> dict[str, Any]:
    return dict(context.model.named_parameters())


@pytest.mark.parametrize("size", [1, 3, 5, 13])
def test_gradients_are_of_the_token_mean_whatever_the_batch(world: Any, size: int) -> None:
    """They equal the gradient of one optimiser step of GradDiff's retain term over all rows."""
    loaded, rows = world
    context = build_context(loaded, rows, batch_size=size)
    found = context.compute_gradients("forget", find_all(context))
    assert not any(weight.requires_grad for weight in context.model.parameters())
    flat = torch.cat([gradient.flatten() for gradient in found.values()])

    copied = copy.copy(loaded)
    copied.model.requires_grad_(True)
    examples = {"train": rows["forget"]}
    expected, _ = step_gradient(copied, build_method("SFT"), examples, None, 1)
    copied.model.requires_grad_(False)
    assert float((flat - expected).norm() / expected.norm()) < 1e-5


def test_gradients_of_batches_add_up(world: Any) -> None:
    loaded, rows = world
    context = build_context(loaded, rows, batch_size=4)
    weights = find_all(context)
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    num_tokens = 0
    for gradients, count in context.iterate_gradients("forget", weights):
        num_tokens += count
        for name, gradient in gradients.items():
            totals[name] += count * gradient
    whole = context.compute_gradients("forget", weights)
    for name, gradient in whole.items():
        torch.testing.assert_close(totals[name] / num_tokens, gradient, rtol=1e-4, atol=1e-7)


def test_only_what_is_asked_for_gets_a_gradient(world: Any) -> None:
    loaded, rows = world
    context = build_context(loaded, rows)
    name = "model.layers.1.mlp.down_proj.weight"
    found = context.compute_gradients("forget", {name: context.model.get_parameter(name)})
    assert list(found) == [name] and found[name].abs().sum() > 0
    assert all(weight.grad is None for weight in context.model.parameters())


def test_rows_without_a_token_to_learn_are_refused(world: Any) -> None:
    loaded, _ = world
    rows = build_examples(loaded.template, [{"question": "Who?", "answer": "She."}], False)
    rows[0]["labels"] = [-100] * len(rows[0]["input_ids"])
    context = build_context(loaded, {"forget": rows})
    with pytest.raises(Exception, match=r"data\.forget: no row has a token"):
        context.compute_gradients("forget", find_all(context))
