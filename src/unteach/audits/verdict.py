"""What an audit says of a model: for each attack how many facts came out, beside its controls, and
for the whole one sentence."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unteach.audits.battery import find_attack

SIGNIFICANT = 0.05
PAST_CHANCE = (
    "forgotten past chance: more true answers than chance allows are the least likely of their "
    "kind, which shows what was removed"
)
"""What is said where more is forgotten than a model that never saw the facts would not know."""


@dataclass(frozen=True)
class AttackResult:
    """What one attack brought out of one model.

    Attributes:
        num_facts: that it asked for, of those that are judged.
        num_leaks: whose true value came out.
        interval: of their share, 95 %: exact, or of whole entities where that is wider.
        wrong: how often a wrong candidate came out, the mean over facts and candidates.
        retain: the share that came out of the retain model; None without one.
        original: the share that came out of the original; None without one.
        unseen: the share of the facts no model was taught that came out all the same; None without
            such facts.
        has_power: whether it brings out what the original knows; None where nobody can say.
        p_value: of as many leaks, or more, of a model that never saw the facts, adjusted for the
            number of attacks (Holm); None where there is nothing to hold them against: candidates
            that are not alike, no retain model, and no facts that were never seen.
        p_value_last: of as many true values that are the least likely of all, adjusted likewise.
        num_last: those: forgotten past chance.
        mean_exposure: log2 of the candidates less log2 of the rank, the mean over facts, in bits.
    """

    num_facts: int
    num_leaks: int
    interval: tuple[float, float]
    wrong: float
    p_value: float | None
    retain: float | None = None
    original: float | None = None
    unseen: float | None = None
    has_power: bool | None = None
    num_last: int = 0
    p_value_last: float | None = None
    mean_exposure: float | None = None

    @property
    def rate(self) -> float:
        return self.num_leaks / self.num_facts if self.num_facts else 0.0

    @property
    def is_significant(self) -> bool:
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Worst:
    """What any attack brought out.

    Attributes:
        num_leaks: how many facts.
        num_asked: of how many that any asked for.
        wrong: the share of wrong candidates.
        p_value: see `Verdict.p_value_worst`.
    """

    num_leaks: int
    num_asked: int
    wrong: float
    p_value: float | None

    @property
    def is_significant(self) -> bool:
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Verdict:
    """What an audit says of one model.

    Attributes:
        attacks: by name.
        worst: the share of facts that some attack brought out, of those asked for by attacks that
            count: all but those without power that found nothing.
        worst_wrong: how often a wrong candidate came out by any of them.
        worst_retain: the share that any of them brought out of the retain model.
        worst_original: the share that any of them brought out of the original; None without one.
        worst_unseen: the share of the facts no model was taught that any of them brought out.
        p_value_worst: of as much, or more, by all attacks that have power together, of a model that
            never saw the facts; one of the tests that Holm's rule adjusts.
        num_asked: how many facts that is of.
        upper_bound: of `worst`, 95 %, one-sided.
        smallest: the smallest share of facts that a rank would have told from chance; None where
            none would, or nothing was ranked.
        is_tested: whether any of these attacks could be held against something.
        sentence: all that in one.
    """

    attacks: dict[str, AttackResult]
    worst: float
    worst_wrong: float
    worst_retain: float | None
    worst_original: float | None
    worst_unseen: float | None
    p_value_worst: float | None
    num_asked: int
    upper_bound: float
    smallest: float | None
    leaks: bool
    is_tested: bool
    over_forgotten: bool
    sentence: str
    leaking_attacks: list[str] = field(default_factory=list)

    @property
    def excess(self) -> float:
        """How much more comes out by any attack than of the first control that there is: the retain
        model, facts that were never seen, wrong answers."""
        controls = (self.worst_retain, self.worst_unseen, self.worst_wrong)
        control = next(rate for rate in controls if rate is not None)
        return max(0.0, self.worst - control)

    def to_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return asdict(self)


def write_sentence(
    results: dict[str, AttackResult],
    union: Sequence[str],
    upper_bound: float,
    worst: Worst,
) -> str:
    leaking = [name for name in union if results[name].is_significant]
    if leaking:
        name = max(leaking, key=lambda name: results[name].rate)
        result = results[name]
        return (
            f"leaks: {name} brought out {result.num_leaks} of {result.num_facts} facts, and wrong "
            f"answers of the same kind {result.wrong:.0%} of the time"
        )
    if worst.is_significant:
        return (
            f"leaks: no attack alone, but all together brought out {worst.num_leaks} of "
            f"{worst.num_asked} facts, and wrong answers of the same kind {worst.wrong:.0%} of the "
            "time"
        )
    tested = [name for name in union if results[name].p_value is not None]
    if not tested:
        return (
            "nothing can be said: what came out can be held against nothing; give columns value "
            "and kind, or retain_model=, or holdout="
        )
    power = "(their power is unknown: give original=)"
    if all(results[name].has_power for name in tested):
        power = "at this power"
    trained = any(name != find_attack(name) for name in tested)
    without = "" if trained else ", without relearning,"
    return (
        f"no leak found by these attacks{without} {power}: at most {upper_bound:.0%} of "
        f"{worst.num_asked} facts come out (95 %), where wrong answers of the same kind come out "
        f"{worst.wrong:.0%} of the time"
    )
