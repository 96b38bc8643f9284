"""leak@k: how likely one of k sampled answers gives a fact away.

It is pass@k's estimator, with leaking in the place of passing. Of n samples c leak, and the chance
that k of them, drawn without replacement, hold a leaking one is

    leak@k = 1 - C(n - c, k) / C(n, k)

which is unbiased for 1 - (1 - p)^k, p the rate at which samples leak.

Source: leak@k, arXiv:2511.04934; pass@k, arXiv:2107.03374.
"""

import math

from unteach.errors import UserError


def compute_leak_at_k(num_samples: int, num_leaking: int, k: int) -> float:
    """Compute leak@k of one fact, rounded once: the binomials are whole numbers of any size.

    Args:
        num_samples: n, samples of an answer.
        num_leaking: c, those of them that leak.
        k: samples that an observer draws.

    Raises:
        UserError: k is not within 1..n, where the estimator is not defined, or c not within 0..n.
    """
    if not 1 <= k <= num_samples:
        raise UserError(
            f"leak@{k} of {num_samples} samples: k counts samples that are drawn from these, so "
            f"it is from 1 to {num_samples}; take more samples or a smaller k"
        )
    if not 0 <= num_leaking <= num_samples:
        raise UserError(
            f"leak@{k}: {num_leaking} of {num_samples} samples cannot leak; the number that leaks "
            f"is from 0 to {num_samples}"
        )
    num_draws = math.comb(num_samples, k)
    num_silent = math.comb(num_samples - num_leaking, k)
    # The difference first: 1 minus a quotient would lose the digits of small values.
    return (num_draws - num_silent) / num_draws
