"""The search for the strength that meets a budget."""

import math
from collections.abc import Callable

import pytest

from unteach.methods.landing import LARGEST, MOST_EVALUATIONS, find_landing


def power(at_one: float, exponent: float) -> Callable[[float], float]:
    return lambda a: at_one * a**exponent


def bent(a: float) -> float:
    """A KL that grows like a^2 at first and like a^8 later on."""
    return 0.002 * a**2 + 0.5 * a**8


@pytest.mark.parametrize("exponent", [1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("at_one", [0.021, 0.05, 1.0, 40.0])
def test_a_run_past_its_budget_lands_on_it(at_one: float, exponent: float) -> None:
    landing = find_landing(power(at_one, exponent), 0.02)
    assert landing.is_met and not landing.is_at_limit
    assert 0.95 * 0.02 <= landing.kl <= 0.02
    assert landing.kl == pytest.approx(at_one * landing.a**exponent)
    assert landing.evaluations[0][0] == 1.0
    assert len(landing.evaluations) <= 4, "a power law is a line in log a against log KL"


def test_a_run_under_its_budget_goes_on_to_it() -> None:
    landing = find_landing(power(0.012, 4.0), 0.02)
    assert 1 < landing.a < LARGEST and landing.is_met


def test_what_stays_under_the_budget_is_landed_at_the_limit() -> None:
    landing = find_landing(power(1e-5, 4.0), 0.02)
    assert landing.a == LARGEST and landing.is_at_limit and not landing.is_met
    assert len(landing.evaluations) == 2
    nothing = find_landing(lambda a: 0.0, 0.02)
    assert nothing.is_at_limit and nothing.kl == 0


def test_the_budget_may_be_met_at_once() -> None:
    landing = find_landing(power(0.0195, 4.0), 0.02)
    assert landing.a == 1.0 and len(landing.evaluations) == 1


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.1, 1.0])
def test_a_bent_curve_is_met_too(budget: float) -> None:
    landing = find_landing(bent, budget)
    assert landing.is_met
    assert len(landing.evaluations) <= MOST_EVALUATIONS


def test_a_model_that_broke_is_too_far() -> None:
    """Where KL is not finite the bracket is halved until it is."""
    for broken in (math.inf, math.nan):
        landing = find_landing(lambda a, broken=broken: broken if a > 0.3 else a**2, 0.02)
        assert landing.is_met


def test_a_step_is_bisected_and_never_crossed() -> None:
    """No point meets the budget: the last one within it is taken, after 8 evaluations."""
    landing = find_landing(lambda a: 0.01 if a < 0.6 else 1.0, 0.02)
    assert landing.kl == 0.01 and not landing.is_met and not landing.is_at_limit
    assert 0.5 <= landing.a < 0.6
    assert len(landing.evaluations) == MOST_EVALUATIONS


def test_nothing_within_the_budget_leaves_the_model_as_it_was() -> None:
    landing = find_landing(lambda a: 1.0, 0.02)
    assert (landing.a, landing.kl) == (0.0, 0.0)
    assert not landing.is_met and not landing.is_at_limit
    assert len(landing.evaluations) == MOST_EVALUATIONS
