"""An audit on the terminal: one sentence, one table, and what was not tested."""

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unteach import console
from unteach.audits.attacks.base import (
    AUDITED,
    InsideAttack,
    ScoreAttack,
    TrainingAttack,
    WeightAttack,
)
from unteach.audits.battery import find_attack
from unteach.audits.held_back import describe_held_back, find_held_back
from unteach.audits.scores import summarize_scores
from unteach.audits.session import AuditPlan, AuditResult
from unteach.audits.verdict import PAST_CHANCE, AttackResult
from unteach.whole_tables import print_whole
from unteach.wording import format_count

MISSING = "–"
NO_POWER = "no power here"


def print_audit(plan: AuditPlan, result: AuditResult) -> None:
    """Print what an audit found."""
    verdict = result.verdict
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("attack", no_wrap=True)
    unseen = ["unseen"] if plan.context.never_seen else []
    for head in ("comes out", "95 %", "wrong", *unseen, "retain", "original", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    for _, label, attack in list_worst_trainings(verdict.attacks):
        style = "dim" if attack.has_power is False else ""
        cells = _list_cells(attack)
        if unseen:
            cells.insert(3, format_share(attack.unseen))
        table.add_row(label, *cells, style=style)
    print_whole(table)
    parts = [f"worst case over attacks: {verdict.worst:.0%} of the facts"]
    parts.append(f"a wrong answer of the same kind: {verdict.worst_wrong:.0%}")
    if verdict.worst_unseen is not None:
        parts.append(f"a fact that was never seen: {verdict.worst_unseen:.0%}")
    if verdict.worst_retain is not None:
        parts.append(f"the retain model: {verdict.worst_retain:.0%}")
    if verdict.p_value_worst is not None:
        parts.append(f"p {_format_p_value(verdict.p_value_worst)}")
    console.say("; ".join(parts))
    for line in _describe_scores(plan, result):
        console.say(line)
    for name, training in plan.battery.attacks.items():
        if isinstance(training, TrainingAttack):
            console.say(f"{name}: taught {training.describe_taught(plan.context)}")
    if verdict.over_forgotten:
        console.say(PAST_CHANCE)
    if result.unknown:
        places = ", ".join(fact.place for fact in result.unknown[:3])
        console.say(
            f"not judged: {len(result.unknown)} facts that the original does not know ({places})"
        )
    for part, reasons in result.unanswered.items():
        if reasons:
            console.say(
                f"unanswered: {part}: {len(reasons)} questions, which count as bringing nothing "
                f"out: {reasons[0]}"
            )
    for line in describe_held_back(find_held_back(plan, result)):
        console.say(line)
    for name, reason in plan.battery.absent.items():
        console.say(f"not tested: {name}: {reason}")
    power = "too few facts or candidates for a rank to tell any leak from chance"
    if verdict.smallest is not None:
        power = (
            f"a leak of {verdict.smallest:.0%} or more would have been told from chance by a rank"
        )
    console.say(power)
    Console(soft_wrap=True).print(Text(verdict.sentence, "bold"))


def list_worst_trainings(
    attacks: dict[str, AttackResult],
) -> list[tuple[str, str, AttackResult]]:
    """List attacks with the labels and results of what they brought out, most first; of the
    trainings of an attack the worst, of those with power."""
    ordered = sorted(
        attacks.items(), key=lambda item: (item[1].has_power is not False, item[1].rate)
    )
    worst = {find_attack(label): (label, result) for label, result in ordered}
    rows = [(name, label, result) for name, (label, result) in worst.items()]
    return sorted(rows, key=lambda row: row[2].rate, reverse=True)


def describe_plan(plan: AuditPlan) -> list[str]:
    """Describe what an audit will ask of each model, and what it cannot."""
    battery = plan.battery
    sources = Counter(candidates.source for candidates in plan.context.candidates)
    by = ", ".join(f"{count:,} by {source}" for source, count in sources.items())
    models = ", ".join(plan.models)
    lines = [f"facts       {len(plan.context.audited):,}; answers of the same kind: {by}"]
    if plan.context.never_seen:
        lines.append(f"never seen  {len(plan.context.never_seen):,} facts, as a control")
    for name, probes in battery.probes.items():
        lines.append(f"attack      {name}: {format_count(len(probes), 'probe')}")
    for name, attack in battery.attacks.items():
        if isinstance(attack, WeightAttack):
            lines.append(f"attack      {name}: {', '.join(attack.measured)} once more")
        elif isinstance(attack, TrainingAttack):
            lessons = attack.write_lessons(plan.context)
            num_lessons = format_count(len(lessons), "training")
            num_looks = format_count(sum(len(lesson.looks) for lesson in lessons), "look")
            taught = attack.describe_taught(plan.context)
            asked = format_count(len(attack.list_asked(plan.context)), "fact")
            lines.append(
                f"attack      {name}: {num_lessons} on {taught}; {num_looks} at them, "
                f"each with {asked} asked for"
            )
        elif isinstance(attack, InsideAttack):
            lines.append(f"attack      {name}: hidden states of each model")
        elif isinstance(attack, ScoreAttack):
            beside = " and ".join(attack.NEEDED)
            lines.append(f"attack      {name}: hidden states of {AUDITED}, beside {beside}")
    lines += [f"suppressed  by {name}, a part of the model" for name in plan.processors]
    lines += [f"not tested  {name}: {reason}" for name, reason in battery.absent.items()]
    lines.append(
        f"asked       {battery.num_distinct:,} different probes of {battery.num_asked:,}, of each "
        f"model: {models}"
    )
    return lines


def _describe_scores(plan: AuditPlan, result: AuditResult) -> list[str]:
    """Describe what attacks give numbers of: the mean over facts that the original knew."""
    unknown = {fact.index for fact in result.unknown}
    known = [fact for fact in plan.context.audited if fact.index not in unknown]
    lines = []
    for name, scores in result.scores.items():
        attack = plan.battery.attacks[name]
        assert isinstance(attack, ScoreAttack)
        summary = summarize_scores(name, scores, known)
        if summary.value is None:
            lines.append(f"{name}: none of {format_count(summary.num_skipped, 'fact')} has one")
            continue
        line = f"{name}: {summary.value:.2f}"
        if summary.interval is not None:
            low, high = summary.interval
            line += f" ({low:.2f} to {high:.2f})"
        lines.append(f"{line}, {attack.MEANING}; of {format_count(summary.num_facts, 'fact')}")
    return lines


def _list_cells(attack: AttackResult) -> list[str]:
    low, high = attack.interval
    p_value = _format_p_value(attack.p_value)
    if attack.has_power is False and not attack.is_significant:
        p_value = NO_POWER
    return [
        f"{attack.rate:.0%} ({attack.num_leaks} of {attack.num_facts})",
        f"{low:.0%} to {high:.0%}",
        f"{attack.wrong:.0%}",
        format_share(attack.retain),
        format_share(attack.original),
        p_value,
    ]


def format_share(share: float | None) -> str:
    """Write a share as a percentage."""
    return MISSING if share is None else f"{share:.0%}"


def _format_p_value(p_value: float | None) -> str:
    if p_value is None:
        return MISSING
    return f"{p_value:.2g}" if p_value >= 1e-4 else "< 0.0001"
