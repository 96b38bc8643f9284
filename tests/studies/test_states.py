"""How runs stand, who may carry one out, a study file changed under a running study, GPU slots."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from unteach import atomic, owner, run_dir
from unteach.errors import Diverged, Preempted, UserError
from unteach.studies import gpu_slots, local, saved_plan, settings, states, study_file
from unteach.studies.plan import PlannedRun
from unteach.studies.states import Standing
from unteach.studies.study_file import Study, read_study
from unteach.verbs import study_runs
from unteach.verbs.start import start


def planned(folder: Path, name: str, *after: str, words: tuple[str, ...] = ()) -> PlannedRun:
    return PlannedRun(
        name, "x", "train", (*words, f"paths.output_dir={folder / 's' / name}"), after
    )


def finish(run: PlannedRun) -> None:
    atomic.write_json(Path(run.folder) / run_dir.DONE, {})


def begin(run: PlannedRun) -> None:
    atomic.write_text(Path(run.folder) / run_dir.CONFIG, "seed: 0\n")
    atomic.write_text(Path(run.folder) / run_dir.METRICS, '{"step": 1}\n')


def test_how_a_run_ended_is_noted(tmp_path: Path) -> None:
    endings = {
        "done": None,
        "failed": UserError("a mistake"),
        "diverged": Diverged("not finite"),
        "stopped": Preempted("saved"),
    }
    for state, error in endings.items():
        run = planned(tmp_path, state)
        with contextlib.suppress(UserError, Diverged, Preempted), states.claim(run):
            assert states.read_standings([run])[state].state == "running"
            if error:
                raise error
            finish(run)
        assert states.read_record(run)["reason"] == str(error or "")
        assert states.read_standings([run])[state].state == state
    assert states.read_standings([planned(tmp_path, "never")])["never"].state == "to do"


CHILD = """
import sys, time
from pathlib import Path
from unteach.studies import states
from unteach.studies.plan import PlannedRun
with states.claim(PlannedRun("a", "x", "train", (f"paths.output_dir={sys.argv[1]}",))):
    print("here", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_is_seen(tmp_path: Path) -> None:
    run = planned(tmp_path, "a")
    child = subprocess.Popen([sys.executable, "-c", CHILD, run.folder], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"here\n"
    assert states.read_standings([run])["a"].state == "running"
    with pytest.raises(owner.Busy, match=f"process {child.pid}"), states.claim(run):
        pass
    (outcome,) = local.execute([run], lambda run: None)
    assert (outcome.state, str(child.pid) in outcome.reason) == ("busy", True)
    child.kill()
    child.wait()
    found = states.read_standings([run])["a"]
    assert found.state == "stopped" and "is gone" in found.reason
    assert [one.state for one in local.execute([run], lambda run: finish(run))] == ["done"]


@pytest.mark.parametrize(
    ("queued", "noted", "state"),
    [
        (Standing("queued", "Dependency", "7"), None, "queued"),
        (Standing("queued", "BeginTime", "7"), "stopped", "queued"),
        (Standing("running", "", "7"), "failed", "running"),
        (Standing("cancelled", "", "7"), "stopped", "cancelled"),
        (Standing("failed", "out of memory", "7"), None, "failed"),
        (Standing("failed", "its job ended as FAILED", "7"), "diverged", "diverged"),
        (Standing("stopped", "its job ended", "7"), None, "stopped"),
        (None, "stopped", "stopped"),
    ],
)
def test_what_slurm_says_and_what_the_folder_says(
    tmp_path: Path, queued: Standing | None, noted: str | None, state: str
) -> None:
    run = planned(tmp_path, "a")
    if noted:
        states.write_record(run, noted)
    assert states.read_standings([run], {"a": queued} if queued else {})["a"].state == state
    finish(run)
    assert states.read_standings([run], {"a": queued} if queued else {})["a"].state == "done"


def test_children_of_what_failed_are_held_by_name(tmp_path: Path) -> None:
    plan = [
        planned(tmp_path, "a"),
        planned(tmp_path, "b", "a"),
        planned(tmp_path, "c", "b"),
        planned(tmp_path, "d"),
    ]
    states.write_record(plan[0], "failed", "no such thing")
    found = states.read_standings(
        plan, {"b": Standing("cancelled", "DependencyNeverSatisfied", "9")}
    )
    assert [found[name].state for name in "abcd"] == ["failed", "held", "held", "to do"]
    assert (found["b"].reason, found["c"].reason) == ("waits for a (failed)", "waits for b (held)")


def a_study(folder: Path, beta: float = 0.1, more: tuple[str, ...] = ()) -> Study:
    plan = [
        planned(folder, "full"),
        planned(folder, "NPO", "full", words=(f"trainer.method_args.beta={beta}", *more)),
    ]
    return Study("s", [*plan, planned(folder, "after", "NPO"), planned(folder, "other", "full")])


def test_a_study_file_changed_under_a_running_study(tmp_path: Path) -> None:
    saved_plan.open_study(a_study(tmp_path))
    saved_plan.open_study(a_study(tmp_path, beta=0.2))  # nothing has begun
    begin(a_study(tmp_path).plan[1])
    saved_plan.open_study(
        a_study(tmp_path, 0.2, more=("trainer.args.logging_steps=5", "eval=[tofu]"))
    )  # not of what is learned
    with pytest.raises(UserError, match=r"NPO: trainer.method_args.beta: 0.2 -> 0.5") as refused:
        saved_plan.open_study(a_study(tmp_path, beta=0.5))
    assert "unteach study retry s" in str(refused.value) and "full" not in str(refused.value)
    with pytest.raises(UserError, match="NPO: is gone"):
        saved_plan.open_study(Study("s", [a_study(tmp_path).plan[0]]))
    carried, left_out = saved_plan.drop_changed_runs(a_study(tmp_path, beta=0.5))
    assert [run.name for run in carried.plan] == ["full", "other"]
    assert left_out == {"NPO": "trainer.method_args.beta: 0.2 -> 0.5", "after": "waits for NPO"}
    again = saved_plan.read(tmp_path / "s")
    assert again is not None and {run.name for run in again.plan} == {
        "full",
        "NPO",
        "after",
        "other",
    }
    assert (
        next(run for run in again.plan if run.name == "NPO").overrides[0]
        == "trainer.method_args.beta=0.2"
    )
    saved_plan.open_study(a_study(tmp_path, 0.9, more=("resume=never",)))


def test_what_was_killed_beside_a_run_that_is_done_is_removed(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    done, under_way = study.plan[:2]
    finish(done)
    begin(under_way)
    states.write_record(done, "done")
    written = states.get_state_file(done)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    left = atomic.make_temporary_path(written)
    left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")).write_text("{")
    locks = [owner.find_lock(Path(run.folder)) for run in (done, under_way)]
    for lock in locks:
        lock.touch()
    saved_plan.open_study(study)
    assert [lock.exists() for lock in locks] == [False, True]
    assert not [file for file in written.parent.iterdir() if atomic.is_temporary(file)]


def test_a_run_that_failed_before_its_first_step_may_be_mended(tmp_path: Path) -> None:
    before = a_study(tmp_path)
    saved_plan.open_study(before)
    failed = before.plan[1]
    atomic.write_text(Path(failed.folder) / run_dir.CONFIG, "seed: 0\n")
    states.write_record(failed, "failed", "no such column")
    mended = a_study(tmp_path, beta=0.5)
    carried, left_out = saved_plan.drop_changed_runs(mended)
    assert (carried.plan, left_out) == (mended.plan, {})
    saved_plan.open_study(before)
    renamed = [mended.plan[0], planned(tmp_path, "NPO_2", "full")]
    saved_plan.open_study(Study("s", renamed))
    assert run_dir.open_run(Path(failed.folder), {"seed": 1}, "auto") is run_dir.RunState.NEW
    begin(failed)
    with pytest.raises(UserError, match="another configuration"):
        run_dir.open_run(Path(failed.folder), {"seed": 1}, "auto")


def test_retry_takes_the_words_that_the_study_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mapping = {**study_file.read("demo"), "name": "mine"}
    Path("mine.yaml").write_text(yaml.safe_dump(mapping))
    saved_plan.write(read_study("mine.yaml", ["trainer.args.max_steps=3", "slurm.partition=long"]))
    seen: list[Study] = []
    monkeypatch.setattr(study_runs, "carry_out", lambda study, opened=False: seen.append(study))
    start("study", ["retry", "mine.yaml"])
    assert "trainer.args.max_steps=3" in seen[0].plan[0].overrides
    assert seen[0].slurm.partition == "long"


def test_one_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []
    monkeypatch.setattr(study_runs, "_run", lambda run, dirs: seen.append(run.name))
    with pytest.raises(UserError, match=r"NPO waits for full \(to do\), retain \(to do\)"):
        start("study", ["run", "demo/NPO"])
    for name in ("base", "retain", "full"):
        start("study", ["run", f"demo/{name}"])
        finish(PlannedRun(name, "x", "train", (f"paths.output_dir=saves/demo/{name}",)))
    start("study", ["run", "saves/demo/NPO"])  # as a job calls it
    assert seen == ["base", "retain", "full", "NPO"]
    with pytest.raises(UserError, match="did you mean NPO"):
        start("study", ["run", "demo/NPo"])
    with pytest.raises(UserError, match="did you mean status"):
        start("study", ["statsu", "demo"])
    with pytest.raises(UserError, match="takes a whole study"):
        start("study", ["status", "demo/NPO"])
    capsys.readouterr()
    start("study", ["status", "demo"])
    assert "demo: 6 runs: 3 done, 3 to do" in capsys.readouterr().out
    start("study", ["cancel", "demo"])
    assert "nothing of it runs or waits" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_parent_takes_its_children_with_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM is passed on and waited for; where the parent is killed, the operating system tells
    the children.

    Ctrl-C reaches children too: they leave it to the parent, and are asked once.
    """
    plan = [planned(tmp_path, "a"), planned(tmp_path, "b"), planned(tmp_path, "c", "a")]

    def carry_out(run: PlannedRun) -> None:
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
        begin(run)
        while not asked:
            time.sleep(0.02)
        raise Preempted("saved")

    parent = os.fork()
    if parent == 0:
        code = 1
        os.setpgid(0, 0)
        try:
            local.execute(plan, carry_out, gpu_slots.Slots(2))
        except Preempted:
            code = 75
        finally:
            os._exit(code)
    while not all((Path(run.folder) / run_dir.CONFIG).exists() for run in plan[:2]):
        time.sleep(0.02)
    (os.killpg if number == signal.SIGINT else os.kill)(parent, number)
    _, status = os.waitpid(parent, 0)
    assert os.waitstatus_to_exitcode(status) == (
        -signal.SIGKILL if number == signal.SIGKILL else 75
    )
    while any(map(states.is_held, plan)):
        time.sleep(0.02)
    found = states.read_standings(plan)
    assert [found[name].state for name in "abc"] == ["stopped", "stopped", "to do"]
    assert found["a"].reason == "saved"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_twice_a_parent_does_not_wait_for_a_run_that_does_not_hear(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = planned(tmp_path, "a")

    def carry_out(run: PlannedRun) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        begin(run)
        time.sleep(600)

    parent = os.fork()
    if parent == 0:
        code = 1
        try:
            outcomes = local.execute([run], carry_out, gpu_slots.Slots(2))
            code = 75 if [one.state for one in outcomes] == ["failed"] else 1
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    while not (Path(run.folder) / run_dir.CONFIG).exists():
        time.sleep(0.02)
    while (ended := os.waitpid(parent, os.WNOHANG)) == (0, 0):
        with contextlib.suppress(ProcessLookupError):
            os.kill(parent, number)
        time.sleep(0.3)
    assert os.waitstatus_to_exitcode(ended[1]) == (75 if number == signal.SIGTERM else 130)
    assert states.read_standings([run])["a"].state == "stopped" and not states.is_held(run)


def test_each_run_gets_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    plan = [planned(tmp_path, name) for name in "abcdef"]

    def carry_out(run: PlannedRun) -> None:
        atomic.write_text(Path(run.folder) / "seen", os.environ["CUDA_VISIBLE_DEVICES"])
        begin(run)
        # a and b are carried out at the same time
        while not (tmp_path / "s" / "b" / run_dir.CONFIG).exists():
            time.sleep(0.01)

    given = gpu_slots.build_slots(settings.Local(gpus=2))
    assert given == gpu_slots.Slots(2, 2, ["4", "5", "6", "7"])
    local.execute(plan, carry_out, given)
    seen = {name: (tmp_path / "s" / name / "seen").read_text() for name in "abcdef"}
    assert {seen["a"], seen["b"]} == {"4,5", "6,7"}
    assert set(seen.values()) == {"4,5", "6,7"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpus": 8}, "GPUs here: 4"),
        ({"gpus": 2, "jobs": 3}, "set jobs=2"),
        ({"jobs": 0}, "1 or more"),
        ({"gpu": 1}, "did you mean gpus?"),
    ],
)
def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch, asked: dict, said: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with pytest.raises(UserError, match=said):
        gpu_slots.build_slots(settings.read_local(asked))
    assert gpu_slots.build_slots(settings.Local(jobs=3, gpus=0)) == gpu_slots.Slots(3, 0, [])


@pytest.mark.parametrize(
    ("time_", "minutes"),
    [
        ("0-6:0:0", 360),
        ("1-0", 1440),
        ("2:30:00", 150),
        ("90:30", 91),
        ("15", 15),
        (45, 45),
        ("1-2:3:4", 1564),
    ],
)
def test_times(time_: str | int, minutes: int) -> None:
    assert settings.Slurm(time=time_).minutes == minutes


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"time": "soon"}, "D-HH:MM:SS"),
        ({"time": 1, "grace": 60}, "stopped at once"),
        ({"partion": "x"}, "did you mean partition?"),
        ({"more": {"array": "0-9"}}, "sets this option itself"),
        ({"kinds": {"forgett": {}}}, "no such kind"),
        ({"kinds": {"forget": {"tim": 3}}}, "did you mean time?"),
    ],
)
def test_bad_slurm_settings(asked: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings.read_slurm(asked)
    assert (
        settings.read_slurm({"time": 10, "kinds": {"forget": {"time": 99, "gpus": 2}}})
        .for_kind("forget")
        .minutes
        == 99
    )


def test_words_of_the_executors() -> None:
    own, rest = study_file.sections(
        [
            "jobs=3",
            "slurm.kinds.forget.time=5",
            "seed=1",
            "local.gpus=0",
            "slurm.setup=[module load x]",
            "slurm.time=1:30:00",
        ]
    )
    assert own == {
        "local": {"jobs": 3, "gpus": 0},
        "slurm": {
            "kinds": {"forget": {"time": 5}},
            "setup": ["module load x"],
            "time": "1:30:00",
        },
    }
    assert rest == ["seed=1"]


def test_a_study_that_is_done_says_so_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run whose evaluation is asked for otherwise now is started all the same."""
    from unteach.config import compose
    from unteach.config.tree import to_yaml
    from unteach.studies import local as executor

    monkeypatch.chdir(tmp_path)
    study = study_file.read_study("demo", [], ())
    for run in study.plan:
        config = compose.compose(run.config_name, run.overrides)
        atomic.write_text(Path(run.folder) / run_dir.CONFIG, to_yaml(config.tree))
        judged = {
            "eval": config.tree.get("eval"),
            "retain_logs_path": config.tree.get("retain_logs_path"),
        }
        atomic.write_json(Path(run.folder) / run_dir.DONE, {"evaluated": judged})
    started: list[str] = []
    monkeypatch.setattr(
        executor,
        "execute",
        lambda plan, *_: [
            started.append(run.name) or executor.Outcome(run, "done") for run in plan
        ],
    )
    monkeypatch.setattr(study_runs, "report", lambda study, done: done)
    capsys.readouterr()
    assert study_runs.carry_out(study) == {run.name for run in study.plan} and started == []
    said = capsys.readouterr().out
    assert (
        f"finished before: {len(study.plan)} runs in saves/demo; nothing of that is done again"
        in said
    )
    atomic.write_json(Path(study.plan[-1].folder) / run_dir.DONE, {"evaluated": None})
    study_runs.carry_out(study)
    assert started == [study.plan[-1].name]
    assert (
        f"finished before: {len(study.plan) - 1} of {len(study.plan)} runs in saves/demo"
        in capsys.readouterr().out
    )
