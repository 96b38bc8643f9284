"""What must hold of every rule of gradient surgery, on random gradients of several tensors."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from unteach.methods.wrap import surgery
from unteach.methods.wrap.surgery import dot_product

GAMMA, ALPHA = 0.7, 1.5


def draw(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in ((7,), (3, 4), (2, 2, 2))]


@pytest.fixture
def forget() -> list[torch.Tensor]:
    return draw(0)


@pytest.fixture
def retain() -> list[torch.Tensor]:
    return draw(1)


@pytest.fixture
def opposed(forget: list[torch.Tensor], retain: list[torch.Tensor]) -> list[torch.Tensor]:
    """A forget gradient against the retain gradient, as a whole and in each tensor."""
    return [f * 0.1 - r for f, r in zip(forget, retain, strict=True)]


@pytest.fixture
def agreeing(forget: list[torch.Tensor], retain: list[torch.Tensor]) -> list[torch.Tensor]:
    return [f * 0.1 + r for f, r in zip(forget, retain, strict=True)]


def assert_same(found: Iterator[torch.Tensor], expected: Iterator[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_without_conflict_pcgrad_and_gru_are_the_sum(agreeing: Any, retain: Any) -> None:
    for per in ("tensor", "global"):
        found = surgery.pcgrad(agreeing, retain, GAMMA, ALPHA, per)
        assert_same(found, surgery.add(agreeing, retain, GAMMA, ALPHA))
    average = list(surgery.average_retain(retain, None, 0.8))
    found = surgery.gru(agreeing, retain, average, ce_coeff=ALPHA)
    assert_same(found, surgery.add(agreeing, retain, 1.0, ALPHA))


@pytest.mark.parametrize("side", ["opposed", "agreeing"])
def test_after_pcgrad_only_what_agrees_is_left(side: str, request: Any, retain: Any) -> None:
    """<g, g_r> = alpha |g_r|^2 + gamma max(0, <g_f, g_r>)."""
    forget = request.getfixturevalue(side)
    found = list(surgery.pcgrad(forget, retain, GAMMA, ALPHA, "global"))
    agreement = dot_product(forget, retain).clamp(min=0)
    expected = ALPHA * dot_product(retain, retain) + GAMMA * agreement
    torch.testing.assert_close(dot_product(found, retain), expected)


def test_pcgrad_of_one_tensor_is_the_same_globally(opposed: Any, retain: Any) -> None:
    one = ([opposed[0]], [retain[0]], GAMMA, ALPHA)
    assert_same(surgery.pcgrad(*one, "tensor"), surgery.pcgrad(*one, "global"))
    whole = list(surgery.pcgrad(opposed, retain, GAMMA, ALPHA, "global"))
    apart = list(surgery.pcgrad(opposed, retain, GAMMA, ALPHA, "tensor"))
    assert not torch.allclose(whole[0], apart[0])


def test_sago_never_points_against_the_retain_gradient(forget: Any, retain: Any) -> None:
    for rule in (surgery.sago, surgery.sago_prefer_retain):
        for g, r in zip(rule(forget, retain, GAMMA, ALPHA), retain, strict=True):
            assert (g * r >= 0).all()


def test_blur_leaves_the_forget_gradient_as_it_is(opposed: Any, agreeing: Any, retain: Any) -> None:
    """<g, g_f> = gamma |g_f|^2."""
    for forget in (opposed, agreeing):
        found = list(surgery.blur(forget, retain, GAMMA, ALPHA))
        expected = GAMMA * dot_product(forget, forget)
        torch.testing.assert_close(dot_product(found, forget), expected)


def test_after_gru_nothing_points_along_the_memory(opposed: Any, forget: Any, retain: Any) -> None:
    average = list(surgery.average_retain(retain, [x * 0.01 for x in forget], 0.8))
    torch.testing.assert_close(average[0], 0.8 * retain[0] + 0.2 * 0.01 * forget[0])
    found = list(surgery.gru(opposed, retain, average))
    assert abs(float(dot_product(found, average))) < 1e-4
    clipped = list(surgery.gru(opposed, retain, average, cos_clip=-0.5))
    assert float(dot_product(clipped, average)) < -1, "less is taken out of it"


def test_ngdiff_has_the_same_angle_to_both(forget: Any, retain: Any) -> None:
    """|g|^2 = 2 (1 + cos), and no factor of either gradient matters."""
    found = list(surgery.ngdiff(forget, retain))
    lengths = [dot_product(side, side).sqrt() for side in (forget, retain)]
    cosine = dot_product(forget, retain) / (lengths[0] * lengths[1])
    torch.testing.assert_close(dot_product(found, found), 2 * (1 + cosine))
    angles = [dot_product(found, s) / n for s, n in zip((forget, retain), lengths, strict=True)]
    torch.testing.assert_close(*angles)
    scaled = surgery.ngdiff([f * 100 for f in forget], [r * 0.01 for r in retain])
    assert_same(scaled, iter(found))


def test_a_gradient_of_length_zero_changes_nothing(forget: Any) -> None:
    none = [torch.zeros_like(f) for f in forget]
    assert_same(surgery.pcgrad(forget, none, GAMMA, ALPHA), (GAMMA * f for f in forget))
    assert_same(surgery.blur(none, forget, GAMMA, ALPHA), (ALPHA * f for f in forget))
    assert_same(surgery.gru(forget, none, none), iter(forget))
    for g in surgery.ngdiff(none, none):
        assert (g == 0).all()


def test_sums_are_in_fp32_whatever_the_gradients_are_in() -> None:
    """In bf16 a sum of many small squares stops growing."""
    small = [torch.full((100_000,), 0.01, dtype=torch.bfloat16)]
    exact = float(small[0][0].double()) ** 2 * 100_000
    assert float(dot_product(small, small)) == pytest.approx(exact, rel=1e-4)
    (combined,) = surgery.pcgrad(small, small, 1.0, 1.0)
    assert combined.dtype == torch.bfloat16


def test_the_inner_product_may_be_one_over_shards(opposed: Any, retain: Any) -> None:
    """Each half of the tensors, with dot products of the whole, gives its half of the result."""
    whole = list(surgery.blur(opposed, retain, GAMMA, ALPHA))
    products = {
        (id(a), id(b)): dot_product(x, y)
        for a, x in (("f", opposed), ("r", retain))
        for b, y in (("f", opposed), ("r", retain))
    }
    halves = {"f": opposed[:1], "r": retain[:1]}

    def dot(a: Any, b: Any) -> torch.Tensor:
        names = [next(name for name, half in halves.items() if half is side) for side in (a, b)]
        return products[id(names[0]), id(names[1])]

    shard = list(surgery.blur(halves["f"], halves["r"], GAMMA, ALPHA, dot))
    torch.testing.assert_close(shard[0], whole[0])
