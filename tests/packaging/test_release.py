"""What a release says of itself: one version, in one place, with a dated section in the changelog."""

import re
import tomllib
from pathlib import Path

import unteach

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_stands_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in settings["project"] and settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "unteach.__version__"}
    # setuptools reads a literal; what it would have to import, it could not build.
    source = (ROOT / "src/unteach/__init__.py").read_text(encoding="utf-8")
    assert re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"$', source, re.M) == [unteach.__version__]


def test_the_version_has_a_dated_section_in_the_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(unteach.__version__)} \(\d{{4}}-\d\d-\d\d\)$", text, re.M)
