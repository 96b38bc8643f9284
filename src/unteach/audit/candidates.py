"""What could stand in the place of a fact's value: values of the same kind, the true one first.

Whatever is measured of the true one is measured of the others too. Of a model that never saw the
fact, each of them is as likely to come out as any other: that is what chance looks like.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unteach.audit.facts import NAME, Fact
from unteach.seeds import derive_seed

FEWEST, MOST = 8, 32
"""How many candidates a rank is among."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Candidates:
    """The true value of a fact, and wrong ones.

    Attributes:
        values: the true one first.
        answers: the fact's answer with each of them.
        source: by what the wrong ones are of the same kind: `kind`, `question` or `rows`.
    """

    values: tuple[str, ...]
    answers: tuple[str, ...]
    source: str

    @property
    def are_enough(self) -> bool:
        """Whether a rank among them says something."""
        return len(self.values) >= FEWEST


def draw_candidates(facts: Sequence[Fact], others: Sequence[Fact], seed: int) -> list[Candidates]:
    """Draw the candidates of each fact: of its kind, else of its question's type, else of all rows.

    Args:
        facts: those that are audited.
        others: more facts whose values may stand in: rows that are kept.
        seed: by which more than MOST are thinned out.
    """
    pool = [*facts, *others]
    by_kind = _group(pool, lambda fact: fact.kind)
    by_question = _group(pool, lambda fact: describe_type(fact.question))
    drawn = []
    for fact in facts:
        groups = {
            "kind": by_kind.get(fact.kind, []) if fact.kind else [],
            "question": by_question[describe_type(fact.question)],
            "rows": pool,
        }
        candidates = Candidates((), (), "")
        for source, members in groups.items():
            candidates = _draw(fact, members, source, seed)
            if candidates.are_enough:
                break
        drawn.append(candidates)
    return drawn


def describe_type(question: str) -> str:
    """Describe what a question asks for: its words without names, titles and numbers."""
    words = WORD.findall(NAME.sub(" ", question))
    kept = [words[0].lower()] if words else []
    kept += [word for word in words[1:] if word.islower()]
    return " ".join(kept)


def _group(facts: Sequence[Fact], key: Callable[[Fact], str]) -> dict[str, list[Fact]]:
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(key(fact), []).append(fact)
    return groups


def _draw(fact: Fact, members: Sequence[Fact], source: str, seed: int) -> Candidates:
    """Draw wrong values from the members of one group; whole answers where a value is one."""
    values: dict[str, str] = {normalize(fact.value): fact.value}
    rng = random.Random(derive_seed(seed, "candidates", fact.index))
    for other in rng.sample(list(members), len(members)):
        value = other.value if fact.has_stem == other.has_stem else ""
        name = normalize(value)
        # One that holds another would come out with it.
        overlaps = any(name in known or known in name for known in values)
        if name and not overlaps and len(values) < MOST:
            values[name] = value
    texts = tuple(values.values())
    return Candidates(texts, tuple(fact.answer_with(value) for value in texts), source)


def normalize(text: str) -> str:
    """Write a text without case, punctuation and double spaces."""
    return " ".join(WORD.findall(text.lower()))
