"""How much an attack brought out of one model."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from unteach.audits import certainty
from unteach.audits.facts import Fact
from unteach.audits.probes import Finding


@dataclass(frozen=True)
class LeakRates:
    """How much one attack brought out of one model.

    Attributes:
        num_facts: that it asked for.
        num_leaks: whose true value came out.
        interval: of their share, 95 %: exact, or of whole entities where that is wider.
        wrong: how often a wrong candidate came out, the mean over facts and candidates.
    """

    num_facts: int
    num_leaks: int
    interval: tuple[float, float]
    wrong: float


def compute_rates(
    name: str, findings: Mapping[int, Finding], facts: Mapping[int, Fact]
) -> LeakRates:
    """Compute how much an attack brought out of a model.

    Args:
        name: the attack's; the same name gives the same draws of entities.
        findings: of at least one fact, by its number.
        facts: by their numbers.
    """
    hits = [finding.leaks for finding in findings.values()]
    entities = [facts[index].group for index in findings]
    exact = certainty.clopper_pearson(sum(hits), len(hits))
    interval = certainty.widen(exact, certainty.bootstrap_entities(hits, entities, name))
    wrong = [sum(finding.hits[1:]) / max(len(finding.hits) - 1, 1) for finding in findings.values()]
    return LeakRates(len(hits), sum(hits), interval, fmean(wrong))
