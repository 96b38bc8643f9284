"""The site's search in a few lines: what a page's sections are, and how they rank for some words.

The site asks lunr: BM25 over titles and texts, a word also finding those that begin with it, and
titles counting a thousand times as much. Its own index is read where `make docs` has written it;
without it the sections are cut out of the Markdown in the same way.
"""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
INDEX = ROOT / "site" / "search" / "search_index.json"
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LISTS = ("reference", "api", "architectures", "changelog", "measurements/", "decisions/", "coming-")
TITLE_BOOST, LIST_BOOST = 1000.0, 0.01
STOP_WORDS = {
    "the",
    "are",
    "where",
    "how",
    "what",
    "does",
    "do",
    "my",
    "a",
    "can",
    "of",
    "on",
    "no",
}


@dataclass(frozen=True)
class Section:
    """One entry of the index: `page.md`, or `page.md#anchor`, with its words."""

    location: str
    title: list[str]
    text: list[str]
    boost: float = 1.0

    @property
    def page(self) -> str:
        return self.location.partition("#")[0]


def split_words(text: str) -> list[str]:
    """Split a text as the separator in mkdocs.yml does; a plural and its singular are one."""
    words = re.split(r"[\s\-,:!=\[\]()\"`/<>|*?]+|\.(?!\d)", text.lower())
    return [word.removesuffix("s") for word in words if word and word not in STOP_WORDS]


def slugify(heading: str) -> str:
    """Write a heading as the anchor that a code host and the site give it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def cut_pages() -> Iterator[Section]:
    """Cut the Markdown of every page into sections at its headings."""
    for file in sorted(DOCS.rglob("*.md")):
        page = file.relative_to(DOCS).as_posix()
        markdown = file.read_text(encoding="utf-8")
        code = iter(FENCE.findall(markdown))
        # Comments in code begin as headings do.
        parts = re.split(r"^(#+ .+)$", FENCE.sub("\0", markdown), flags=re.MULTILINE)
        for heading, text in zip(parts[1::2], parts[2::2], strict=True):
            level, _, title = heading.partition(" ")
            location = page if level == "#" else f"{page}#{slugify(title)}"
            blocks = " ".join(itertools.islice(code, text.count("\0")))
            words = split_words(f"{text} {blocks}")
            yield Section(location, split_words(title), words, find_boost(page))


def read_index() -> Iterator[Section]:
    """Read the sections of the site's own index."""
    for entry in json.loads(INDEX.read_text(encoding="utf-8"))["docs"]:
        page, _, anchor = entry["location"].partition("#")
        page = re.sub(r"\.html$", ".md", page)
        text = re.sub(r"<[^>]+>", " ", entry["text"])
        location = f"{page}#{anchor}" if anchor else page
        yield Section(location, split_words(entry["title"]), split_words(text), find_boost(page))


def find_boost(page: str) -> float:
    """Give pages that list less weight, as docs/site_hooks.py does."""
    return LIST_BOOST if page.startswith(LISTS) else 1.0


class Index:
    """The words of all sections, to be asked which sections some words are about."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self.sections = list(sections)
        self.titles = Field([section.title for section in self.sections])
        self.texts = Field([section.text for section in self.sections])

    def rank(self, words: str) -> list[Section]:
        """Rank the sections that have some of the words, the best first."""
        scores: Counter[int] = Counter()
        for field, boost in ((self.titles, TITLE_BOOST), (self.texts, 1.0)):
            for word in split_words(words):
                for place, score in field.score(word):
                    scores[place] += boost * score * self.sections[place].boost
        return [self.sections[place] for place, _ in scores.most_common()]

    def rank_pages(self, words: str) -> list[str]:
        """Rank pages by the best of their sections."""
        return list(dict.fromkeys(section.page for section in self.rank(words)))


class Field:
    """The titles, or the texts, of all sections."""

    def __init__(self, words: list[list[str]]) -> None:
        self.counts = [Counter(one) for one in words]
        self.lengths = [len(one) for one in words]
        self.average = sum(self.lengths) / len(self.lengths)

    def score(self, word: str) -> Iterator[tuple[int, float]]:
        """Give BM25 of each section for a word, which stands for those that begin with it too."""
        frequencies = {}
        for place, counts in enumerate(self.counts):
            if found := sum(n for other, n in counts.items() if other.startswith(word)):
                frequencies[place] = found
        absent = len(self.counts) - len(frequencies)
        rarity = math.log(1 + (absent + 0.5) / (len(frequencies) + 0.5))
        for place, frequency in frequencies.items():
            length = 0.25 + 0.75 * self.lengths[place] / self.average
            yield place, rarity * 2.2 * frequency / (1.2 * length + frequency)
