"""What a clone needs to work on another machine: locks of plain pins, no path of a machine, every
import declared."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from unteach.errors import describe_missing_extra

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

PIN = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,_-]+\])?==[A-Za-z0-9.!_]+( +--hash=sha256:[0-9a-f]{64})*"
)
MACHINE_PATH = re.compile(
    r"(?<![\w.${}~)/-])(?:/(?:work|root|home|tmp|Users|opt|mnt|srv|var|usr/local)/\w|[A-Z]:\\\w)"
)
ANY_MACHINE = ("/usr/local/cuda", "/var/lib/apt/lists")
"""Paths that are the same on every machine that has them."""


OF_AN_EXTRA = {"evals/lm_eval/model.py"}
"""Modules that are nothing without the package of an extra; whoever imports them does so in a
function."""


def name_of(line: str) -> str:
    return canonicalize_name(Requirement(line).name)


def pins(lock: Path) -> list[str]:
    return [
        line
        for line in lock.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]


def declared() -> set[str]:
    return {name_of(line) for line in PROJECT["dependencies"]}


def optional() -> set[str]:
    return {name_of(line) for extra in PROJECT["optional-dependencies"].values() for line in extra}


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def lines_that_name_a_machine(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if any(
            not line[found.start() :].startswith(ANY_MACHINE)
            for found in MACHINE_PATH.finditer(line)
        ):
            yield line.strip()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_names_and_nothing_else(lock: Path) -> None:
    strange = [line for line in pins(lock) if not PIN.fullmatch(line)]
    assert not strange, f"{lock.name}: not name==version (make lock writes it anew): {strange}"
    names = [name_of(line.partition(" --hash")[0]) for line in pins(lock)]
    assert sorted(set(names)) == sorted(names), f"{lock.name}: a package is pinned twice"
    assert "unteach" not in names


@pytest.mark.parametrize(
    "line",
    [
        "-e /somewhere/unteach",
        "unteach @ file:///somewhere",
        "-e git+https://x/y#egg=y",
        "./here",
        "torch>=2",
        "-r x.lock",
        "torch==2.13.0+cpu",
        "--index-url https://x",
        "torch==2.13.0 ; python_version > '3'",
    ],
)
def test_a_line_of_another_kind_would_be_found(line: str) -> None:
    assert not PIN.fullmatch(line)


def test_the_files_that_one_environment_is_made_of_do_not_overlap() -> None:
    layers = [ROOT / f"requirements{kind}.lock" for kind in ("", "-test", "-long")]
    names = [name_of(line) for lock in layers for line in pins(lock)]
    assert len(set(names)) == len(names)


def test_who_runs_the_demo_installs_no_tools_of_ours() -> None:
    names = {name_of(line) for line in pins(ROOT / "requirements.lock")}
    assert declared() <= names
    tools = {name_of(line) for line in PROJECT["optional-dependencies"]["dev"]}
    assert {"pytest", "mypy", "ruff"} <= tools and not tools & names


def test_the_lowest_versions_are_ones_that_are_allowed() -> None:
    versions = dict(line.split("==") for line in pins(ROOT / "requirements-lowest.lock"))
    versions = {canonicalize_name(name): version for name, version in versions.items()}
    newest = dict(line.split("==") for line in pins(ROOT / "requirements.lock"))
    newest = {canonicalize_name(name): version for name, version in newest.items()}
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(versions[name]), f"make lock-lowest: {line}"
        assert Version(versions[name]) <= Version(newest[name]), name


def test_no_tracked_file_names_a_path_of_a_machine() -> None:
    own = {str(ROOT), str(Path.home()), sys.prefix} - {"/", "/root"}
    found = []
    for file in tracked_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        if file == Path(__file__):
            continue
        lines = [
            *lines_that_name_a_machine(text),
            *(line for line in text.splitlines() if any(p in line for p in own)),
        ]
        found += [f"{file.relative_to(ROOT)}: {line}" for line in lines]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line", ["-e /work/main", "cache: '/home/me/x'", "path=/tmp/a.csv", r"C:\Users\me"]
)
def test_a_path_of_a_machine_would_be_found(line: str) -> None:
    assert list(lines_that_name_a_machine(line))


@pytest.mark.parametrize(
    "line",
    ["override /data/datasets@x: y", "#!/usr/bin/env bash", "https://x.org/home/y", "a/tmp/b"],
)
def test_what_every_machine_has_may_be_named(line: str) -> None:
    assert not list(lines_that_name_a_machine(line))


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """The top-level name of each import, and whether it happens as the module is imported."""
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (
            isinstance(outer, ast.If)
            and ast.unparse(outer.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        )
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in names:
            yield name.partition(".")[0], id(node) not in lazy


def test_every_package_that_is_imported_is_declared() -> None:
    homes = metadata.packages_distributions()
    undeclared, eager = set(), set()
    for file in (ROOT / "src").rglob("*.py"):
        for name, at_once in imports(ast.parse(file.read_text(encoding="utf-8"))):
            if name in sys.stdlib_module_names or name == "unteach":
                continue
            owners = {canonicalize_name(owner) for owner in homes.get(name, [name])}
            if not owners & (declared() | optional()):
                undeclared.add(f"{name} ({file.relative_to(ROOT)})")
            elif (
                at_once
                and not owners & declared()
                and str(file.relative_to(ROOT / "src/unteach")) not in OF_AN_EXTRA
            ):
                eager.add(f"{name} ({file.relative_to(ROOT)})")
    assert not undeclared, f"not in pyproject.toml: {sorted(undeclared)}"
    assert not eager, f"of an extra, and imported at a module's top: {sorted(eager)}"


def test_what_is_declared_is_used() -> None:
    """No dependency is left behind by code that is gone."""
    homes = metadata.packages_distributions()
    names = {
        name
        for f in (ROOT / "src").rglob("*.py")
        for name, _ in imports(ast.parse(f.read_text(encoding="utf-8")))
    }
    owners = {canonicalize_name(owner) for name in names for owner in homes.get(name, [name])}
    assert declared() <= owners


def test_extras_are_installed_from_a_clone() -> None:
    """Nothing of ours is on a package index, so no page or message sends users there for unteach's
    extras."""
    from_index = re.compile(r"unteach\s*\[[a-z-]+\]")
    extra = re.compile(r"pip install ['\"]?\.\[([a-z-]+)\]")
    found, named = [], set()
    for file in tracked_files():
        if file.suffix not in (".py", ".md", ".yaml", ".toml") and file.name != "Makefile":
            continue
        text = file.read_text(encoding="utf-8")
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in from_index.finditer(text)]
        named |= set(extra.findall(text))
    assert not found, found
    assert named and named <= set(PROJECT["optional-dependencies"])


def test_a_missing_extra_says_how_to_install_it() -> None:
    extras = {name for name in PROJECT["optional-dependencies"] if name != "dev"}
    for name in extras:
        assert f'pip install ".[{name}]"' in describe_missing_extra(name, "this")
    calls = set()
    for file in (ROOT / "src").rglob("*.py"):
        calls |= set(
            re.findall(r"missing_extra\(\s*\"([a-z-]+)\"", file.read_text(encoding="utf-8"))
        )
    assert calls and calls <= extras
