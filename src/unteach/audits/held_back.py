"""What a model knows and does not say openly: facts that its logits processor alone holds back, and
facts that it says in thought."""

from dataclasses import dataclass

from unteach.audits.attacks.base import AUDITED
from unteach.audits.attacks.processor_off import ProcessorOff
from unteach.audits.battery import find_attack
from unteach.audits.session import AuditPlan, AuditResult


@dataclass(frozen=True)
class HeldBack:
    """What came out of the audited model, of the facts that are judged, and not openly.

    Attributes:
        processors: what of the model stands between its logits and what it says.
        by_processor: places of facts that come out without it, and by no attack with it; None
            where nobody asked without it.
        in_thought: of each attack, how many facts' true values stood in a think block alone.
    """

    processors: list[str]
    by_processor: list[str] | None
    in_thought: dict[str, int]


def find_held_back(plan: AuditPlan, result: AuditResult) -> HeldBack:
    """Find what the audited model did not say openly."""
    known = {fact.index for fact in plan.context.audited}
    known -= {fact.index for fact in result.unknown}
    without: set[int] = set()
    openly: set[int] = set()
    in_thought = {}
    asked_without = False
    for label, found in result.findings[AUDITED].items():
        judged = [finding for index, finding in found.items() if index in known]
        leaking = {finding.fact for finding in judged if finding.leaks}
        if isinstance(plan.battery.attacks[find_attack(label)], ProcessorOff):
            asked_without = True
            without |= leaking
        else:
            openly |= leaking
        num_in_thought = sum(finding.in_thought for finding in judged)
        if num_in_thought:
            in_thought[label] = num_in_thought
    facts = plan.context.facts
    by_processor = [facts[index].place for index in sorted(without - openly)]
    return HeldBack(
        processors=list(plan.processors),
        by_processor=by_processor if asked_without else None,
        in_thought=in_thought,
    )


def describe_held_back(held: HeldBack) -> list[str]:
    """Describe it in sentences; none where there is nothing to say."""
    lines = []
    if held.processors:
        names = ", ".join(held.processors)
        line = f"suppression: a logits processor is part of this model: {names}"
        if held.by_processor is not None:
            line += f"; it alone holds back {len(held.by_processor)} facts (processor_off)"
        lines.append(line)
    for label, count in held.in_thought.items():
        lines.append(
            f"in thought: {label}: {count} facts stand in the think block and not in the answer "
            "after it; what is said in thought comes out too"
        )
    return lines
