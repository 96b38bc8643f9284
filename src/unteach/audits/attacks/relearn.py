"""A short training, after which the model is asked again: what was only hidden comes back sooner
than what was never there can be learned."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from unteach.audits.attacks.base import AuditContext, TrainingAttack
from unteach.audits.facts import Fact
from unteach.audits.lessons import Lesson, OwnTexts, Rows
from unteach.audits.taught_rows import describe_row, group_by_row, learns_last_alone
from unteach.errors import UserError
from unteach.registry import attack
from unteach.seeds import derive_seed
from unteach.wording import format_count

COST = "a LoRA training for each rate, as long as the last look, and `measured` at each look"


@dataclass
class LoraTraining(TrainingAttack):
    """The trainings that both forms of relearning make."""

    learning_rates: list[float] = field(
        default_factory=lambda: [2e-5, 1e-4, 5e-4], metadata={"help": "each is tried"}
    )
    looks: list[int] = field(
        default_factory=lambda: [10, 20, 40],
        metadata={"help": "after how many steps of each training the model is asked"},
    )
    batch_size: int = field(default=8, metadata={"help": "rows of a step"})
    r: int = field(default=16, metadata={"help": "rank of the LoRA"})
    measured: list[str] = field(
        default_factory=lambda: ["rank"], metadata={"help": "the attacks that ask"}
    )

    def __post_init__(self) -> None:
        if not self.looks or min(self.looks) < 1:
            raise UserError(f"looks must name steps, each 1 or more, got {self.looks}")
        if len(set(self.looks)) < len(self.looks):
            raise UserError(f"looks must name each step once, got {self.looks}")

    def choose_taught(self, context: AuditContext) -> list[Fact] | OwnTexts:
        """Choose what is taught: rows, or what the model writes."""
        raise NotImplementedError

    def write_lessons(self, context: AuditContext) -> list[Lesson]:
        taught = self.choose_taught(context)
        turns: Literal["all", "last"] = "all"
        if isinstance(taught, OwnTexts):
            rows: Rows = taught
        else:
            rows = tuple(describe_row(facts) for facts in group_by_row(taught))
            turns = "last" if learns_last_alone(taught) else "all"
        looks = tuple(self.looks)
        lessons = []
        for rate in self.learning_rates:
            lessons.append(Lesson(rows, rate, looks, self.batch_size, self.r, context.seed, turns))
        return lessons


@attack("relearn", cost=COST)
@dataclass
class Relearn(LoraTraining):
    """Teach one half of the facts, and ask for the other. The halves are of entities where facts
    share one, else of rows: of documents, and of chats, that are taught whole. Source:
    arXiv:2406.13356, arXiv:2410.08827."""

    def find_fault(self, context: AuditContext) -> str:
        num_rows = len(group_by_row(context.audited))
        return "one row has no halves" if num_rows < 2 else ""

    def choose_taught(self, context: AuditContext) -> list[Fact]:
        return split_facts(context.audited, context.seed)[0]

    def describe_taught(self, context: AuditContext) -> str:
        num_taught = format_count(len(self.choose_taught(context)), "fact")
        return f"{num_taught} of {len(context.audited):,}"

    def list_asked(self, context: AuditContext) -> list[Fact]:
        return [*split_facts(context.audited, context.seed)[1], *context.never_seen]


@attack("relearn_benign", cost=COST)
@dataclass
class RelearnBenign(LoraTraining):
    """Teach rows that the model was to keep, none of what was to be forgotten, and ask for all
    facts. Where there are no such rows, each model is taught what it writes itself: its samples at
    temperature 1, after openings of no subject where it chats, else from their first word. The
    original and the retain model write their own too: what this brings out of a model, it brings
    out with nothing but the model. Source: benign relearning, arXiv:2406.13356."""

    max_rows: int = field(default=200, metadata={"help": "rows, or texts, that are taught at most"})
    max_tokens: int = field(
        default=64, metadata={"help": "of a text that the model writes itself, at most"}
    )

    def choose_taught(self, context: AuditContext) -> list[Fact] | OwnTexts:
        if not context.retain:
            return OwnTexts(self.max_rows, self.max_tokens)
        rng = random.Random(derive_seed(context.seed, "benign rows"))
        rows = group_by_row(context.retain)
        drawn = rng.sample(rows, min(self.max_rows, len(rows)))
        return [fact for facts in drawn for fact in facts]

    def describe_taught(self, context: AuditContext) -> str:
        taught = self.choose_taught(context)
        if isinstance(taught, OwnTexts):
            return f"{format_count(taught.count, 'text')} that each model wrote itself"
        return f"{format_count(len(group_by_row(taught)), 'row')} to retain"

    def list_asked(self, context: AuditContext) -> list[Fact]:
        return list(context.facts)


def split_facts(facts: Sequence[Fact], seed: int) -> tuple[list[Fact], list[Fact]]:
    """Split facts into halves: by entity where there are two or more, else by row."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.group, []).append(fact)
    if len(groups) < 2:
        groups = {str(own[0].index): own for own in group_by_row(facts)}
    names = sorted(groups)
    random.Random(derive_seed(seed, "halves")).shuffle(names)
    taught: list[Fact] = []
    asked: list[Fact] = []
    # The next entity goes to the smaller half.
    for name in sorted(names, key=lambda name: -len(groups[name])):
        half = taught if len(taught) < len(asked) else asked
        half += groups[name]
    return sorted(taught, key=lambda fact: fact.index), sorted(asked, key=lambda fact: fact.index)
