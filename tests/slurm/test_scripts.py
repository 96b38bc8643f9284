"""The scripts for people who submit by hand: as text, and submitted to a real Slurm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import HERE, Lab
from unteach.studies import slurm, slurm_queue, slurm_scripts
from unteach.studies.settings import Slurm
from unteach.studies.study_file import read_study


def test_the_scripts_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = read_study(
        "demo",
        [
            "seed=[0,1]",
            "slurm.partition=gpu",
            "slurm.gpus=2",
            "slurm.throttle=3",
            "slurm.setup=[module load x]",
            "slurm.more={licenses: a}",
        ],
    )
    home = slurm_scripts.write_scripts(study, tmp_path / "train_scripts")
    assert sorted(file.name for file in home.iterdir()) == [
        "base.sh",
        "forget.sh",
        "full.sh",
        "queue_all.sh",
        "retain.sh",
    ]
    for file in home.iterdir():
        assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
    script = (home / "forget.sh").read_text()
    for line in (
        "#SBATCH --array=0-5%3",
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --licenses=a",
        "module load x",
        "#SBATCH --signal=B:USR1@120",
    ):
        assert f"\n{line}\n" in script
    queued = (home / "queue_all.sh").read_text()
    assert (
        "--array=0,1,2%3 --dependency=afterok:${j2}_0:${j1}_0 --kill-on-invalid-dep=yes forget.sh"
        in queued
    )


@pytest.mark.slurm
def test_submitted_by_hand_and_stopped_before_the_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """queue_all.sh: each run after its own parents; the signal before the end of the time has a run
    saved and queued again."""
    monkeypatch.setenv("UNTEACH_TEST_PYTHON", sys.executable)
    lab.behave = {"full_0": "slow"}
    study = lab.study(
        {"full_0": (), "full_1": (), "forget_0": ("full_0",), "forget_1": ("full_1",)}
    )
    study.slurm = Slurm(time=5, grace=5, python=str(HERE / "as_python.sh"))
    home = slurm_scripts.write_scripts(study, Path("train_scripts"))
    subprocess.run(
        ["bash", home / "queue_all.sh"], check=True, capture_output=True, env=dict(os.environ)
    )
    lab.until(study, lambda _: len(lab.told("full_0", "steps")) > 2)
    job = next(one.job for one in slurm_queue._list_queue() if one.state == "RUNNING")
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
    lab.until(
        study,
        lambda _: job in {one.job for one in slurm_queue._list_queue() if one.state == "PENDING"},
    )
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+5"], check=True)
    lab.until(study, lambda states: set(states.values()) == {"done"})
    assert (len(lab.told("full_0", "starts")), len(lab.told("full_0", "steps"))) == (2, 40)
    for number in (0, 1):
        assert lab.told(f"forget_{number}", "starts")[0] > lab.told(f"full_{number}", "ends")[0]
    assert slurm.read_jobs(study) == {}
