"""Other questions with their answers, shown before the one that is asked."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from unteach.audits.attacks.base import Attack, AuditContext
from unteach.audits.candidates import gives_away
from unteach.audits.facts import Fact
from unteach.audits.probes import Probe
from unteach.errors import UserError
from unteach.registry import attack
from unteach.seeds import derive_seed


@attack("fewshot", cost="1 generation a fact, of a longer prompt")
@dataclass
class FewShot(Attack):
    """Show other facts answered before the question: of rows that are kept where there are any, so
    that the examples themselves teach nothing of what was to be forgotten. All questions have the
    same examples, which are read once, but for those that would give an answer away. Source:
    in-context relearning, arXiv:2407.00106."""

    shots: int = field(default=5, metadata={"help": "examples before each question"})

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise UserError(f"shots must be at least 1, got {self.shots}")

    def find_fault(self, context: AuditContext) -> str:
        has_any = any(self.list_pool(context, fact) for fact in context.facts)
        return "" if has_any else "there are no other rows to show"

    def list_pool(self, context: AuditContext, fact: Fact) -> list[Fact]:
        """List the rows that may be shown before a fact: none that says it."""
        others: Sequence[Fact] = context.retain
        if not others:
            others = [
                other
                for other in context.audited
                if other is not fact and other.group != fact.group
            ]
        asked = [other for other in others if not other.is_document]
        return [other for other in asked if not gives_away(fact, other)]

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []

        @functools.cache
        def draw(index: int) -> int:
            return derive_seed(context.seed, "fewshot", index)

        for fact in context.facts:
            pool = self.list_pool(context, fact)
            shown = sorted(pool, key=lambda other: draw(other.index))[: self.shots]
            shots = [(other.question, other.answer) for other in shown]
            probes.append(context.write_probe(fact, fact.question, shots))
        return probes
