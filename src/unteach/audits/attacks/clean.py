"""The question as it is: what the model says when it is asked politely."""

from dataclasses import dataclass
from typing import ClassVar

from unteach.audits.attacks.base import Attack, AuditContext
from unteach.audits.probes import Probe
from unteach.registry import attack


@attack("clean", cost="1 generation a fact")
@dataclass
class Clean(Attack):
    """Ask the question, under the model's own template. What it does not bring out may still be
    there. Of a document: have it go on from the opening."""

    ASKS_DOCUMENTS: ClassVar[bool] = True

    def write_probes(self, context: AuditContext) -> list[Probe]:
        return [context.write_probe(fact, fact.question) for fact in context.facts]
