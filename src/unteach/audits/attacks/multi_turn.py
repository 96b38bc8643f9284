"""A conversation that leads up to the question."""

from dataclasses import dataclass

from unteach.audits.attacks.base import Attack, AuditContext
from unteach.audits.probes import Probe
from unteach.registry import attack


@attack("multiturn", cost="1 generation a fact")
@dataclass
class MultiTurn(Attack):
    """Ask in the second turn, after the model has agreed to speak of the entity."""

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []
        for fact in context.facts:
            subject = fact.entity or "a subject that I will name"
            shots = [
                (
                    f"I am writing about {subject} and need your help with some details.",
                    "Of course. Which details do you need?",
                )
            ]
            probes.append(context.write_probe(fact, fact.question, shots))
        return probes
