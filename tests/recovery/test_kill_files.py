"""Runs from files of one's own that are killed: from tokens, and while rows held out and a suite
are measured."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doors import train
from tests.recovery.conftest import after, spawn
from tests.recovery.test_kill import kill_until_done, tidy
from unteach import fingerprints, json_files, run_dir
from unteach.config.tokenize import TokenizeConfig
from unteach.data.tokenized.token_files import MANIFEST
from unteach.evals import merge_results
from unteach.training.validation import FILE, Validation
from unteach.verbs.history import get_history
from unteach.verbs.tokenize import run as tokenize

ROWS = [{"prompt": f"What is {i}?", "generation": f"It is {i}. " * (1 + i % 3)} for i in range(40)]
TIMED = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}
"""What tells of the last process alone."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def command(folder: Path, model: Path, *extra: str) -> list[str]:
    return [
        "data=files",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={model}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer.args.learning_rate=1e-3",
        "trainer.args.num_train_epochs=2",
        "trainer.args.per_device_train_batch_size=2",
        "trainer.args.logging_steps=1",
        "trainer.args.gradient_accumulation_steps=2",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=3",
        *extra,
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """The bytes of the model, the logged lines, the table of them, and what was measured."""
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return {
        "weights": fingerprints.hash_files(folder / run_dir.FINAL / "model.safetensors"),
        "log": [line for line in lines if not TIMED & set(line)],
        "history": [{k: v for k, v in row.items() if k not in TIMED} for row in _records(folder)],
        "evals": {
            str(file.relative_to(folder)): json.loads(file.read_text())
            for file in folder.glob(f"**/{run_dir.EVALS}/*.json")
            if not file.name.endswith(merge_results.BASIS)  # which names the folder
        },
    }


def _records(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if v == v} for row in get_history(folder).to_dict("records")
    ]


def killed_when(work: Callable[[], object], log: Path, there: Callable[[], bool]) -> int | None:
    """Kills the run as soon as something is there; its exit code."""
    pid = spawn(work, log)
    while not there():
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise AssertionError(log.read_text()[-3000:])
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.long
def test_trained_from_tokens_and_killed(rows: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Continued, it is the undisturbed run and the run that tokenises on the fly; other tokens are
    refused."""
    tokens = tokenize(
        TokenizeConfig(str(rows), str(tmp_path / "tokens"), str(tiny_folder), 32, num_proc=1)
    )
    sources = {
        "flown": (f"data.train_file={rows}", "data.max_length=32"),
        "whole": (f"data.train_file={tokens}",),
    }
    for name, source in sources.items():
        words = command(tmp_path / name / "run", tiny_folder, *source)
        assert after(spawn(lambda words=words: train(*words), tmp_path / f"{name}.log"), 120) == 0
    folder = tmp_path / "killed" / "run"
    words = command(folder, tiny_folder, *sources["whole"])
    assert (
        killed_when(lambda: train(*words), tmp_path / "log", (folder / "checkpoint-6").exists) == -9
    )
    assert not (folder / run_dir.FINAL).exists()

    kept = tmp_path / "kept"
    shutil.move(tokens, kept)
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps(row) + "\n" for row in ROWS[::-1]))
    tokenize(TokenizeConfig(str(changed), str(tokens), str(tiny_folder), 32, num_proc=1))
    assert after(spawn(lambda: train(*words), tmp_path / "refused"), 120) == 2
    said = (tmp_path / "refused").read_text()
    assert (
        f"{tokens / MANIFEST}: is not what it was when {folder} began" in said
        and "Traceback" not in said
    ), said
    shutil.rmtree(tokens)
    shutil.move(kept, tokens)

    assert after(spawn(lambda: train(*words), tmp_path / "log"), 120) == 0, (
        tmp_path / "log"
    ).read_text()
    assert json_files.read_json(folder / run_dir.MANIFEST, "the manifest")["resumed_at"] >= 3
    whole, flown = (outcome(tmp_path / name / "run") for name in ("whole", "flown"))
    assert outcome(folder) == whole
    # Tokens do not know the words that they were made of, which results quote; every value is the
    # same.
    for run in (whole, flown):
        run["evals"] = run["evals"]["evals/ROWS_SUMMARY.json"]
    assert whole == flown
    tidy(folder)


@pytest.mark.long
def test_killed_while_it_measures_held_out_rows_and_a_suite(
    rows: Path, kit: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice between two batches of the rows held out, and at random moments after."""
    extra = (
        f"data.train_file={rows}",
        "data.validation_fraction=0.2",
        "trainer.args.eval_strategy=steps",
        "trainer.args.eval_steps=5",
        "eval=tofu",
        f"tofu_path={corpus}",
        "eval.tofu.metrics=[forget_Q_A_Prob,forget_Q_A_ROUGE]",
        "eval.tofu.generation.max_new_tokens=8",
        "trainer.args.keep_checkpoints=true",
        "trainer.args.save_total_limit=9",
    )
    whole = command(tmp_path / "whole" / "run", kit / "policy", *extra)
    assert after(spawn(lambda: train(*whole), tmp_path / "whole.log"), 120) == 0, (
        tmp_path / "whole.log"
    ).read_text()
    expected = outcome(tmp_path / "whole" / "run")
    assert sum("eval_loss" in line for line in expected["log"]) >= 3
    assert {Path(name).name for name in expected["evals"]} >= {FILE, "TOFU_EVAL.json"}

    folder = tmp_path / "killed" / "run"
    words = command(folder, kit / "policy", *extra)
    marks = [tmp_path / f"killed-{number}" for number in range(2)]
    batches = Validation._iterate_batches

    def until_the_second(self: Validation) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(batches(self)):
            left = [mark for mark in marks if not mark.exists()]
            if number and left:
                left[0].touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    monkeypatch.setattr(Validation, "_iterate_batches", until_the_second)
    codes = [after(spawn(lambda: train(*words), tmp_path / "log"), 120) for _ in marks]
    assert codes == [-9, -9], (tmp_path / "log").read_text()[-3000:]
    kill_until_done(lambda: train(*words), tmp_path / "log", 4, 2.5, seed=3)
    assert outcome(folder) == expected
