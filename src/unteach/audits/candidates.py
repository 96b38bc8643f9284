"""What could stand in the place of a fact's value: values of the same kind, the true one first.

Whatever is measured of the true one is measured of the others too. Of a model that never saw the
fact, each of them is as likely to come out as any other: that is what chance looks like.
"""

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unteach.audits.documents import UNSPACED
from unteach.audits.facts import NAME, Fact
from unteach.seeds import derive_seed

FEWEST, MOST = 8, 32
"""How many candidates a rank is among."""
WORD = re.compile(r"\w+")
EDGES = ".,;:!?\"'()[]{}«»“”‘’…、。，！？"
"""What stands at the ends of words and is no part of them."""


@dataclass(frozen=True)
class Candidates:
    """The true value of a fact, and wrong ones.

    Attributes:
        values: the true one first.
        answers: the fact's answer with each of them.
        source: by what the wrong ones are of the same kind: `kind`, `question` or `rows`.
        weights: how many rows of that kind have each of the values: a value that most rows have is
            likely without knowing the fact.
        are_alike: whether a model that never saw the fact has no reason to prefer one: values of
            one kind or question, in the same words. Whole answers, and values of any kind, may be
            told apart by other things than being true.
    """

    values: tuple[str, ...]
    answers: tuple[str, ...]
    source: str
    weights: tuple[int, ...] = ()
    are_alike: bool = False

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
    others = [other for other in members if _can_stand_in(other, fact)]
    counts = Counter(normalize(other.value) for other in others)
    values: dict[str, str] = {normalize(fact.value): fact.value}
    rng = random.Random(derive_seed(seed, "candidates", fact.index))
    for other in rng.sample(others, len(others)):
        if len(values) == MOST:
            break
        name = normalize(other.value)
        # One that holds another would come out with it, and one that is given is copied.
        overlaps = any(holds(name, known) or holds(known, name) for known in values)
        is_given = holds(fact.given, other.value)
        if name and not overlaps and not is_given:
            values[name] = other.value
    texts = tuple(values.values())
    return Candidates(
        values=texts,
        answers=tuple(fact.answer_with(value) for value in texts),
        source=source,
        weights=tuple(max(counts[name], 1) for name in values),
        are_alike=fact.has_stem and source != "rows",
    )


def _can_stand_in(other: Fact, fact: Fact) -> bool:
    """Whether a fact's value may stand in another's place; a whole answer in that of its like."""
    if other.has_stem != fact.has_stem:
        return False
    return fact.has_stem or other.is_document == fact.is_document


@functools.lru_cache(maxsize=1 << 14)
def normalize(text: str) -> str:
    """Write a text without case, double spaces and what stands round its words."""
    words = []
    for word in text.lower().replace("\u2019", "'").split():
        bare = word.strip(EDGES).removesuffix("'s")
        if bare:
            words.append(bare)
    return " ".join(words)


def holds(text: str, value: str) -> bool:
    """Whether a text holds the words of a value, one after the other; in scripts without spaces,
    its characters."""
    words = normalize(value)
    if UNSPACED.search(value):
        return words.replace(" ", "") in normalize(text).replace(" ", "")
    return f" {words} " in f" {normalize(text)} "


def gives_away(fact: Fact, other: Fact) -> bool:
    """Whether another row, shown with its answer, says what is asked."""
    return normalize(other.question) == normalize(fact.question) or holds(other.answer, fact.value)
