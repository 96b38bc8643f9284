"""The files that a host of repositories reads: they parse, and what they run is there to be run."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from unteach import cli

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
YAML = [*WORKFLOWS, *FORMS, GITHUB / "dependabot.yml", ROOT / "CITATION.cff"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def read(file: Path) -> dict[Any, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def list_steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in read(workflow)["jobs"].values():
        yield from job["steps"]


def exists(line: str) -> bool:
    """Whether the command of a line is one that a checkout has."""
    command, *words = shlex.split(line)
    if command == "make":
        return bool(words) and all(word in TARGETS for word in words if "=" not in word)
    if command == ".venv/bin/unteach":
        return words[0] in cli.VERBS
    return False


@pytest.mark.parametrize("file", YAML, ids=lambda file: file.name)
def test_the_file_parses(file: Path) -> None:
    assert read(file)


def test_workflows_check_test_and_try_the_lowest_versions() -> None:
    commands = {
        line for file in WORKFLOWS for step in list_steps(file) for line in [step.get("run")]
    }
    assert {"make check", "make test", "make test-lowest"} <= commands


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_every_step_runs_something_that_is_there(workflow: Path) -> None:
    for step in list_steps(workflow):
        assert ("run" in step) != ("uses" in step)
        missing = [line for line in step.get("run", "").splitlines() if not exists(line)]
        assert not missing
        # An action is pinned to a version, which dependabot keeps new.
        assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


@pytest.mark.parametrize("line", ["make chekc", "make", "pytest", ".venv/bin/unteach enviroment"])
def test_a_step_that_is_not_there_would_be_found(line: str) -> None:
    assert not exists(line)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_says_what_was_run_by_hand(workflow: Path) -> None:
    header = workflow.read_text(encoding="utf-8").partition("\nname:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "by hand" in header.lower() and "runner" in header


def test_the_tests_run_on_every_python_from_the_least_on() -> None:
    (job,) = read(GITHUB / "workflows" / "test.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert f">={versions[0]}" == PROJECT["requires-python"]
    assert versions == ["3.11", "3.12", "3.13"]


def test_a_bug_comes_with_the_output_of_unteach_env() -> None:
    fields = {field["id"]: field for field in read(GITHUB / "ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "unteach env" in fields["env"]["attributes"]["label"]
    assert fields["env"]["validations"]["required"]


def test_who_cites_names_the_project_as_it_names_itself() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["title"] == PROJECT["name"]
    assert citation["abstract"] == PROJECT["description"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert "version" not in citation, "src/unteach/__init__.py has it"
