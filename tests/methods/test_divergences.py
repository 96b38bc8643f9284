"""The pieces of losses on logits: each against its definition over the whole vocabulary, value and
gradient."""

import math
from collections.abc import Callable

import pytest
import torch

from unteach.methods import divergences
from unteach.methods.unlearn.flat import DIVERGENCES
from unteach.methods.unlearn.ihl import inverted_hinge
from unteach.methods.unlearn.me import distance_from_uniform
from unteach.methods.unlearn.unilogit import forward_kl, reverse_kl

ROWS, VOCABULARY = 6, 40
LABELS = torch.arange(ROWS)


def draw(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(ROWS, VOCABULARY, generator=generator, dtype=torch.float64) * 2
    ).requires_grad_()


def slope(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(value.sum(), logits)
    return found


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q), where 0 log 0 is 0."""
    return torch.special.xlogy(p, p / q).sum(-1)


def js(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def test_distance_from_uniform() -> None:
    """KL(U || p); 0 at equal logits; its gradient is p - 1/V."""
    logits = draw(0)
    uniform = torch.full_like(logits, 1 / VOCABULARY)
    found = distance_from_uniform(logits, LABELS)
    torch.testing.assert_close(found, kl(uniform, logits.softmax(-1)))
    torch.testing.assert_close(slope(found, logits), logits.softmax(-1) - 1 / VOCABULARY)
    equal = distance_from_uniform(torch.full((1, VOCABULARY), 3.0), LABELS)
    assert float(equal) == pytest.approx(0, abs=1e-6)


def test_inverted_hinge() -> None:
    """In [0, 2]; 2 at p = 1; 1 at U; no gradient but through the label and the runner-up."""
    logits = draw(0)
    found = inverted_hinge(logits, LABELS)
    assert ((found > 0) & (found < 2)).all()
    p = logits.softmax(-1)
    (through_p,) = torch.autograd.grad(inverted_hinge(p.log(), LABELS).sum(), p, retain_graph=True)
    label = torch.nn.functional.one_hot(LABELS, VOCABULARY).bool()
    runner_up = p.masked_fill(label, 0).argmax(-1)
    expected = slope(p[label] - p.gather(-1, runner_up[:, None])[:, 0], logits)
    torch.testing.assert_close(slope(inverted_hinge(logits, LABELS), logits), expected)
    assert through_p.isfinite().all()
    sure = torch.zeros(1, VOCABULARY).scatter(-1, LABELS[:1, None], 100.0)
    assert float(inverted_hinge(sure, LABELS[:1])) == pytest.approx(2)
    assert float(inverted_hinge(torch.zeros(1, VOCABULARY), LABELS[:1])) == pytest.approx(1)


def test_jensen_shannon() -> None:
    """The closed slope is that of autograd; both are 0 where the two are the same."""
    logits, other = draw(0), draw(1).detach()
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    found = divergences.jensen_shannon(log_p, log_q)
    torch.testing.assert_close(found, js(log_p.exp(), log_q.exp()))
    expected = slope(found, logits).norm(dim=-1)
    torch.testing.assert_close(divergences.compute_divergence_slope(log_p, log_q), expected)
    same = divergences.jensen_shannon(log_p, log_p.detach())
    assert float(same.detach().abs().max()) < 1e-12
    assert float(divergences.compute_divergence_slope(log_p, log_p).detach().abs().max()) < 1e-12


def test_jensen_shannon_to_one_token() -> None:
    """No sum over the vocabulary is needed; at most log 2; the closed slope is autograd's."""
    logits = draw(0)
    target = torch.nn.functional.one_hot(LABELS, VOCABULARY).double()
    log_p = logits.log_softmax(-1)
    found = divergences.jensen_shannon_to_token(log_p.gather(-1, LABELS[:, None])[:, 0])
    torch.testing.assert_close(found, js(log_p.exp(), target))
    expected = slope(found, logits).norm(dim=-1)
    torch.testing.assert_close(divergences.slope_to_token(log_p, LABELS), expected)
    ends = divergences.jensen_shannon_to_token(torch.tensor([-1e4, 0.0]))
    assert ends.tolist() == pytest.approx([math.log(2), 0], abs=1e-6)


def test_a_sure_model_has_finite_slopes() -> None:
    sure = torch.zeros(2, VOCABULARY).scatter(-1, torch.tensor([[0], [5]]), 200.0)
    logits = sure.requires_grad_()
    log_p = logits.log_softmax(-1)
    assert divergences.slope_to_token(log_p, LABELS[:2]).isfinite().all()
    of_token = divergences.jensen_shannon_to_token(log_p.gather(-1, LABELS[:2, None])[:, 0])
    assert slope(of_token, logits).isfinite().all()
    for loss in (reverse_kl, forward_kl):
        assert slope(loss(logits, LABELS[:2]), logits).isfinite().all()


def target_of_unilogit(logits: torch.Tensor) -> torch.Tensor:
    """The logits with the true token's replaced by logsumexp of the others - log(V - 1)."""
    others = logits.detach().scatter(-1, LABELS[:, None], -math.inf).logsumexp(-1)
    chance = others - math.log(VOCABULARY - 1)
    return logits.detach().scatter(-1, LABELS[:, None], chance[:, None]).softmax(-1)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_unilogit_is_a_divergence_of_two_coins(direction: str) -> None:
    """Value and gradient are those of the whole vocabulary, whose true token's target is 1/V."""
    logits = draw(0)
    target = target_of_unilogit(logits)
    torch.testing.assert_close(
        target[:, LABELS].diagonal(), torch.full((ROWS,), 1 / VOCABULARY).double()
    )
    p = logits.softmax(-1)
    found, whole = {
        "reverse": (reverse_kl, kl(p, target)),
        "forward": (forward_kl, kl(target, p)),
    }[direction]
    value = found(logits, LABELS)
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(slope(value, logits), slope(whole, logits))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_flat_falls_towards_the_other_answer_and_away_from_the_one_to_forget(name: str) -> None:
    """dD/de < 0 < dD/df wherever both are probabilities."""
    grid = torch.linspace(0, 1, 11, dtype=torch.float64)
    e, f = (axis.flatten().requires_grad_() for axis in torch.meshgrid(grid, grid, indexing="ij"))
    divergence: Callable[..., torch.Tensor] = DIVERGENCES[name]
    of_e, of_f = torch.autograd.grad(divergence(e, f).sum(), (e, f))
    assert (of_e < 0).all() and (of_f > 0).all()


def test_flat_between_an_answer_and_itself() -> None:
    same = torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(DIVERGENCES["TV"](same, same), torch.zeros_like(same))
    torch.testing.assert_close(DIVERGENCES["Pearson"](same, same), same**2 / 4)
