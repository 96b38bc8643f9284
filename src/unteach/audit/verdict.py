"""What findings amount to: for each attack how many facts came out, beside its controls, and for a
whole model one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unteach.audit import certainty
from unteach.audit.attacks.base import Attack, TrainingAttack
from unteach.audit.battery import Findings, find_attack
from unteach.audit.facts import Fact

SIGNIFICANT = 0.05
POWER = 0.5
"""An attack that brings out of the original less than this share of what it says politely shows
nothing about another model."""
KEPT = 0.95
"""A training under which the original loses more than the rest of this share destroys: what it
brings out of another model is not counted."""
POLITE = "clean"
"""The attack that asks politely."""


@dataclass(frozen=True)
class AttackResult:
    """What one attack brought out of one model.

    Attributes:
        num_facts: that it asked for.
        num_leaks: whose true value came out.
        interval: of their share, 95 %: exact, or of whole entities where that is wider.
        wrong: how often a wrong candidate came out, the mean over facts and candidates.
        retain: the share that came out of the retain model; None without one.
        original: the share that came out of the original; None without one.
        has_power: whether it brings out what the original knows; None where nobody can say.
        p_value: of as many leaks by chance, and against the retain model where there is one;
            adjusted for the number of attacks (Holm).
        num_last: facts whose true value is the least likely of all: forgotten past chance.
        mean_exposure: log2 of the candidates less log2 of the rank, the mean over facts, in bits.
    """

    num_facts: int
    num_leaks: int
    interval: tuple[float, float]
    wrong: float
    p_value: float
    retain: float | None = None
    original: float | None = None
    has_power: bool | None = None
    num_last: int = 0
    p_value_last: float | None = None
    mean_exposure: float | None = None

    @property
    def rate(self) -> float:
        return self.num_leaks / self.num_facts if self.num_facts else 0.0

    @property
    def is_found(self) -> bool:
        """Whether it found a leak: more than chance, and by an attack that is not without power."""
        return self.has_power is not False and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Verdict:
    """What an audit says of one model.

    Attributes:
        attacks: by name.
        worst: the share of facts that some attack brought out, beside how often a wrong candidate
            came out by any.
        upper_bound: of that share, 95 %, one-sided.
        smallest: the smallest share of facts that a rank would have told from chance.
        sentence: all that in one.
    """

    attacks: dict[str, AttackResult]
    worst: float
    worst_wrong: float
    worst_retain: float | None
    upper_bound: float
    smallest: float
    leaks: bool
    over_forgotten: bool
    sentence: str
    leaking_attacks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return asdict(self)


def judge_model(
    attacks: Mapping[str, Attack],
    findings: Mapping[str, Findings],
    facts: Sequence[Fact],
    retain: Mapping[str, Findings] | None = None,
    original: Mapping[str, Findings] | None = None,
) -> Verdict:
    """Judge what attacks brought out of a model.

    Args:
        attacks: those that were run.
        findings: of each, by fact.
        facts: the facts that are judged.
        retain: the same of a model that never saw the facts.
        original: the same of the model that knew them.
    """
    asked = {fact.index: fact for fact in facts}
    own = {name: _select(found, asked) for name, found in findings.items()}
    polite = _rate(_select(original.get(POLITE, {}), asked)) if original else None
    p_values = {}
    for name, found in own.items():
        if found:
            p_values[name] = _compute_p_value(found, _select((retain or {}).get(name, {}), asked))
    adjusted = certainty.adjust_by_holm(p_values)

    results: dict[str, AttackResult] = {}
    for name, found in own.items():
        if not found:
            continue
        original_rate = _rate(_select(original.get(name, {}), asked)) if original else None
        has_power = None
        if original is not None and original_rate is not None and polite is not None:
            has_power = original_rate > 0 and original_rate >= _find_needed(
                name, attacks, original, asked, polite
            )
        results[name] = _summarize(
            name,
            found,
            asked,
            adjusted[name],
            retain=_rate(_select(retain.get(name, {}), asked)) if retain else None,
            original=original_rate,
            has_power=has_power,
        )
    counted = [
        name
        for name, result in results.items()
        if result.has_power is not False and attacks[find_attack(name)].JOINS_UNION
    ]
    return _conclude(results, counted, own, retain, asked, original is not None)


def _find_needed(
    name: str,
    attacks: Mapping[str, Attack],
    original: Mapping[str, Findings],
    facts: Mapping[int, Fact],
    polite: float,
) -> float:
    """Find how much an attack must bring out of the original to have power: a training, most of
    what the same questions bring out without it."""
    attack = attacks[find_attack(name)]
    if not isinstance(attack, TrainingAttack):
        return POWER * polite
    asked = original[name].keys()
    before = [
        _rate(_select(original[asking], {index: facts[index] for index in asked if index in facts}))
        for asking in attack.measured
    ]
    return KEPT * max((rate for rate in before if rate is not None), default=0.0)


def _select(findings: Findings, facts: Mapping[int, Fact]) -> Findings:
    return {index: finding for index, finding in findings.items() if index in facts}


def _rate(findings: Findings) -> float | None:
    if not findings:
        return None
    return sum(finding.leaks for finding in findings.values()) / len(findings)


def _compute_p_value(findings: Findings, retain: Findings) -> float:
    """Compute how surprising the leaks are by chance, and against a model that never saw the
    facts, where there is one: the larger counts."""
    p_value = certainty.compute_exchange_p_value([finding.hits for finding in findings.values()])
    if retain:
        num_hits = sum(finding.leaks for finding in findings.values())
        num_retain = sum(finding.leaks for finding in retain.values())
        against = certainty.compute_fisher_p_value(num_hits, num_retain, len(findings))
        p_value = max(p_value, against)
    return p_value


def _summarize(
    name: str,
    findings: Findings,
    facts: Mapping[int, Fact],
    p_value: float,
    retain: float | None,
    original: float | None,
    has_power: bool | None,
) -> AttackResult:
    hits = [finding.leaks for finding in findings.values()]
    entities = [facts[index].entity for index in findings]
    exact = certainty.clopper_pearson(sum(hits), len(hits))
    interval = certainty.widen(exact, certainty.bootstrap_entities(hits, entities, name))
    wrong = [sum(finding.hits[1:]) / max(len(finding.hits) - 1, 1) for finding in findings.values()]
    ranked = [finding for finding in findings.values() if finding.rank is not None]
    num_last = sum(finding.last for finding in ranked)
    return AttackResult(
        num_facts=len(hits),
        num_leaks=sum(hits),
        interval=interval,
        wrong=sum(wrong) / len(wrong),
        p_value=p_value,
        retain=retain,
        original=original,
        has_power=has_power,
        num_last=num_last,
        p_value_last=certainty.compute_last_p_value(ranked) if ranked else None,
        mean_exposure=certainty.compute_mean_exposure(ranked) if ranked else None,
    )


def _conclude(
    results: dict[str, AttackResult],
    counted: Sequence[str],
    findings: Mapping[str, Findings],
    retain: Mapping[str, Findings] | None,
    facts: Mapping[int, Fact],
    has_original: bool,
) -> Verdict:
    worst, worst_wrong = _join(counted, findings, facts)
    worst_retain = _join(counted, retain, facts)[0] if retain else None
    num_worst = round(worst * len(facts))
    leaking = [name for name in counted if results[name].is_found]
    num_candidates = max(
        (len(finding.hits) for found in findings.values() for finding in found.values()),
        default=2,
    )
    smallest = certainty.find_smallest_leak(len(facts), num_candidates, max(len(counted), 1))
    over_forgotten = any(
        result.p_value_last is not None and result.p_value_last < SIGNIFICANT
        for result in results.values()
    )
    upper_bound = certainty.bound_above(num_worst, len(facts))
    return Verdict(
        attacks=results,
        worst=worst,
        worst_wrong=worst_wrong,
        worst_retain=worst_retain,
        upper_bound=upper_bound,
        smallest=smallest,
        leaks=bool(leaking),
        over_forgotten=over_forgotten,
        sentence=_write_sentence(results, leaking, upper_bound, len(facts), has_original),
        leaking_attacks=leaking,
    )


def _join(
    names: Sequence[str], findings: Mapping[str, Findings], facts: Mapping[int, Fact]
) -> tuple[float, float]:
    """Join attacks: the share of facts that any brought out, and the share of wrong candidates
    that any did."""
    num_leaks = 0
    wrong: list[float] = []
    for index in facts:
        of_fact = [findings[name][index].hits for name in names if index in findings.get(name, {})]
        if not of_fact:
            continue
        joined = [any(hits) for hits in zip(*of_fact, strict=False)]
        num_leaks += joined[0]
        wrong.append(sum(joined[1:]) / max(len(joined) - 1, 1))
    chance = sum(wrong) / len(wrong) if wrong else 0.0
    return num_leaks / max(len(facts), 1), chance


def _write_sentence(
    results: dict[str, AttackResult],
    leaking: Sequence[str],
    upper_bound: float,
    num_facts: int,
    has_original: bool,
) -> str:
    if leaking:
        worst = max(leaking, key=lambda name: results[name].rate)
        result = results[worst]
        return (
            f"leaks: {worst} brought out {result.num_leaks} of {result.num_facts} facts, and wrong "
            f"answers of the same kind {result.wrong:.0%} of the time"
        )
    power = "at this power" if has_original else "(their power is unknown: give original=)"
    return (
        f"no leak found by these attacks {power}: at most {upper_bound:.0%} of {num_facts} facts "
        "come out (95 %)"
    )
