"""How sure a rate is: intervals, and tests against chance.

Of a model that never saw a fact its true value is one candidate among others: which of them comes
out says nothing. That is tested, and not a rate of chance that would have to be known.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binomtest, fisher_exact

from unteach.audits.probes import Finding
from unteach.seeds import derive_seed

CONFIDENCE = 0.95
NUM_REPLICATES = 2000
NUM_PERMUTATIONS, NUM_BLOCKS = 20_000, 40
"""Ways to put entities in two groups, and in how many blocks they are drawn."""
FEWEST_ENTITIES = 8
"""Fewer could not show a leak by being drawn whole, whatever came out of them: then facts about one
are taken as independent."""

Interval = tuple[float, float]


def clopper_pearson(num_hits: int, num_facts: int) -> Interval:
    """Compute the exact 95 % interval of a share. Source: Clopper and Pearson 1934."""
    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, num_hits, num_facts - num_hits + 1) if num_hits else 0.0
    high = beta.ppf(1 - tail, num_hits + 1, num_facts - num_hits) if num_hits < num_facts else 1.0
    return float(low), float(high)


def bound_above(num_hits: int, num_facts: int) -> float:
    """Compute the exact one-sided 95 % upper bound of a share."""
    if num_hits == num_facts:
        return 1.0
    return float(beta.ppf(CONFIDENCE, num_hits + 1, num_facts - num_hits))


def bootstrap_entities(
    values: Sequence[float], entities: Sequence[str], name: str
) -> Interval | None:
    """Compute the 95 % percentile interval of a share, or of a mean, with whole entities drawn:
    facts about one person are forgotten together. None of fewer than two entities.

    Args:
        values: of each fact, whether it came out, or a number.
        entities: of each fact, "" where it has none and is drawn by itself.
        name: what is resampled; the same name gives the same draws.
    """
    means = _draw_entities(values, entities, name)
    if means is None:
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def bound_entities_above(hits: Sequence[bool], entities: Sequence[str], name: str) -> float:
    """Compute the one-sided 95 % upper bound of a share: the exact one, or that of whole entities
    where it is larger.

    Args:
        hits: of each fact, whether it came out.
        entities: see `bootstrap_entities`.
        name: likewise.
    """
    exact = bound_above(sum(hits), len(hits))
    means = _draw_entities(hits, entities, name)
    if means is None:
        return exact
    return max(exact, float(np.percentile(means, 100 * CONFIDENCE)))


def _draw_entities(
    values: Sequence[float], entities: Sequence[str], name: str
) -> NDArray[np.float64] | None:
    """Compute the means over facts of NUM_REPLICATES draws of whole entities."""
    groups = _group_by_entity(values, entities)
    if len(groups) < 2:
        return None
    sums = np.array([sum(group) for group in groups.values()])
    num_facts = np.array([len(group) for group in groups.values()])
    generator = np.random.default_rng(derive_seed(0, "audit", name))
    drawn = generator.integers(0, len(groups), (NUM_REPLICATES, len(groups)))
    means: NDArray[np.float64] = sums[drawn].sum(-1) / num_facts[drawn].sum(-1)
    return means


def _group_by_entity(values: Sequence[float], entities: Sequence[str]) -> Mapping[str, list[float]]:
    """Group the values of facts by entity; one without an entity, "", stands by itself."""
    groups: dict[str, list[float]] = {}
    for index, (value, entity) in enumerate(zip(values, entities, strict=True)):
        groups.setdefault(entity or f"fact {index}", []).append(value)
    return groups


def widen(first: Interval, second: Interval | None) -> Interval:
    """Take the wider ends of two intervals."""
    if second is None:
        return first
    return min(first[0], second[0]), max(first[1], second[1])


def compute_exchange_p_value(
    hits_by_fact: Sequence[Sequence[bool]], weights_by_fact: Sequence[Sequence[int]] = ()
) -> float:
    """Compute how surprising it is that true values come out so much more often than the other
    candidates of their facts.

    If a model never saw a fact, each candidate is the true one as often as rows of its kind have
    it: it is out with the share of those that are out. The p-value is that of as many true ones, or
    more: exact, by the distribution of a sum of independent draws (Poisson-binomial).

    Args:
        hits_by_fact: of each fact, whether each candidate came out, the true one first.
        weights_by_fact: of each fact, how many rows have each candidate; none: one each.
    """
    shares = []
    for index, hits in enumerate(hits_by_fact):
        weights = weights_by_fact[index] if weights_by_fact else [1] * len(hits)
        out = sum(weight for hit, weight in zip(hits, weights, strict=True) if hit)
        shares.append(out / sum(weights))
    num_true = sum(bool(hits[0]) for hits in hits_by_fact)
    return _sum_tail(shares, num_true)


def _sum_tail(shares: Sequence[float], num_hits: int) -> float:
    """Compute the probability of at least so many successes of independent draws."""
    distribution = np.array([1.0])  # of how many succeed, after each draw
    for share in shares:
        distribution = np.convolve(distribution, [1 - share, share])
    return float(min(1.0, distribution[num_hits:].sum()))


def compute_paired_p_value(
    pairs: Sequence[tuple[bool, bool]], entities: Sequence[str] = ()
) -> float:
    """Compute how surprising it is that so many more facts come out of a model than of one that
    never saw them: the exact one-sided test of McNemar, by the facts that come out of one alone;
    and the same by whole entities, as facts about one come out together. The larger counts; of
    fewer than FEWEST_ENTITIES only the first.

    Were the two models alike, what an entity has more of in one might as well be in the other: the
    second test is exact too, by all signs of the entities' differences.

    Args:
        pairs: of each fact, whether it came out of the model, and of the other.
        entities: of each fact, "" where it has none; nothing: none has any.
    """
    num_more = sum(own and not other for own, other in pairs)
    num_differing = sum(own != other for own, other in pairs)
    if not num_differing:
        return 1.0
    by_facts = float(binomtest(num_more, num_differing, 0.5, alternative="greater").pvalue)
    differences = [int(own) - int(other) for own, other in pairs]
    groups = _group_by_entity(differences, entities or [""] * len(pairs))
    if len(groups) < FEWEST_ENTITIES:
        return by_facts
    return max(by_facts, _test_signs([round(sum(group)) for group in groups.values()]))


def _test_signs(differences: Sequence[int]) -> float:
    """Compute the probability that differences sum to as much as they do, or to more, where each
    has either sign with probability 1/2."""
    most = sum(map(abs, differences))
    distribution = np.array([1.0])  # of half of what the sum is above its least
    for difference in differences:
        step = np.zeros(abs(difference) + 1)
        step[0] += 0.5
        step[-1] += 0.5
        distribution = np.convolve(distribution, step)
    return float(min(1.0, distribution[(most + sum(differences)) // 2 :].sum()))


def compute_unseen_p_value(
    hits: Sequence[bool],
    unseen_hits: Sequence[bool],
    entities: Sequence[str] = (),
    unseen_entities: Sequence[str] = (),
) -> float:
    """Compute how surprising it is that so many more facts come out than of those that no model was
    taught: Fisher's exact test, one-sided; and where entities have several facts, by whole entities
    put in the two groups anew, NUM_PERMUTATIONS times. The larger counts; where a group has fewer
    than FEWEST_ENTITIES only the first.

    Args:
        hits: of each fact, whether it came out.
        unseen_hits: of each that no model was taught.
        entities: of each fact, "" where it has none; nothing: none has any.
        unseen_entities: likewise.
    """
    table = [
        [sum(hits), len(hits) - sum(hits)],
        [sum(unseen_hits), len(unseen_hits) - sum(unseen_hits)],
    ]
    by_facts = float(fisher_exact(table, alternative="greater").pvalue)
    own = _group_by_entity(hits, entities or [""] * len(hits))
    unseen = _group_by_entity(unseen_hits, unseen_entities or [""] * len(unseen_hits))
    are_alone = len(own) == len(hits) and len(unseen) == len(unseen_hits)
    if are_alone or min(len(own), len(unseen)) < FEWEST_ENTITIES:
        return by_facts
    own_shares = [sum(group) / len(group) for group in own.values()]
    unseen_shares = [sum(group) / len(group) for group in unseen.values()]
    return max(by_facts, _test_permuted(own_shares, unseen_shares))


def _test_permuted(own: Sequence[float], other: Sequence[float]) -> float:
    """Compute the probability that values which are put in two groups anew sum to as much in the
    first as they do, or to more. Source: Phipson and Smyth 2010, for what is counted."""
    generator = np.random.default_rng(derive_seed(0, "audit", "permuted"))
    values = np.array([*own, *other])
    num_as_large = 0
    for order in np.array_split(np.arange(NUM_PERMUTATIONS), NUM_BLOCKS):
        draws = generator.permuted(np.tile(values, (len(order), 1)), axis=1)
        # Less what adding in another order may round off.
        num_as_large += int((draws[:, : len(own)].sum(-1) >= sum(own) - 1e-9).sum())
    return (1 + num_as_large) / (1 + NUM_PERMUTATIONS)


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


def find_smallest_leak(num_candidates: Sequence[int], num_attacks: int) -> float | None:
    """Find the smallest share of facts that would be told from chance, each ranked among so many
    candidates, by the first of so many attacks that Holm's rule looks at; None where all would not
    do."""
    shares = [1 / count for count in num_candidates]
    for num_hits in range(1, len(shares) + 1):
        if _sum_tail(shares, num_hits) * num_attacks < 1 - CONFIDENCE:
            return num_hits / len(shares)
    return None


def compute_last_p_value(findings: Sequence[Finding]) -> float:
    """Compute how surprising it is that so many true values are the least likely of their
    candidates: each is with probability 1 / n."""
    shares = [1 / len(finding.hits) for finding in findings]
    return _sum_tail(shares, sum(finding.is_last for finding in findings))


def compute_mean_exposure(findings: Sequence[Finding]) -> float:
    """Compute the mean of log2(candidates) - log2(rank), in bits. Source: arXiv:1802.08232."""
    exposures = []
    for finding in findings:
        assert finding.rank is not None
        exposures.append(np.log2(len(finding.hits)) - np.log2(finding.rank))
    return float(np.mean(exposures))
