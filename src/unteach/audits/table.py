"""An audit on the terminal: one sentence, one table, and what was not tested."""

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from unteach.audits.attacks.base import TrainingAttack, WeightAttack
from unteach.audits.battery import find_attack
from unteach.audits.held_back import describe_held_back, find_held_back
from unteach.audits.session import AuditPlan, AuditResult
from unteach.audits.verdict import AttackResult
from unteach.wording import format_count

MISSING = "–"
NO_POWER = "no power here"


def print_audit(plan: AuditPlan, result: AuditResult, console: Console | None = None) -> None:
    """Print what an audit found."""
    console = console or Console()
    verdict = result.verdict
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("attack", no_wrap=True)
    for head in ("comes out", "95 %", "wrong", "retain", "original", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, attack in _choose_rows(verdict.attacks):
        style = "dim" if attack.has_power is False else ""
        table.add_row(name, *_list_cells(attack), style=style)
    console.print(table, crop=False, no_wrap=True, overflow="ignore")
    parts = [f"worst case over attacks: {verdict.worst:.0%} of the facts"]
    parts.append(f"a wrong answer of the same kind: {verdict.worst_wrong:.0%}")
    if verdict.worst_retain is not None:
        parts.append(f"the retain model: {verdict.worst_retain:.0%}")
    console.print("; ".join(parts), highlight=False)
    if verdict.over_forgotten:
        console.print(
            "forgotten past chance: more true answers than chance allows are the least likely of "
            "their kind, which shows what was removed",
            highlight=False,
        )
    if result.unknown:
        places = ", ".join(fact.place for fact in result.unknown[:3])
        console.print(
            f"not judged: {len(result.unknown)} facts that the original does not know ({places})",
            highlight=False,
        )
    for part, reasons in result.unanswered.items():
        if reasons:
            console.print(
                f"unanswered: {part}: {len(reasons)} questions, which count as bringing nothing "
                f"out: {reasons[0]}",
                highlight=False,
                markup=False,
            )
    for line in describe_held_back(find_held_back(plan, result)):
        console.print(line, highlight=False)
    for name, reason in plan.battery.absent.items():
        console.print(f"not tested: {name}: {reason}", highlight=False)
    power = "too few facts or candidates for a rank to tell any leak from chance"
    if verdict.smallest is not None:
        power = (
            f"a leak of {verdict.smallest:.0%} or more would have been told from chance by a rank"
        )
    console.print(power, highlight=False)
    console.print(verdict.sentence, style="bold", highlight=False)


def _choose_rows(attacks: dict[str, AttackResult]) -> list[tuple[str, AttackResult]]:
    """Choose the rows of the table, those that bring out most first; of the trainings of an attack
    the one that does, of those with power."""
    ordered = sorted(
        attacks.items(), key=lambda item: (item[1].has_power is not False, item[1].rate)
    )
    best = {find_attack(name): (name, attack) for name, attack in ordered}
    return sorted(best.values(), key=lambda item: item[1].rate, reverse=True)


def describe_plan(plan: AuditPlan) -> list[str]:
    """Describe what an audit will ask of each model, and what it cannot."""
    battery = plan.battery
    sources = Counter(candidates.source for candidates in plan.context.candidates)
    by = ", ".join(f"{count:,} by {source}" for source, count in sources.items())
    models = ", ".join(plan.models)
    lines = [f"facts       {len(plan.context.facts):,}; answers of the same kind: {by}"]
    for name, probes in battery.probes.items():
        lines.append(f"attack      {name}: {format_count(len(probes), 'probe')}")
    for name, attack in battery.attacks.items():
        if isinstance(attack, WeightAttack):
            lines.append(f"attack      {name}: {', '.join(attack.measured)} once more")
        elif isinstance(attack, TrainingAttack):
            num_lessons = format_count(len(attack.write_lessons(plan.context)), "training")
            asked = format_count(len(attack.list_asked(plan.context)), "fact")
            lines.append(f"attack      {name}: {num_lessons}, then {asked} asked for")
    lines += [f"suppressed  by {name}, a part of the model" for name in plan.processors]
    lines += [f"not tested  {name}: {reason}" for name, reason in battery.absent.items()]
    lines.append(
        f"asked       {battery.num_distinct:,} different probes of {battery.num_asked:,}, of each "
        f"model: {models}"
    )
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
        _format_share(attack.retain),
        _format_share(attack.original),
        p_value,
    ]


def _format_share(share: float | None) -> str:
    return MISSING if share is None else f"{share:.0%}"


def _format_p_value(p_value: float | None) -> str:
    if p_value is None:
        return MISSING
    return f"{p_value:.2g}" if p_value >= 1e-4 else "< 0.0001"
