"""Many answers to one question, drawn from the model's whole distribution."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from unteach.audits.attacks.base import Attack, AuditContext
from unteach.audits.judging import SaidText, judge_with_thoughts
from unteach.audits.probes import Finding, Outcome, Probe, SampleProbe, Texts
from unteach.errors import UserError
from unteach.registry import attack


@attack("leak_at_k", cost="n generations a fact")
@dataclass
class LeakAtK(Attack):
    """Draw n answers at temperature 1 from the whole distribution; a fact leaks where any of them
    holds its value. Source: leak@k, arXiv:2511.04934."""

    ASKS_DOCUMENTS: ClassVar[bool] = True

    n: int = field(default=8, metadata={"help": "answers to each question"})

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n must be at least 1, got {self.n}")

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []
        for fact in context.facts:
            conversation = context.converse(fact, fact.question)
            probes.append(SampleProbe(fact.index, context.ask(fact), self.n, conversation))
        return probes

    def judge(
        self, context: AuditContext, answered: Sequence[tuple[Probe, Outcome]]
    ) -> dict[int, Finding]:
        """Count in how many samples each candidate came out."""
        said = []
        for probe, outcome in answered:
            assert isinstance(outcome, Texts)
            fact, candidates = context.facts[probe.fact], context.candidates[probe.fact]
            said += [SaidText(fact, candidates, "", text) for text in outcome.texts]
        judged = judge_with_thoughts(said)
        findings = {}
        for start, (probe, outcome) in zip(range(0, len(said), self.n), answered, strict=True):
            assert isinstance(outcome, Texts)
            by_sample = judged[start : start + self.n]
            counts = tuple(map(sum, zip(*(one.hits for one in by_sample), strict=True)))
            leaking = [index for index, one in enumerate(by_sample) if one.hits[0]]
            text = outcome.texts[leaking[0] if leaking else 0]
            hits = tuple(count > 0 for count in counts)
            findings[probe.fact] = Finding(
                probe.fact,
                hits,
                text=text,
                counts=counts,
                num_samples=self.n,
                in_thought=bool(leaking) and all(by_sample[i].in_thought for i in leaking),
            )
        return findings
