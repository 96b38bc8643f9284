"""The package as users install it, from a clone and as a wheel, in an empty environment: the demo
runs there."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]


def run(*words: object, cwd: Path) -> str:
    """A command's output, in an environment that knows nothing of the one this test runs in."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.startswith("PYTEST")
    }
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What is committed, without this checkout's build folders."""
    run("git", "clone", "--quiet", "--no-local", ROOT, tmp_path / "clone", cwd=tmp_path)
    return tmp_path / "clone"


@pytest.mark.parametrize("way", ["pip install .[report]", "a wheel"])
def test_the_demo_runs_where_it_is_installed(way: str, clone: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet")
    torch = next(
        line
        for line in (clone / "requirements.lock").read_text().splitlines()
        if line.startswith("torch==")
    )
    run(*pip, torch, cwd=tmp_path)
    if way == "a wheel":
        run(
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            tmp_path,
            clone,
            cwd=tmp_path,
        )
        (wheel,) = tmp_path.glob("unteach-*.whl")
        run(*pip, "-c", clone / "requirements.lock", f"{wheel}[report]", cwd=tmp_path)
    else:
        run(*pip, ".[report]", cwd=clone)  # with whatever releases are the newest today
    place = tmp_path / "elsewhere"
    place.mkdir()
    run(python.parent / "unteach", "demo", cwd=place)
    assert (place / "saves" / "demo" / "report.html").exists()
    tools = run(python, "-m", "pip", "list", "--format=freeze", cwd=place)
    assert "pytest==" not in tools and "mypy==" not in tools
