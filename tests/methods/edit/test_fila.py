"""FILA: the factors of a weight, the Fisher information behind them, and the half that stays."""

from typing import Any

import pytest
import torch

from tests.methods.edit.context import build_context
from unteach.methods.edit.fila import EPSILON, FrozenHalves, compute_fisher, factorize, fill
from unteach.models.lora import LoraPair
from unteach.testing import build_method
from unteach.testing.tiny_world import build_tiny_world

NAME = "model.layers.1.mlp.down_proj.weight"


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)], ids=str)
def test_the_factors_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    weight, forget, retain = draw(*shape), draw(*shape, seed=1) ** 2, draw(*shape, seed=2) ** 2
    a, b = factorize(weight, forget, retain, 3, 0.5)
    rows = (forget.double() / (EPSILON + retain.double())).sum(1).sqrt()
    left, values, right = torch.linalg.svd(rows[:, None] * weight.double())
    roots = (values[:3] / 0.5).sqrt()
    torch.testing.assert_close(a.abs(), (roots[:, None] * right[:3]).abs())
    expected = left[:, :3] * roots / (rows + EPSILON)[:, None]
    torch.testing.assert_close(b.abs(), expected.abs())
    # Signs go together, and the whole rank gives the weight back (but for the epsilon).
    best = (left[:, :3] * values[:3]) @ right[:3]
    torch.testing.assert_close(0.5 * (rows + EPSILON)[:, None] * (b @ a), best)
    a, b = factorize(weight, forget, retain, 5, 0.5)
    torch.testing.assert_close(0.5 * b @ a, weight.double(), rtol=1e-3, atol=1e-4)


def test_directions_that_are_not_there_are_0() -> None:
    weight = draw(6, 1) @ draw(1, 5, seed=1)
    a, b = factorize(weight, torch.ones(6, 5), torch.ones(6, 5), 3, 1.0)
    assert a.shape == (3, 5) and b.shape == (6, 3)
    assert not a[1:].any() and not b[:, 1:].any() and a[0].any()


def test_fisher_information_is_of_single_rows() -> None:
    """(sum n_b g_b^2) / sum n_b, whatever a batch of the run is."""
    loaded, _, rows = build_tiny_world(build_method("GradDiff"))
    loaded.model.requires_grad_(False)
    weight = loaded.model.get_parameter(NAME)
    total, num_tokens = torch.zeros_like(weight), 0
    for example in rows["forget"]:
        weight.requires_grad_(True)
        ids, labels = (torch.tensor([example[key]]) for key in ("input_ids", "labels"))
        [gradient] = torch.autograd.grad(loaded.model(input_ids=ids, labels=labels).loss, weight)
        count = int((labels[:, 1:] != -100).sum())
        total += count * gradient.square()
        num_tokens += count
    weight.requires_grad_(False)
    for size in (1, 4):
        context = build_context(loaded, rows, batch_size=size)
        found = compute_fisher(context, "forget", {NAME: weight})[NAME]
        torch.testing.assert_close(found, total / num_tokens, rtol=1e-4, atol=1e-12)


def build_pair() -> LoraPair:
    a, b = torch.nn.Parameter(torch.zeros(4, 5)), torch.nn.Parameter(torch.zeros(6, 4))
    pair = LoraPair("layer", "a", "b", a, b)
    fill(pair, draw(2, 5), draw(6, 2, seed=1))
    return pair


def test_a_filled_pair_adds_nothing() -> None:
    pair = build_pair()
    x = draw(5, seed=2)
    assert pair.a[:2].any() and pair.b[:, :2].any()
    assert float((pair.b @ (pair.a @ x)).detach().abs().max()) < 1e-6


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_the_second_half_stays_and_the_first_trains_as_alone(optimizer: str) -> None:
    """Also under weight decay and momentum: the first half moves as a LoRA of its rank would."""
    pair = build_pair()
    halves = FrozenHalves([pair])
    halves.remember()
    start = pair.a[2:].detach().clone(), pair.b[:, 2:].detach().clone()
    alone = [torch.nn.Parameter(pair.a[:2].detach().clone())]
    alone.append(torch.nn.Parameter(pair.b[:, :2].detach().clone()))
    taken_away = (pair.b[:, 2:] @ pair.a[2:]).detach()
    more: dict[str, Any] = {"momentum": 0.9} if optimizer == "SGD" else {}
    build = getattr(torch.optim, optimizer)
    steps = [build(group, lr=0.05, weight_decay=0.5, **more) for group in ([pair.a, pair.b], alone)]
    x, y = draw(5, 9, seed=3), draw(6, 9, seed=4)
    for _ in range(4):
        for step in steps:
            step.zero_grad()
        (pair.b @ pair.a @ x - y).square().mean().backward()
        (alone[1] @ alone[0] @ x + taken_away @ x - y).square().mean().backward()
        assert pair.a.grad is not None and pair.b.grad is not None
        assert not pair.a.grad[2:].any() and not pair.b.grad[:, 2:].any()
        for step in steps:
            step.step()
        halves.restore()
        assert torch.equal(pair.a[2:], start[0]) and torch.equal(pair.b[:, 2:], start[1])
    torch.testing.assert_close(pair.a[:2], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pair.b[:, :2], alone[1], rtol=1e-4, atol=1e-5)
