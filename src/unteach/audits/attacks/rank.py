"""The rank of the true answer among answers of the same kind."""

from dataclasses import dataclass, field
from typing import Literal

from unteach.audits.attacks.base import Attack, AuditContext
from unteach.audits.candidates import FEWEST
from unteach.audits.probes import Probe, RankProbe
from unteach.registry import attack


@attack("rank", cost="1 scoring pass a fact, over 8 to 32 candidates")
@dataclass
class Rank(Attack):
    """The rank of the true value among 8 to 32 values of the same kind, by their log-prob after the
    question and the answer up to the value. The strongest of the cheap attacks: its order of
    methods is that of relearning. A model that would rather say something else first is asked all
    the same. Source: exposure, arXiv:1802.08232.
    """

    over: Literal["value", "answer"] = field(
        default="value",
        metadata={"help": "what is scored: the answer up to its value, or all of it"},
    )

    def find_fault(self, context: AuditContext) -> str:
        if not any(candidates.are_enough for candidates in context.candidates):
            return (
                f"no fact has {FEWEST} answers of the same kind to stand among; give more rows, "
                "or columns value and kind"
            )
        return ""

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []
        for fact, candidates in zip(context.facts, context.candidates, strict=True):
            if not candidates.are_enough:
                continue
            continuations = []
            for value, answer in zip(candidates.values, candidates.answers, strict=True):
                words = fact.answer_up_to(value) if self.over == "value" else answer
                continuations.append(context.encode_answer(fact.question, words))
            prompt = context.ask(fact.question)
            probes.append(RankProbe(fact.index, prompt, tuple(continuations)))
        return probes
