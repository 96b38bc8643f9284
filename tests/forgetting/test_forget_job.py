"""A request that is handed over to Slurm."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from unteach.config.compose_flat import compose_flat
from unteach.config.forget import ForgetConfig
from unteach.errors import UserError
from unteach.studies import slurm, slurm_queue
from unteach.studies.settings import Slurm
from unteach.studies.slurm_job import Job
from unteach.studies.states import Standing
from unteach.verbs.forget_job import build_command
from unteach.verbs.start import start


class Executor:
    """Takes a job as submitit's does, and keeps it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.settings: list[Slurm] = []
        self.commands: list[list[str]] = []

    def build(self, folder: Path, settings: Slurm, name: str, dependency: str) -> "Executor":
        self.names.append(name)
        self.settings.append(settings)
        return self

    def submit(self, job: Job) -> SimpleNamespace:
        self.commands.append(job.command)
        return SimpleNamespace(job_id=42)


@pytest.fixture
def executor(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """What a cluster is handed over, in a folder with a model and rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(tiny_folder)
    (tmp_path / "gone.csv").write_text("question,answer\nWhere?,Here.\nWho?,Bo.\n")
    made = Executor()
    monkeypatch.setattr(slurm, "build_executor", made.build)
    monkeypatch.setattr(slurm_queue, "require_slurm", lambda: None)
    return made


WORDS = ["gone.csv", "model=./m", "budget=0.1", "method=[NPO,RMU]", "trainer.args.max_steps=12"]


def test_the_job_has_the_same_words(
    executor: Executor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("forget", [*WORDS, "slurm.time=90", "slurm.gpus=1", "slurm.partition=short"])
    assert "submitted as job 42" in capsys.readouterr().out
    assert executor.settings == [Slurm(time=90, gpus=1, partition="short")]
    assert executor.names == ["forget-m-gone"]
    assert "max_steps=12" in " ".join(executor.commands[0])
    assert not (tmp_path / "saves/forget/m-gone/request.json").exists(), "the job begins it"


def test_one_job_at_a_time(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*WORDS, "slurm.time=90"]
    start("forget", given)
    states = {"42": Standing("running", job="42")}
    monkeypatch.setattr(slurm_queue, "read_standings", lambda jobs: states)
    with pytest.raises(UserError, match=r"its job 42 is running; .* scancel 42"):
        start("forget", given)
    states["42"] = Standing("cancelled", job="42")
    start("forget", given)
    assert len(executor.commands) == 2


def test_the_words_are_read_back_as_they_were() -> None:
    config = compose_flat(ForgetConfig, [*WORDS, "slurm.gpus=2"], "forget")
    command = build_command(config, Slurm(gpus=2))
    assert command[:5] == [sys.executable, "-u", "-m", "unteach", "forget"]
    again = compose_flat(ForgetConfig, command[5:], "forget")
    assert again.slurm == {} and config.slurm == {"gpus": 2}
    assert {**vars(again), "slurm": config.slurm} == vars(config)


def test_settings_that_slurm_does_not_have_are_refused(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"slurm\.tmie"):
        start("forget", [*WORDS, "slurm.tmie=90"])
    assert not (tmp_path / "saves").exists() and not executor.commands
