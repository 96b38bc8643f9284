"""Landing: how far to go from the weights before towards those after, so that a budget is met.

theta(a) = theta_0 + a (theta_T - theta_0). How far the model is from what it was, KL(a), grows like
a power of a, so a secant in log a against log KL meets the budget in a few evaluations.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LOWEST_SHARE = 0.95
"""A point is landed where its KL is within this share of the budget and the whole."""
AIMED_SHARE = 0.975
LARGEST = 1.3
"""How far past the trained weights a landing may go."""
MOST_EVALUATIONS = 8
USUAL_POWER = 4.0
"""What KL grows like where one point alone is known."""


@dataclass(frozen=True)
class Landing:
    """Where a search ended: a = 0 and kl = 0 where no point that was looked at is within the
    budget.

    evaluations: every (a, KL) that was looked at, in order.
    """

    a: float
    kl: float
    budget: float
    evaluations: list[tuple[float, float]] = field(default_factory=list)

    @property
    def is_met(self) -> bool:
        """Whether the KL is within 0.95 and 1 of the budget."""
        return self.kl >= LOWEST_SHARE * self.budget

    @property
    def is_at_limit(self) -> bool:
        """Whether the budget is not used up even at the largest a."""
        return self.a == LARGEST and not self.is_met


def find_landing(
    measure_kl: Callable[[float], float],
    budget: float,
    known: Sequence[tuple[float, float]] = (),
) -> Landing:
    """Search for the a at which KL(a) is within [0.95, 1] of the budget, from a = 1 on.

    The next a is the secant's in log a against log KL through the last two points; where that
    leaves the bracket of what was too little and what was too much, the bracket is halved, in log
    a. At most 8 evaluations, and a at most 1.3: a run that stays under the budget there is landed
    there. A KL that is not finite is too much.

    Args:
        measure_kl: KL(before || theta(a)), for any a above 0.
        budget: how large it may be.
        known: every (a, KL) that was looked at before, for another budget.

    Returns:
        The point of largest KL within the budget, of those that were looked at.
    """
    assert budget > 0, "a budget of nothing is met by moving nothing"
    # The secant goes through the last two points: those nearest to the budget come last.
    evaluations = sorted(known, key=lambda point: -_measure_distance(point[1], budget))
    most = len(evaluations) + MOST_EVALUATIONS
    while len(evaluations) < most:
        if any(_is_landed(a, kl, budget) for a, kl in evaluations):
            break
        a = choose_next(evaluations, budget) if evaluations else 1.0
        evaluations.append((a, measure_kl(a)))
    within = [(kl, a) for a, kl in evaluations if kl <= budget]
    kl, a = max(within, default=(0.0, 0.0))
    return Landing(a, kl, budget, evaluations)


def _measure_distance(kl: float, budget: float) -> float:
    """How far a KL is from a budget, in nats of their ratio."""
    return abs(math.log(kl / budget)) if 0 < kl < math.inf else math.inf


def _is_landed(a: float, kl: float, budget: float) -> bool:
    """Whether a point is near enough to the budget, or as far as a landing may go."""
    return LOWEST_SHARE * budget <= kl <= budget or (a == LARGEST and kl < budget)


def choose_next(evaluations: list[tuple[float, float]], budget: float) -> float:
    """The next a to look at, within the bracket of what was looked at."""
    lower = max((a for a, kl in evaluations if kl <= budget), default=0.0)
    upper = min((a for a, kl in evaluations if not kl <= budget), default=None)
    a = _follow_secant(evaluations, budget)
    if upper is None:
        # Nothing was too much yet: at most as far as a landing may go.
        return LARGEST if a is None or a <= lower else min(a, LARGEST)
    if a is None or not lower < a < upper:
        return math.sqrt(lower * upper) if lower else upper / 2
    return a


def _follow_secant(evaluations: list[tuple[float, float]], budget: float) -> float | None:
    """Where the line through the last two usable points meets the aim; None where there is none."""
    usable = [(math.log(a), math.log(kl)) for a, kl in evaluations if 0 < kl < math.inf]
    if not usable:
        return None
    x, y = usable[-1]
    slope = USUAL_POWER
    if len(usable) > 1:
        x_before, y_before = usable[-2]
        slope = (y - y_before) / (x - x_before)
    if slope <= 0:
        return None
    exponent = x + (math.log(AIMED_SHARE * budget) - y) / slope
    return math.exp(min(exponent, 700.0))
