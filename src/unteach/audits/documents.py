"""Documents cut into what can be asked: an opening that is given, and how the text goes on.

Lengths are in words, so that the same text is cut alike for every model. In a script without spaces
a character counts as a word.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Scripts that put no space between words."""
WORD = re.compile(rf"{UNSPACED.pattern}|[^\s{UNSPACED.pattern[1:-1]}]+")
OPENING_WORDS, CONTINUATION_WORDS = 32, 32
"""Words that are given, and words that are asked for, at most."""
FEWEST_WORDS = 4
"""Words of an opening, and of a continuation, that can be asked for at all."""
MOST_PASSAGES = 4
"""Passages of one document, where nobody says how many."""


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    Attributes:
        opening: what the model is given, without the white space at its end.
        gap: that white space.
        continuation: how the text goes on.
        value: what of the continuation makes it true; all of it where no column says less.
        kind: of the value.
    """

    opening: str
    gap: str
    continuation: str
    value: str
    kind: str = ""


def is_askable(opening: str, continuation: str) -> bool:
    """Whether a passage is long enough to be asked for.

    Args:
        continuation: what must come out; "" where that is a value alone.
    """
    num_given, num_asked = len(WORD.findall(opening)), len(WORD.findall(continuation))
    return num_given >= FEWEST_WORDS and (not continuation or num_asked >= FEWEST_WORDS)


def cut_document(
    text: str, values: Sequence[tuple[str, str]] = (), most: int = MOST_PASSAGES
) -> list[Passage]:
    """Cut a document into passages: before each of its values, or spread over it where it has none.

    Args:
        text: of at least one word.
        values: what the text must hold to be true, each with its kind. One that is not in the text,
            or that its opening says already, is passed over.
        most: passages at most.
    """
    passages: list[Passage] = []
    for value, kind in values:
        passage = _cut_before_value(text, value, kind)
        if passage is not None and len(passages) < most:
            passages.append(passage)
    return passages or _spread_passages(text, most)


def _cut_before_value(text: str, value: str, kind: str) -> Passage | None:
    """Cut a document before the first place where a value is asked for and not given."""
    words = list(WORD.finditer(text))
    for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text):
        before = [word for word in words if word.end() <= match.start()]
        after = [word for word in words if word.end() > match.end()]
        cut = match.start()
        if not after and before:
            # A value is a part of what follows: at the end of a text a word stands before it.
            cut = before.pop().start()
        if len(before) < FEWEST_WORDS:
            continue
        opening = text[before[-OPENING_WORDS:][0].start() : cut]
        if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", opening):
            continue
        stop = after[: CONTINUATION_WORDS // 2][-1].end() if after else match.end()
        return _build_passage(opening, text[cut:stop], value, kind)
    return None


def _spread_passages(text: str, most: int) -> list[Passage]:
    """Cut passages that share no word, as far apart as the text allows; half of each is given."""
    words = list(WORD.finditer(text))
    longest = OPENING_WORDS + CONTINUATION_WORDS
    count = max(1, min(most, len(words) // longest))
    passages = []
    for number in range(count):
        first = number * len(words) // count
        chosen = words[first : min(first + longest, (number + 1) * len(words) // count)]
        cut = chosen[len(chosen) // 2].start()
        opening = text[chosen[0].start() : cut]
        continuation = text[cut : chosen[-1].end()]
        passages.append(_build_passage(opening, continuation, continuation))
    return passages


def _build_passage(opening: str, continuation: str, value: str, kind: str = "") -> Passage:
    bare = opening.rstrip()
    return Passage(bare, opening[len(bare) :], continuation, value, kind)
