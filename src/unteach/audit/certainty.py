"""How sure a rate is: intervals, and tests against chance.

Of a model that never saw a fact its true value is one candidate among others: which of them comes
out says nothing. That is tested, and not a rate of chance that would have to be known.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import beta, fisher_exact

from unteach.audit.probes import Finding
from unteach.seeds import derive_seed

LEVEL = 0.95
NUM_REPLICATES = 2000

Interval = tuple[float, float]


def clopper_pearson(num_hits: int, num_facts: int) -> Interval:
    """Compute the exact 95 % interval of a share. Source: Clopper and Pearson 1934."""
    tail = (1 - LEVEL) / 2
    low = beta.ppf(tail, num_hits, num_facts - num_hits + 1) if num_hits else 0.0
    high = beta.ppf(1 - tail, num_hits + 1, num_facts - num_hits) if num_hits < num_facts else 1.0
    return float(low), float(high)


def bound_above(num_hits: int, num_facts: int) -> float:
    """Compute the exact one-sided 95 % upper bound of a share."""
    if num_hits == num_facts:
        return 1.0
    return float(beta.ppf(LEVEL, num_hits + 1, num_facts - num_hits))


def bootstrap_entities(hits: Sequence[bool], entities: Sequence[str], name: str) -> Interval | None:
    """Compute the 95 % percentile interval of a share, with whole entities drawn: facts about one
    person are forgotten together. None of fewer than two entities.

    Args:
        hits: of each fact.
        entities: of each fact, "" where it has none and is drawn by itself.
        name: what is resampled; the same name gives the same draws.
    """
    groups: dict[str, list[bool]] = {}
    for index, (hit, entity) in enumerate(zip(hits, entities, strict=True)):
        groups.setdefault(entity or f"fact {index}", []).append(hit)
    if len(groups) < 2:
        return None
    num_hits = np.array([sum(group) for group in groups.values()])
    num_facts = np.array([len(group) for group in groups.values()])
    generator = np.random.default_rng(derive_seed(0, "audit", name))
    drawn = generator.integers(0, len(groups), (NUM_REPLICATES, len(groups)))
    shares = num_hits[drawn].sum(-1) / num_facts[drawn].sum(-1)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(shares, [tail, 100 - tail])
    return float(low), float(high)


def widen(first: Interval, second: Interval | None) -> Interval:
    """Take the wider ends of two intervals."""
    if second is None:
        return first
    return min(first[0], second[0]), max(first[1], second[1])


def compute_exchange_p_value(hits_by_fact: Sequence[Sequence[bool]]) -> float:
    """Compute how surprising it is that true values come out so much more often than the other
    candidates of their facts.

    If they do not, the true one of a fact with h of n candidates out is among them with probability
    h / n. The p-value is that of as many true ones, or more: exact, by the distribution of a sum of
    independent draws (Poisson-binomial).

    Args:
        hits_by_fact: of each fact, whether each candidate came out, the true one first.
    """
    num_true = sum(bool(hits[0]) for hits in hits_by_fact)
    distribution = np.array([1.0])  # of how many are out, after each fact
    for hits in hits_by_fact:
        share = sum(map(bool, hits)) / len(hits)
        distribution = np.convolve(distribution, [1 - share, share])
    return float(min(1.0, distribution[num_true:].sum()))


def compute_fisher_p_value(num_hits: int, num_control_hits: int, num_facts: int) -> float:
    """Compute how surprising it is that so many more facts come out of a model than of one that
    never saw them: Fisher's exact
    test, one-sided."""
    table = [
        [num_hits, num_facts - num_hits],
        [num_control_hits, num_facts - num_control_hits],
    ]
    return float(fisher_exact(table, alternative="greater").pvalue)


def adjust_by_holm(p_values: dict[str, float]) -> dict[str, float]:
    """Adjust p-values for how many they are, so that the chance of any false one stays what it is
    said to be. Source: Holm 1979."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for position, (name, p_value) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - position) * p_value))
        adjusted[name] = largest
    return adjusted


def find_smallest_leak(num_facts: int, num_candidates: int, num_attacks: int) -> float:
    """Find the smallest share of facts that would be told from chance: of a rank among so many
    candidates, by the first of so many attacks that Holm's rule looks at. 1 where none would."""
    chance = 1 / num_candidates
    distribution = np.array([1.0])
    for _ in range(num_facts):
        distribution = np.convolve(distribution, [1 - chance, chance])
    tails = distribution[::-1].cumsum()[::-1]
    for num_hits in range(num_facts + 1):
        if tails[num_hits] * num_attacks < 1 - LEVEL:
            return num_hits / num_facts
    return 1.0


def compute_last_p_value(findings: Sequence[Finding]) -> float:
    """Compute how surprising it is that so many true values are the least likely of their
    candidates: each is with probability 1 / n."""
    distribution = np.array([1.0])
    for finding in findings:
        share = 1 / len(finding.hits)
        distribution = np.convolve(distribution, [1 - share, share])
    num_last = sum(finding.last for finding in findings)
    return float(min(1.0, distribution[num_last:].sum()))


def compute_mean_exposure(findings: Sequence[Finding]) -> float:
    """Compute the mean of log2(candidates) - log2(rank), in bits. Source: arXiv:1802.08232."""
    exposures = []
    for finding in findings:
        assert finding.rank is not None
        exposures.append(np.log2(len(finding.hits)) - np.log2(finding.rank))
    return float(np.mean(exposures))
