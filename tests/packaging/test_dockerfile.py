"""The Dockerfile, read as text: what it copies is there and let through, and its steps are shell."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"^#.*\n", "", TEXT, flags=re.M).replace("\\\n", " ").splitlines()
    if line.strip()
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def list_arguments(instruction: str) -> list[str]:
    return [arguments for name, arguments in INSTRUCTIONS if name == instruction]


def test_its_base_is_a_build_argument() -> None:
    names = [name for name, _ in INSTRUCTIONS]
    assert names[:2] == ["ARG", "FROM"]
    assert list_arguments("FROM") == ["${BASE}"]
    (base,) = re.findall(r"^BASE=python:([\d.]+)-slim$", list_arguments("ARG")[0])
    assert PROJECT["requires-python"] == f">={base}"
    known = {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "USER", "ENTRYPOINT"}
    assert set(names) <= known


def test_what_it_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    for line in list_arguments("COPY"):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
            assert f"!{name}" in ignored
    # What builds the package is copied: its own file, and the files that this names.
    copied = " ".join(list_arguments("COPY")).split()
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)


@pytest.mark.skipif(not shutil.which("sh"), reason="no shell")
def test_its_steps_are_shell() -> None:
    for line in list_arguments("RUN"):
        done = subprocess.run(["sh", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_it_starts_a_command_of_ours_by_no_root() -> None:
    (entry,) = list_arguments("ENTRYPOINT")
    assert entry in [f'["{name}"]' for name in PROJECT["scripts"]]
    assert list_arguments("USER") == ["1000"]
