"""The site that `make docs` builds: every page is in its menu, every name of its Python reference
is there, it fetches nothing, and a newcomer's words find the page with the answer.

`make docs` itself is strict: a link or an anchor that leads nowhere ends it.
"""

import functools
import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs import site_search
from tests.docs.site_search import DOCS, INDEX, ROOT, Index

QUESTIONS = json.loads(Path(__file__).with_name("first_hour_questions.json").read_text())
BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages of the site that are not in docs/; those of benchmarks/results/ are in measurements/."""


def is_built() -> bool:
    """Say whether `make docs` wrote the site of the pages as they are."""
    sources = [ROOT / "mkdocs.yml", *DOCS.rglob("*.*")]
    return INDEX.exists() and INDEX.stat().st_mtime >= max(file.stat().st_mtime for file in sources)


needs_site = pytest.mark.skipif(not is_built(), reason="make docs was not run since a page changed")


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without the functions that it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def list_targets(menu: object) -> list[str]:
    """List the pages of a menu, its submenus included."""
    if isinstance(menu, str):
        return [menu]
    entries = menu.values() if isinstance(menu, dict) else menu
    assert not isinstance(entries, int)
    return [page for entry in entries for page in list_targets(entry)]


def test_every_page_is_in_the_menu_once() -> None:
    pages = [file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.md")]
    results = (ROOT / "benchmarks" / "results").glob("*.md")
    pages += [*BESIDE.values(), *(f"measurements/{file.name}" for file in results)]
    assert sorted(list_targets(SITE["nav"])) == sorted(pages)


def test_every_name_of_the_python_reference_is_there() -> None:
    names = re.findall(r"^<!-- api: (.+) -->$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert len(names) > 40
    for name in names:
        module, _, member = name.rpartition(".")
        assert getattr(importlib.import_module(module), member).__doc__, name


def test_the_python_reference_has_all_that_the_package_offers() -> None:
    text = (DOCS / "api.md").read_text()
    for name in importlib.import_module("unteach").__all__:
        assert re.search(rf"<!-- api: unteach\.api(_forget)?\.{name} -->", text), name


def test_the_site_fetches_nothing() -> None:
    assert SITE["theme"]["font"] is False
    for asset in [*SITE["extra"]["polyfills"], *SITE["extra_css"]]:
        assert (DOCS / asset).is_file()
    assert "analytics" not in SITE["extra"] and "extra_javascript" not in SITE


@needs_site
def test_no_page_of_the_site_loads_from_elsewhere() -> None:
    for file in INDEX.parents[1].rglob("*.html"):
        page = file.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?:[^\s\">]+)", page
        )
        assert not loaded, f"{file.name}: {loaded}"


def test_what_builds_the_site_is_pinned() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    pins = (ROOT / "requirements-docs.lock").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in pins}
    assert {canonicalize_name(Requirement(line).name) for line in groups["docs"]} <= pinned


@functools.cache
def build_index(of: str) -> Index:
    return Index(site_search.read_index() if of == "site" else site_search.cut_pages())


def test_ten_questions_of_the_first_hour_are_asked() -> None:
    assert len(QUESTIONS) == 10
    locations = {section.location for section in build_index("pages").sections}
    assert {asked["page"] for asked in QUESTIONS} <= locations


@pytest.mark.parametrize("asked", QUESTIONS, ids=lambda asked: asked["words"])
@pytest.mark.parametrize("of", ["pages", pytest.param("site", marks=needs_site)])
def test_the_words_of_a_question_lead_to_its_page(asked: dict[str, str], of: str) -> None:
    index = build_index(of)
    page = asked["page"].partition("#")[0]
    assert page in index.rank_pages(asked["words"])[:3], asked["question"]
    # On its page, the section with the answer is among the first.
    there = [one.location for one in index.rank(asked["words"]) if one.page == page]
    assert asked["page"] in there[:3], asked["question"]
