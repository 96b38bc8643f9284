"""A study of twenty real runs, killed with everything in it at random moments, and continued."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.studies import twenty
from unteach import json_files, run_dir
from unteach.studies import slurm
from unteach.studies.study_file import read_study


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_twenty_runs_killed_and_continued(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = twenty.write(tmp_path, tiny_folder, steps=8)
    command = [sys.executable, "-m", "unteach", "study", "run", str(file), "jobs=2", *twenty.WORDS]
    study = read_study(str(file), twenty.WORDS)
    assert len(study.plan) == 20
    at = random.Random(os.urandom(8))
    finished: dict[str, int] = {}
    for _ in range(3):
        begun = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        goal = min(len(finished) + at.randint(1, 6), 20)
        while (
            begun.poll() is None
            and sum(run_dir.is_done(Path(run.folder)) for run in study.plan) < goal
        ):
            time.sleep(at.random())
        os.killpg(begun.pid, signal.SIGKILL)
        begun.wait()
        for name, when in finished.items():
            assert (study.folder / name / run_dir.DONE).stat().st_mtime_ns == when, (
                f"{name} was done, and was done again"
            )
        finished |= {
            run.name: (Path(run.folder) / run_dir.DONE).stat().st_mtime_ns
            for run in study.plan
            if run_dir.is_done(Path(run.folder))
        }
        # the kernel takes a moment to end all of them
        states, deadline = {"running"}, time.monotonic() + 10
        while "running" in states and time.monotonic() < deadline:
            states = {one.state for one in slurm.read_standings(study).values()}
        assert states <= {"done", "stopped", "to do"}
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stdout + last.stderr
    assert {one.state for one in slurm.read_standings(study).values()} == {"done"}
    assert all(run.name in last.stdout for run in study.plan if run.kind == "forget"), (
        "all are in the table"
    )
    summary = json_files.read_json(
        study.folder / "twice_seed1" / "evals" / "TOFU_SUMMARY.json", "summary"
    )
    assert 0 < summary["forget_Q_A_Prob"] < 1
