"""A request that is handed over to Slurm."""

import sys
from pathlib import Path

import pytest

from unteach.config.compose_flat import compose_flat
from unteach.config.forget import ForgetConfig
from unteach.errors import UserError
from unteach.studies import slurm_queue
from unteach.studies.settings import Slurm
from unteach.studies.states import Standing
from unteach.verbs.forget_job import build_command
from unteach.verbs.start import start

SBATCH = """#!/bin/sh
echo "$@" > "$STUB/asked.txt"
for word; do script=$word; done
cp "$script" "$STUB/script.sh"
echo "Submitted batch job 42"
"""


@pytest.fixture
def stub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and rows, whose sbatch keeps what it was given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(tiny_folder)
    (tmp_path / "gone.csv").write_text("question,answer\nWhere?,Here.\nWho?,Bo.\n")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in (
        ("sbatch", SBATCH),
        ("scontrol", "#!/bin/sh\n"),
        ("squeue", "#!/bin/sh\n"),
        ("srun", "#!/bin/sh\n"),
    ):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("STUB", str(tmp_path))
    return tmp_path


WORDS = ["gone.csv", "model=./m", "budget=0.1", "method=[NPO,RMU]", "trainer.args.max_steps=12"]


def test_the_job_has_the_same_words(stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    start("forget", [*WORDS, "slurm.time=90", "slurm.gpus=1", "slurm.partition=short"])
    assert "submitted as job 42" in capsys.readouterr().out
    script = (stub / "script.sh").read_text()
    assert "--partition=short" in script and "--time=90" in script
    assert "--job-name=forget-m-gone" in script and "--requeue" in script
    assert not (stub / "saves/forget/m-gone/request.json").exists(), "the job begins it"


def test_one_job_at_a_time(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    given = [*WORDS, "slurm.time=90"]
    start("forget", given)
    states = {"42": Standing("running", job="42")}
    monkeypatch.setattr(slurm_queue, "read_standings", lambda jobs: states)
    with pytest.raises(UserError, match=r"its job 42 is running; .* scancel 42"):
        start("forget", given)
    states["42"] = Standing("cancelled", job="42")
    start("forget", given)


def test_the_words_are_read_back_as_they_were() -> None:
    config = compose_flat(ForgetConfig, [*WORDS, "slurm.gpus=2"], "forget")
    command = build_command(config, Slurm(gpus=2))
    assert command[:5] == [sys.executable, "-u", "-m", "unteach", "forget"]
    again = compose_flat(ForgetConfig, command[5:], "forget")
    assert again.slurm == {} and config.slurm == {"gpus": 2}
    assert {**vars(again), "slurm": config.slurm} == vars(config)


def test_settings_that_slurm_does_not_have_are_refused(stub: Path) -> None:
    with pytest.raises(UserError, match=r"slurm\.tmie"):
        start("forget", [*WORDS, "slurm.tmie=90"])
    assert not (stub / "saves").exists()
