"""Studies on a real Slurm: what arrays, dependencies, failures, preemptions and dead submitters do
to them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import SCRIPT, Lab
from unteach.studies import slurm, states
from unteach.studies.study_file import Study

pytestmark = pytest.mark.slurm


def done(states: dict[str, str]) -> bool:
    return set(states.values()) == {"done"}


def state_of(name: str, state: str):  # type: ignore[no-untyped-def]
    return lambda states: states[name] == state


def overlapping(lab: Lab, names: list[str]) -> int:
    """The most of these runs that were carried out at one time."""
    events = sorted(
        [(lab.told(n, "starts")[0], 1) for n in names]
        + [(lab.told(n, "ends")[0], -1) for n in names]
    )
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def test_arrays_dependencies_throttle_and_size(lab: Lab) -> None:
    """26 runs where an array has 21 tasks at most: each kind by itself, throttled, every run after
    its own parents."""
    retains = {f"retain_{i}": () for i in range(24)}
    forgets = {f"forget_{i}": ("full_0", f"retain_{i // 2}") for i in range(6)}
    study = lab.study({"full_0": (), **retains, **forgets}, throttle=3)  # type: ignore[arg-type]
    count, said = slurm.submit(study)
    assert (count, said) == (31, [])
    arrays = {
        job.split("_")[0]
        for name, job in slurm.read_jobs(study).items()
        if name.startswith("retain")
    }
    assert len(arrays) == 2, "24 runs in arrays of 21 tasks at most"
    assert slurm.submit(study)[0] == 0, "again: nothing that is there already"
    lab.until(study, done)
    for name, parents in forgets.items():
        assert all(lab.told(name, "starts")[0] >= lab.told(parent, "ends")[0] for parent in parents)
    assert overlapping(lab, list(retains)) <= 3
    assert overlapping(lab, list(forgets)) <= 3
    assert all(len(lab.told(run.name, "starts")) == 1 for run in study.plan)


def test_a_failed_parent_holds_its_children_by_name(lab: Lab) -> None:
    lab.behave = {"full_0": "fail"}
    study = lab.study(
        {
            "full_0": (),
            "full_1": (),
            "forget_0": ("full_0",),
            "forget_1": ("full_1",),
            "last_0": ("forget_0",),
        }
    )
    slurm.submit(study)
    lab.until(study, state_of("forget_1", "done"))
    found = slurm.read_standings(study)
    assert {name: one.state for name, one in found.items()} == {
        "full_0": "failed",
        "full_1": "done",
        "forget_0": "held",
        "forget_1": "done",
        "last_0": "held",
    }
    assert found["full_0"].reason == "told to fail"
    assert found["forget_0"].reason == "waits for full_0 (failed)"
    count, said = slurm.submit(study)
    assert count == 0 and "retry" in said[-1] and said[0].startswith("full_0 failed: told to fail")
    (lab.folder / "behave.json").write_text("{}")
    assert slurm.submit(study, again=True)[0] == 3
    lab.until(study, done)
    assert len(lab.told("full_1", "starts")) == 1, "what was done is not done again"


def test_a_cancelled_run_saves_itself_and_goes_on_later(lab: Lab) -> None:
    lab.behave = {"forget_0": "slow"}
    study = lab.study({"full_0": (), "forget_0": ("full_0",), "last_0": ("forget_0",)})
    slurm.submit(study)
    lab.until(study, lambda states: len(lab.told("forget_0", "steps")) > 2)
    assert slurm.cancel(study, study.plan) == ["forget_0", "last_0"]
    found = lab.finish(study)
    assert (found["forget_0"], found["last_0"]) == ("cancelled", "cancelled")
    assert states.read_record(study.plan[1])["state"] == "stopped", "it saved itself"
    made = len(lab.told("forget_0", "steps"))
    assert 2 < made < 40
    assert slurm.submit(study)[0] == 2
    lab.until(study, done)
    assert len(lab.told("forget_0", "steps")) == 40, "it went on from where it was"


def test_a_preempted_run_is_queued_again_and_goes_on(lab: Lab) -> None:
    """A job that is more urgent needs the whole node: Slurm sends SIGTERM and gives the run a
    minute."""
    lab.behave = {"full_0": "slow"}
    study = lab.study({"full_0": (), "forget_0": ("full_0",)})
    slurm.submit(study)
    lab.until(study, lambda _: len(lab.told("full_0", "steps")) > 2)
    subprocess.run(
        ["sbatch", "--partition=urgent", "--exclusive", "--wrap", "true", "-o", "/dev/null"],
        check=True,
        capture_output=True,
    )
    lab.until(study, done)
    assert len(lab.told("full_0", "starts")) == 2
    assert len(lab.told("full_0", "steps")) == 40
    assert lab.told("forget_0", "starts")[0] > lab.told("full_0", "ends")[0]


def test_a_run_whose_time_is_nearly_over_is_queued_again(lab: Lab) -> None:
    """The signal that Slurm sends before the end of the time, in an array and alone."""
    lab.behave = {"full_0": "slow", "full_1": "slow"}
    study = lab.study({"full_0": (), "full_1": ()})
    slurm.submit(study)
    for name in ("full_0", "full_1"):
        lab.until(study, lambda _, name=name: len(lab.told(name, "steps")) > 2)  # type: ignore[misc]
        subprocess.run(["scancel", "--signal=USR2", slurm.read_jobs(study)[name]], check=True)
    lab.until(study, done)
    for name in ("full_0", "full_1"):
        assert (len(lab.told(name, "starts")), len(lab.told(name, "steps"))) == (2, 40)


def test_a_node_that_dies(lab: Lab, cluster: Path) -> None:
    lab.behave = {"full_0": "slow"}
    study = lab.study({"full_0": (), "forget_0": ("full_0",)})
    slurm.submit(study)
    lab.until(study, lambda _: len(lab.told("full_0", "steps")) > 2)
    node = subprocess.run(
        ["sinfo", "-h", "-o", "%n"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    os.kill(int((cluster / "slurmd.pid").read_text()), signal.SIGKILL)
    os.kill(states.read_record(study.plan[0])["pid"], signal.SIGKILL)
    subprocess.run(
        ["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"], check=True
    )
    try:
        assert not states.is_held(study.plan[0])
        found = lab.until(study, lambda states: states["full_0"] != "running")
        assert found["full_0"] == "queued" and found["forget_0"] == "queued"
    finally:
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
        subprocess.run([SCRIPT, "slurmd", cluster], check=True)
    lab.until(study, done)
    assert len(lab.told("full_0", "steps")) == 40


def test_a_full_queue_takes_the_rest_later(lab: Lab) -> None:
    study = lab.study({**{f"full_{i}": () for i in range(6)}, "forget_0": ("full_0",)})  # type: ignore[arg-type]

    def limit(jobs: int) -> None:
        subprocess.run(
            ["sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={jobs}"],
            check=True,
            capture_output=True,
        )

    limit(4)
    try:
        count, said = slurm.submit(study)
        assert 0 < count < 7
        assert "takes no more jobs now" in said[-1]
        lab.finish(study)
    finally:
        limit(-1)
    assert slurm.submit(study) == (7 - count, [])
    lab.until(study, done)
    assert all(len(lab.told(run.name, "starts")) == 1 for run in study.plan)


DYING = """
import os, sys
from unteach import atomic
from unteach.studies import slurm
from tests.slurm.test_cluster import restored
write, written = atomic.write_json, []
def dying(path, value):
    if path.parent.name == "batches":
        written.append(path)
        if len(written) == int(sys.argv[1]):
            os._exit(9)
    write(path, value)
