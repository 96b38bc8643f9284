"""A real Slurm on this machine, and runs that cost nothing: they count steps, save, resume, and end
as they are told."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unteach.studies import slurm
from unteach.studies.plan import PlannedRun
from unteach.studies.settings import Slurm
from unteach.studies.study_file import Study

HERE = Path(__file__).parent
SCRIPT = HERE / "cluster.sh"
PATIENCE = 240


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """These tests install and start a Slurm, so they run only where they are asked for."""
    if "slurm" not in str(config.option.markexpr):
        for item in items:
            if item.get_closest_marker("slurm"):
                item.add_marker(
                    pytest.mark.skip(reason="needs a real Slurm, which `make test-slurm` starts")
                )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SLURM_CONF of a running cluster: one that UNTEACH_TEST_SLURM names, or one that is brought up
    for the session."""
    if (there := os.environ.get("UNTEACH_TEST_SLURM")) is not None:
        os.environ["SLURM_CONF"] = f"{there}/slurm.conf"
        yield Path(there)
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(
            "a Slurm is only brought up by root on Debian; UNTEACH_TEST_SLURM=FOLDER names one "
            "that runs"
        )
    folder = tmp_path_factory.mktemp("cluster")
    up = subprocess.run([SCRIPT, "up", folder], capture_output=True, text=True, check=False)
    if up.returncode:
        pytest.fail(f"the cluster did not start:\n{up.stdout}{up.stderr}")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run(["scancel", "-u", str(os.geteuid())], check=False)
    subprocess.run([SCRIPT, "down", folder], check=False)


class Lab:
    """A study of runs that do as <study>/behave.json says; they note their starts, ends and
    steps."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder / "saves" / "lab"
        self.folder.mkdir(parents=True)
        self.behave: dict[str, str] = {}
        monkeypatch.chdir(folder)
        monkeypatch.setattr(slurm, "build_command", self.command)

    def command(self, run: PlannedRun, own: Slurm) -> list[str]:
        return [sys.executable, str(HERE / "pretend.py"), run.name, run.folder]

    def study(self, runs: dict[str, tuple[str, ...]], **settings: object) -> Study:
        """Run -> the runs it waits for; its kind is the beginning of its name."""
        (self.folder / "behave.json").write_text(json.dumps(self.behave))
        plan = [
            PlannedRun(
                name,
                name.rstrip("0123456789").rstrip("_"),
                "train",
                (f"paths.output_dir=saves/lab/{name}",),
                after,
            )
            for name, after in runs.items()
        ]
        return Study("lab", plan, slurm=Slurm(time=5, grace=5, **settings))  # type: ignore[arg-type]

    def told(self, name: str, what: str) -> list[float]:
        """When a run started, ended or made a step."""
        file = self.folder / name / f"{what}.txt"
        return [float(line) for line in file.read_text().split()] if file.exists() else []

    def until(self, study: Study, condition: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """Waits for a condition on the states of the runs. Jobs that are queued again, which Slurm
        holds for two minutes, start after some seconds: it refuses them while their old job is
        being cleared away."""
        end, hurried = time.monotonic() + PATIENCE, set()
        while time.monotonic() < end:
            found = slurm.read_standings(study)
            states = {name: one.state for name, one in found.items()}
            if condition(states):
                return states
            again = {
                one.job
                for one in found.values()
                if one.state == "queued" and one.reason == "BeginTime"
            }
            for job in again - hurried:
                subprocess.run(
                    ["scontrol", "update", f"JobId={job}", "StartTime=now+5"],
                    capture_output=True,
                    check=False,
                )
            hurried = again
            time.sleep(0.5)
        pytest.fail(f"never came; {slurm.read_standings(study)}")

    def finish(self, study: Study) -> dict[str, str]:
        return self.until(study, lambda states: not {"queued", "running"} & set(states.values()))


@pytest.fixture
def lab(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    yield Lab(tmp_path, monkeypatch)
    subprocess.run(["scancel", "--signal=KILL", "-u", str(os.geteuid())], check=False)
    subprocess.run(["scancel", "-u", str(os.geteuid())], check=False)
