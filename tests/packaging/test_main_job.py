"""`pip install .` alone is enough for the main job: no module of an extra is needed by it."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unteach import errors
from unteach.cli import main
from unteach.errors import UserError
from unteach.inference.backends.openai import OpenAI

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "dev"}

CHILD = """
import importlib, json, pkgutil, sys
blocked, not_ours, command = map(json.loads, sys.argv[1:4])
for name in blocked:
    sys.modules[name] = None
import unteach
for module in pkgutil.walk_packages(unteach.__path__, "unteach."):
    if module.name not in not_ours:
        importlib.import_module(module.name)
from unteach.cli import main
main(["check", *command])
main(["train", *command])
"""


def closure(names: list[str]) -> Iterator[str]:
    """Yield what these requirements install, and what that needs, as far as it is installed."""
    waiting, known = list(names), set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in known or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        known.add(name)
        yield name
        try:
            waiting += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue


def modules_of_extras() -> list[str]:
    """List the modules that a plain install does not have."""
    plain = set(closure(PROJECT["dependencies"]))
    lines = [line for extra in EXTRAS.values() for line in extra]
    extra = {canonicalize_name(Requirement(line).name) for line in lines} - plain
    extra |= {"pillow"}  # comes with matplotlib as well
    modules = set()
    for module, owners in metadata.packages_distributions().items():
        if {canonicalize_name(owner) for owner in owners} <= extra:
            modules.add(module)
    return sorted(modules)


@pytest.mark.timeout(900)  # it imports everything, in a process of its own
def test_the_main_job_needs_no_extra(tiny_folder: Path, tmp_path: Path) -> None:
    blocked = modules_of_extras()
    assert {"matplotlib", "PIL", "submitit", "lm_eval"} <= set(blocked)
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\nWho?,She.\nWhy?,So.\n")
    command = [f"model={tiny_folder}", f"data={rows}", "trainer.args.max_steps=1", "task_name=one"]
    not_ours = ["unteach.__main__", "unteach.evals.lm_eval.model"]
    words = [json.dumps(part) for part in (blocked, not_ours, command)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "saves" / "train" / "one"
    assert (folder / "final_checkpoint" / "model.safetensors").exists()
    # What is left out for want of a package is said, with the command that mends it.
    assert not (folder / "loss.png").exists()
    assert "loss.png is left out; drawing it needs" in done.stderr
    assert 'pip install ".[report]"' in done.stderr


OF_LONG_TESTS = ("quant",)


@pytest.mark.parametrize("extra", sorted(errors.EXTRA_MODULES))
def test_an_extra_brings_the_modules_that_it_is_asked_for(extra: str) -> None:
    homes = metadata.packages_distributions()
    if extra in OF_LONG_TESTS and homes.keys().isdisjoint(errors.EXTRA_MODULES[extra]):
        pytest.skip(f"the extra {extra} is installed for test-long alone")
    brought = {canonicalize_name(Requirement(line).name) for line in EXTRAS[extra]}
    for module in errors.EXTRA_MODULES[extra]:
        assert {canonicalize_name(owner) for owner in homes[module]} & brought


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "has_extra", lambda extra: False)


def refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is a mistake, and return what it says."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == errors.EXIT_MISTAKE
    return capsys.readouterr().err


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(
    "words", [["report", "no run"], ["demo"], ["study", "run", "demo"]], ids=" ".join
)
def test_what_draws_is_refused_before_any_work(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refuse(words, capsys)
    assert "the page of a report needs" in message and 'pip install ".[report]"' in message
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without")
def test_images_are_refused_before_anything_is_loaded(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "seen.csv"
    table.write_text("input,image\nWhat?,no.png\n")
    words = ["infer", f"model={tiny_folder}", f"input_file={table}", "modality=vlm"]
    message = refuse(words, capsys)
    assert "modality=vlm needs" in message and 'pip install ".[vision]"' in message
    assert list(tmp_path.iterdir()) == [table]


@pytest.mark.usefixtures("without")
def test_a_server_is_refused_before_it_is_asked() -> None:
    with pytest.raises(UserError, match=r'backend=openai .* pip install "\.\[openai\]"'):
        OpenAI("http://localhost:9/v1").check()
