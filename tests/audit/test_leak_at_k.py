"""leak@k: equal to counting all draws, exact for large numbers, refused where it does not exist."""

import itertools
from fractions import Fraction

import pytest

from unteach.audits.leak_at_k import compute_leak_at_k
from unteach.errors import UserError


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_it_is_the_share_of_draws_that_leak(num_samples: int) -> None:
    for num_leaking in range(num_samples + 1):
        leaks = [index < num_leaking for index in range(num_samples)]
        for k in range(1, num_samples + 1):
            draws = [any(draw) for draw in itertools.combinations(leaks, k)]
            found = compute_leak_at_k(num_samples, num_leaking, k)
            assert found == float(Fraction(sum(draws), len(draws)))


def test_large_numbers_overflow_nowhere() -> None:
    assert compute_leak_at_k(100_000, 1, 50_000) == 0.5
    # Where one sample leaks it is k / n, however small.
    assert compute_leak_at_k(10_000_000, 1, 3) == 3 / 10_000_000
    assert compute_leak_at_k(5000, 2500, 2501) == 1.0


@pytest.mark.parametrize(
    ("num_samples", "num_leaking", "k", "words"),
    [(8, 3, 9, "from 1 to 8"), (8, 3, 0, "from 1 to 8"), (8, 9, 1, "0 to 8"), (8, -1, 1, "0 to 8")],
)
def test_what_does_not_exist_is_refused(
    num_samples: int, num_leaking: int, k: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        compute_leak_at_k(num_samples, num_leaking, k)