slurm.atomic.write_json = dying
slurm.submit(restored())
"""


def restored() -> Study:
    """The study that a submitter in another process hands over."""
    import tests.slurm.conftest as own

    class Patch:
        def chdir(self, folder: Path) -> None: ...
        def setattr(self, target: object, name: str, value: object) -> None:
            setattr(target, name, value)

    lab = object.__new__(Lab)
    lab.folder, lab.behave = Path("saves/lab"), {}
    slurm.build_command = lab.command
    assert own
    return lab.study(json.loads(Path("plan.json").read_text()))


@pytest.mark.parametrize("dies_at", [2, 4], ids=["after the first array", "after the second"])
def test_a_submitter_that_dies_loses_nothing(lab: Lab, tmp_path: Path, dies_at: int) -> None:
    """Killed after sbatch took a batch and before it wrote down which job that is."""
    plan: dict[str, tuple[str, ...]] = {
        "full_0": (),
        "full_1": (),
        "retain_0": (),
        "forget_0": ("full_0", "retain_0"),
    }
    study = lab.study(plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}
    died = subprocess.run(
        [sys.executable, "-c", DYING, str(dies_at)], env=environment, cwd=tmp_path, check=False
    )
    assert died.returncode == 9
    slurm.submit(study)
    lab.until(study, done)
    assert all(len(lab.told(run.name, "ends")) == 1 for run in study.plan)
