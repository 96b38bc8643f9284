"""What must hold of forgetting at decode time."""

import pytest
import torch

from unteach.methods.decode.uld import keep_likely, subtract_assistant
from unteach.methods.decode.whp import hold_back_reinforced


@pytest.fixture
def base() -> torch.Tensor:
    return torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def other() -> torch.Tensor:
    return torch.randn(3, 50, generator=torch.Generator().manual_seed(1)) * 3


def test_whp_is_the_base_where_the_other_says_no_more(base: torch.Tensor) -> None:
    assert torch.equal(hold_back_reinforced(base, base + 1, 0.0), base)
    assert torch.equal(hold_back_reinforced(base, base - base.abs(), 2.0), base)


def test_whp_lowers_only_what_the_other_raises(base: torch.Tensor, other: torch.Tensor) -> None:
    found = hold_back_reinforced(base, other, 1.0)
    raised = other > base
    assert torch.equal(found[~raised], base[~raised])
    torch.testing.assert_close(found[raised], 2 * base[raised] - other[raised])


def test_uld_without_weight_is_the_base_on_what_is_kept(
    base: torch.Tensor, other: torch.Tensor
) -> None:
    found = subtract_assistant(base, other, weight=0.0, tau=0.1).exp()
    kept = keep_likely(base.log_softmax(-1), 0.1)
    p = base.softmax(-1) * kept
    torch.testing.assert_close(found, p / p.sum(-1, keepdim=True))


def test_uld_does_not_know_shifted_logits(base: torch.Tensor, other: torch.Tensor) -> None:
    found = subtract_assistant(base, other, weight=-0.8, tau=0.1)
    torch.testing.assert_close(subtract_assistant(base + 7, other - 5, -0.8, 0.1), found)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3))


def test_uld_never_says_what_it_filtered(base: torch.Tensor, other: torch.Tensor) -> None:
    """Even where what is kept is pushed far down."""
    top = torch.zeros_like(base).scatter(-1, base.argmax(-1, keepdim=True), 100.0)
    found = subtract_assistant(base, other + top, weight=-1.0, tau=0.1)
    kept = keep_likely(base.log_softmax(-1), 0.1)
    assert kept.gather(-1, found.argmax(-1, keepdim=True)).all()
    assert (found[~kept] == -torch.inf).all()


@pytest.mark.parametrize(("tau", "at_least"), [(0.0, 50), (0.1, 5), (0.001, 1)])
def test_at_least_a_share_of_the_words_is_kept(
    base: torch.Tensor, tau: float, at_least: int
) -> None:
    kept = keep_likely(base.log_softmax(-1), tau)
    assert (kept.sum(-1) >= at_least).all()
    assert kept.gather(-1, base.argmax(-1, keepdim=True)).all()
