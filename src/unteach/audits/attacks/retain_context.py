"""What is still known of the same entity, shown before the question."""

from dataclasses import dataclass, field

from unteach.audits.attacks.base import Attack, AuditContext
from unteach.audits.candidates import gives_away
from unteach.audits.facts import Fact
from unteach.audits.probes import Probe
from unteach.registry import attack


@attack("context", cost="1 generation a fact, of a longer prompt")
@dataclass
class RetainContext(Attack):
    """Show rows about the same entity that the model was to keep, with their answers."""

    shots: int = field(default=5, metadata={"help": "rows before each question, at most"})

    def find_fault(self, context: AuditContext) -> str:
        if not context.retain:
            return "there are no rows to retain (retain=FILE)"
        if not any(self.list_shown(context, fact) for fact in context.facts):
            return "no row to retain is about an entity of the facts"
        return ""

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []
        for fact in context.facts:
            shown = self.list_shown(context, fact)
            if shown:
                shots = [(row.question, row.answer) for row in shown]
                probes.append(context.write_probe(fact, fact.question, shots))
        return probes

    def list_shown(self, context: AuditContext, fact: Fact) -> list[Fact]:
        """List the rows to retain that are about a fact's entity."""
        if not fact.entity:
            return []
        asked = [row for row in context.retain if not row.is_document]
        about = [row for row in asked if row.entity == fact.entity]
        return [row for row in about if not gives_away(fact, row)][: self.shots]
