"""What a run prints: a header, a line each logged step, why it ended, and what to do next."""

import io
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.doors import train
from tests.export.test_export import run
from tests.training.test_guard import words as guarded
from unteach import console, run_dir
from unteach.cli import main
from unteach.evals.run import PassLines, PassProgress
from unteach.training import callbacks
from unteach.verbs.start import start


@pytest.fixture(scope="module")
def tiny_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    text = "question,answer\n" + "".join(f"What is {n}?,It is {n}.\n" for n in range(8))
    (folder / "rows.csv").write_text(text)
    (folder / "held.csv").write_text(text.replace("It is", "That is"))
    return folder


def words(model: Path, rows: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "data=files",
        f"data.train_file={rows / 'rows.csv'}",
        "model=auto",
        "task_name=t",
        "template=qa",
        "eval=null",
        f"model.model_args.pretrained_model_name_or_path={model}",
        f"paths.output_dir={folder}",
        "trainer.args.per_device_train_batch_size=2",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.max_steps=6",
        "trainer.args.logging_steps=2",
        "trainer.args.warmup_epochs=0.5",
        *extra,
    ]


def header(said: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        found.setdefault(line[:12].strip(), []).append(line[12:])
    return found


def test_a_run_without_a_terminal_tells_what_it_is_and_does(
    tiny_folder: Path, tiny_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(tiny_folder, tiny_rows, tmp_path / "run")
    train(*command)
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\r" not in said and "━" not in said
    assert "" not in said.splitlines(), "no stray blank lines"
    told = header(said)
    assert told["run"] == [f"train {tmp_path / 'run'}"]
    assert told["stream"] == ["train: 8 rows (sets the epoch)"]
    assert told["steps"] == ["6 (1.5 epochs of 4); 2 rows a step: 2 a micro-batch x 1 x 1 process"]
    assert told["learning"][0].startswith(
        "rate 1e-05, linear after 2 warm-up steps; adamw_torch_fused"
    )
    assert told["meanwhile"] == [f"unteach history {tmp_path / 'run'}"]
    steps = [line for line in said.splitlines() if line.startswith("step ")]
    shape = (
        r"step {}/6  epoch {}  loss \S+  grad_norm \S+  learning_rate \S+  \S+ steps/s  "
        r"\d+:\d\d left"
    )
    for line, step, epoch in zip(steps, (2, 4, 6), ("0.50", "1.00", "1.50"), strict=True):
        assert re.fullmatch(shape.format(step, epoch), line), line
    assert "ended at step 6 of 6: trainer.args.max_steps is reached" in said
    assert said.splitlines()[-1] == f"next: unteach ask model={tmp_path / 'run'} 'a question'"
    start("check", ["train", *command, "resume=never"])
    checked = header(capsys.readouterr().out)
    for label in ("model", "method", "steps", "learning"):
        assert checked[label] == told[label], "`check` and the run say the same"


def test_commands_that_come_next_work_as_printed(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, model in (("first", tiny_folder), ("two words", "saves/unlearn/first")):
        common = [
            "experiment=unlearn/authors/default",
            "trainer=GradDiff",
            f"task_name='{name}'",
            "template=qa",
            "eval.tofu.metrics=[forget_Q_A_Prob]",
            "trainer.args.max_steps=2",
            "trainer.args.eval_strategy=steps",
            "trainer.args.eval_steps=1",
            "model=auto",
            f"model.model_args.pretrained_model_name_or_path={model}",
        ]
        train(*common, config_name="unlearn")
    said = capsys.readouterr().out
    assert re.search(r"\n  forget_Q_A_Prob = \S+ +\(near retain\)\n", said)
    assert "evaluations made while training: saves/unlearn/two words/checkpoint-*/evals" in said
    assert list(Path("saves/unlearn/two words").glob("checkpoint-*/evals/TOFU_EVAL.json"))
    last = said.splitlines()[-3:]
    assert [shlex.split(line.removeprefix("next:"))[:2] for line in last] == [
        ["unteach", "report"],
        ["unteach", "compare"],
        ["unteach", "ask"],
    ]
    for line in last[:2]:
        main(shlex.split(line.removeprefix("next:"))[1:])
    said = capsys.readouterr().out
    assert "report: saves/report/report.html" in said and "A: saves/unlearn/first" in said


def test_early_stopping_says_why_and_whose_weights(
    tiny_folder: Path, tiny_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out rows say otherwise than the rows that are learned, so their loss never gets better
    by 5."""
    stopping = (
        f"data.validation_file={tiny_rows / 'held.csv'}",
        "trainer.args.eval_strategy=steps",
        "trainer.args.eval_steps=1",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=1",
        "trainer.args.metric_for_best_model=loss",
        "trainer.args.early_stopping_patience=2",
        "trainer.args.early_stopping_threshold=5",
    )
    best = "trainer.args.load_best_model_at_end=true"
    run_folder = tmp_path / "run"
    train(
        *words(
            tiny_folder, tiny_rows, run_folder, *stopping, best, "trainer.args.learning_rate=1e-3"
        )
    )
    said = capsys.readouterr().out
    assert "validation  8 rows" in said
    assert (
        "ended at step 3 of 6: early stopping, since loss was not better by more than 5 in 2 "
        "evaluations in a row" in said
    )
    lines = [json.loads(line) for line in (run_folder / run_dir.METRICS).read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    best_step = min(losses, key=lambda step: losses[step])
    assert (
        f"kept: the weights of step {best_step}, the best by loss ({losses[best_step]:.4g})" in said
    )
    train(*words(tiny_folder, tiny_rows, tmp_path / "last", *stopping))
    assert "kept: the weights of the last step (trainer.args.load_best" in capsys.readouterr().out


def test_the_guard_logs_each_look_and_says_what_it_did(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*guarded(kit, tmp_path / "run", "trainer.guard.action=best"), config_name="unlearn")
    said = "".join(capsys.readouterr())
    lines = [
        json.loads(line) for line in (tmp_path / "run" / run_dir.METRICS).read_text().splitlines()
    ]
    looks = [(line["step"], line["guard_rise"]) for line in lines if "guard_rise" in line]
    steps = [line["step"] for line in lines if "grad_norm" in line]
    assert [step for step, _ in looks] == list(range(0, steps[-1] + 1, 3)) and looks[0] == (0, 0.0)
    assert looks[-1][1] > 2 > looks[-2][1], "the last look saw the collapse"
    assert steps == list(range(1, steps[-1] + 1)), "a look does not take a step's own line"
    assert said.count("guard_rise") == len(looks)
    healthy = looks[-2][0]
    assert f"Training ends here and goes back to step {healthy}" in said
    assert (
        f"ended at step {steps[-1]} of 24: the collapse guard ended it (trainer.guard.action=best)"
        in said
    )
    assert (
        f"kept: the weights of step {healthy}, the last at which the guard saw a healthy model"
        in said
    )


def test_a_run_that_goes_on_says_from_where(
    tiny_folder: Path,
    tiny_rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    from unteach.errors import Preempted

    command = words(tiny_folder, tiny_rows, tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(
            "unteach.distributed.process_context.DistContext.should_stop", lambda self: True
        )
        with pytest.raises(Preempted, match=r"^saved step 1 of 6; the same command goes on$"):
            train(*command)
    capsys.readouterr()
    train(*command)
    told = header(capsys.readouterr().out)
    assert told["goes on"] == [f"from step 1 of 6 ({tmp_path / 'run' / 'checkpoint-1'})"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "live"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_what_can_be_drawn_again(
    variables: dict[str, str], live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert not console.is_live() and isinstance(callbacks.build_display("x"), callbacks.LogLines)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert console.is_live() is live
    assert isinstance(callbacks.build_display("x"), callbacks.Progress) is live


def test_a_slow_step_does_not_lose_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes a step: a live bar still knows what is left, of a training run and of an
    evaluation."""
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    state = SimpleNamespace(global_step=0, max_steps=10, is_world_process_zero=True)
    shown = callbacks.Progress("slow")
    shown.on_train_begin(None, state, None)
    with PassProgress(shown=True) as progress:
        said = progress("scoring", 10)
        for bars in (shown.bar, progress.bars):
            bars.get_time = bars.tasks[0]._get_time = lambda: now[0]
        for step in (1, 2, 3):
            now[0] = 600.0 * step
            state.global_step = step
            shown.on_step_end(None, state, None)
            said(1)
        assert shown.bar.tasks[0].time_remaining == progress.bars.tasks[0].time_remaining == 7 * 600
    shown.close()


def test_a_suites_name_is_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unteach.console.is_live", lambda: True)
    with PassProgress(shown=True) as progress:
        progress("my[/bold] suite \x1b]0;x\x07", 2)(1)
        assert "my[/bold] suite" in str(progress.bars.tasks[0].description).replace("\\[", "[")
        progress.bars.refresh()
    assert "\x07" not in capsys.readouterr().out


def test_a_pass_says_that_it_begins_how_far_it_is_and_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("unteach.evals.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    lines = PassLines("scoring", 1200)
    for seconds in (10, 40, 60, 80):
        now[0] = float(seconds)
        lines(300)
    assert capsys.readouterr().out.splitlines() == [
        "scoring: 0 of 1,200",
        "scoring: 600 of 1,200, 0:40 left",
        "scoring: 1,200 of 1,200, took 1:20",
    ]


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_loaded(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unteach.errors import UserError

    monkeypatch.setattr("unteach.training.tracking.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'report_to=tensorboard needs .* pip install "\.\[track\]"'
    ):
        run(tiny_folder, tmp_path / "run", "trainer.args.report_to=tensorboard")
    assert not (tmp_path / "run").exists()
