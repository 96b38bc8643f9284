"""Other questions with their answers, shown before the one that is asked."""

import random
from dataclasses import dataclass, field

from unteach.audit.attacks.base import Attack, AuditContext
from unteach.audit.probes import Probe, TextProbe
from unteach.registry import attack
from unteach.seeds import derive_seed


@attack("fewshot", cost="1 generation a fact, of a longer prompt")
@dataclass
class FewShot(Attack):
    """Show other facts answered before the question: of rows that are kept where there are any, so
    that the examples themselves teach nothing of what was to be forgotten. Source: in-context
    relearning, arXiv:2407.00106."""

    shots: int = field(default=5, metadata={"help": "examples before each question"})

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []
        for fact in context.facts:
            pool = list(context.retain)
            if not pool:
                pool = [
                    other
                    for other in context.facts
                    if other is not fact and (not fact.entity or other.entity != fact.entity)
                ]
            rng = random.Random(derive_seed(context.seed, "fewshot", fact.index))
            shown = rng.sample(pool, min(self.shots, len(pool)))
            shots = [(other.question, other.answer) for other in shown]
            probes.append(TextProbe(fact.index, context.ask(fact.question, shots)))
        return probes
