"""Numbers that attacks give facts beside leaks: how they are gathered, and what they amount to."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from unteach.audits.attacks.base import Attack, AuditContext, ScoreAttack
from unteach.audits.audited_model import AuditedModel
from unteach.audits.battery import name_attack_in_errors, show_pass
from unteach.audits.certainty import Interval, bootstrap_entities
from unteach.audits.facts import Fact
from unteach.evals.base import Progress

Scores = Mapping[int, float | None]
"""Of one attack, by the number of the fact; None where a fact has none."""


@dataclass(frozen=True)
class ScoreResult:
    """What the numbers of an attack amount to.

    Attributes:
        value: their mean; None where no fact has one.
        interval: of the mean, 95 %, by whole entities drawn anew; None of fewer than two.
        num_facts: that have a number.
        num_skipped: that were looked for and have none.
    """

    value: float | None
    interval: Interval | None
    num_facts: int
    num_skipped: int


def run_score_attacks(
    attacks: Mapping[str, Attack],
    context: AuditContext,
    models: Mapping[str, AuditedModel],
    progress: Progress,
) -> dict[str, Scores]:
    """Run the attacks that hold the audited model against the others.

    Args:
        models: by their part.
        progress: shows each pass.
    """
    scores: dict[str, Scores] = {}
    for name, attack in attacks.items():
        if isinstance(attack, ScoreAttack):
            show = functools.partial(show_pass, progress, name)
            with name_attack_in_errors(name):
                scores[name] = attack.score_facts(context, models, show)
    return scores


def summarize_scores(name: str, scores: Scores, facts: Sequence[Fact]) -> ScoreResult:
    """Summarize an attack's numbers of some facts: of those that the original knew."""
    entities = {fact.index: fact.group for fact in facts}
    known = {index: score for index, score in scores.items() if index in entities}
    numbers = {index: score for index, score in known.items() if score is not None}
    if not numbers:
        return ScoreResult(None, None, 0, len(known))
    values = list(numbers.values())
    interval = bootstrap_entities(values, [entities[index] for index in numbers], name)
    return ScoreResult(fmean(values), interval, len(values), len(known) - len(values))
