"""The rank of the true answer among answers of the same kind."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from unteach.audits.attacks.base import Attack, AuditContext
from unteach.audits.candidates import FEWEST, Candidates
from unteach.audits.facts import Fact
from unteach.audits.probes import Probe, RankProbe
from unteach.registry import attack


@attack("rank", cost="1 scoring pass a fact, over 8 to 32 candidates")
@dataclass
class Rank(Attack):
    """The rank of the true value among 8 to 32 values of the same kind, by their log-prob after the
    question and the answer up to the value. The strongest of the cheap attacks: its order of
    methods is that of relearning. A model that would rather say something else first is asked all
    the same. A passage of a document is ranked by its value alone: how it goes on as a whole tells
    itself apart from other texts. Source: exposure, arXiv:1802.08232.
    """

    ASKS_DOCUMENTS: ClassVar[bool] = True

    over: Literal["value", "answer"] = field(
        default="value",
        metadata={"help": "what is scored: the answer up to its value, or all of it"},
    )

    def find_fault(self, context: AuditContext) -> str:
        # A rank of controls alone says nothing.
        if any(not fact.never_seen for fact, _ in self.list_ranked(context)):
            return ""
        if any(fact.is_document for fact in context.facts):
            return (
                f"no passage of these documents has {FEWEST} values of the same kind to stand "
                "among; give more rows, or columns value and kind"
            )
        return (
            f"no fact has {FEWEST} answers of the same kind to stand among; give more rows, "
            "or columns value and kind"
        )

    def list_ranked(self, context: AuditContext) -> list[tuple[Fact, Candidates]]:
        """List the facts that are ranked, each with what it is ranked among."""
        ranked = []
        for fact, candidates in zip(context.facts, context.candidates, strict=True):
            if candidates.are_enough and (fact.has_stem or not fact.is_document):
                ranked.append((fact, candidates))
        return ranked

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []
        for fact, candidates in self.list_ranked(context):
            continuations = []
            for value, answer in zip(candidates.values, candidates.answers, strict=True):
                words = fact.answer_up_to(value) if self.over == "value" else answer
                continuations.append(context.encode_answer(fact, words))
            probes.append(RankProbe(fact.index, context.ask(fact), tuple(continuations)))
        return probes
