"""Twenty real runs through `unteach study submit`, one cancelled and one preempted on their way."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.studies import twenty
from unteach import json_files, run_dir
from unteach.studies import slurm, states
from unteach.studies.study_file import Study, read_study

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3000)]


def unteach(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "unteach", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait(study: Study, patience: int, *names: str, state: str = "done") -> None:
    end, hurried = time.monotonic() + patience, set()
    while time.monotonic() < end:
        found = slurm.read_standings(study)
        if all(found[name].state == state for name in names):
            return
        again = {
            one.job for one in found.values() if one.state == "queued" and one.reason == "BeginTime"
        }
        for job in again - hurried:
            subprocess.run(
                ["scontrol", "update", f"JobId={job}", "StartTime=now+5"],
                capture_output=True,
                check=False,
            )
        hurried = again
        time.sleep(4)
    pytest.fail(f"never came: {slurm.read_standings(study)}")


def test_twenty_runs(
    cluster: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = twenty.write(tmp_path, tiny_folder, steps=40)
    words = [*twenty.WORDS, "slurm.time=60", "slurm.grace=60", "slurm.throttle=2"]
    study = read_study(str(file), words)
    assert "submitted 20 of 20 runs" in unteach("study", "submit", str(file), *words)
    wait(study, 600, "full_seed0", state="running")
    metrics = Path(study.folder) / "full_seed0" / run_dir.METRICS
    while not metrics.exists():
        time.sleep(0.5)
    subprocess.run(
        ["sbatch", "--partition=urgent", "--exclusive", "--wrap", "true", "-o", "/dev/null"],
        check=True,
    )  # preempts
    wait(study, 1200, "full_seed0", "GradAscent_seed0")
    assert (
        json_files.read_json(Path(study.folder) / "full_seed0" / run_dir.MANIFEST, "manifest")[
            "resumed_at"
        ]
        > 0
    )
    assert "cancelled: NPO_beta0.1_seed1" in unteach("study", "cancel", "twenty/NPO_beta0.1_seed1")
    others = [run.name for run in study.plan if run.name != "NPO_beta0.1_seed1"]
    wait(study, 2400, *others)
    assert "20 runs: 19 done" in unteach("study", "status", "twenty")
    assert "submitted 1 of 20 runs" in unteach("study", "submit", str(file), *words)
    wait(study, 600, "NPO_beta0.1_seed1")
    assert {one.state for one in states.read_standings(study.plan).values()} == {"done"}
    assert "report:" in unteach("study", "report", "twenty")
    assert (study.folder / "report.html").exists()
