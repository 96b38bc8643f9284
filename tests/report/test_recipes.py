"""What the page says of how models were made: as each run's folder has it, and nothing that is not
there."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.report.test_report import results, save
from unteach.report import losses, recipes
from unteach.report.collect import RunResult
from unteach.report.page import write_page
from unteach.verbs.start import start

CONFIG: dict[str, Any] = {
    "mode": "unlearn",
    "seed": 3,
    "model": {"model_args": {"pretrained_model_name_or_path": "saves/full", "token": "hf_secret"}},
    "trainer": {
        "handler": "NPO",
        "method_args": {"beta": 0.5, "gamma": None},
        "args": {
            "learning_rate": 1e-05,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_train_epochs": 5,
            "max_steps": -1,
        },
    },
    "data": {
        "forget": {"A": {"args": {"hf_args": {"path": "csv", "data_files": "gone.csv"}}}},
        "retain": {
            "B": {"args": {"hf_args": {"path": "world", "name": "retain90", "split": "train"}}}
        },
        "anchor": "forget",
    },
}
MANIFEST = {
    "date": "2026-03-01T10:20:30+02:00",
    "versions": {"unteach": "0.1.0", "torch": "2.13.0"},
    "git": "abc123",
    "world": 3,
    "command": "unteach unlearn trainer=NPO 'task_name=a b'",
}


@pytest.fixture
def run(tmp_path: Path) -> RunResult:
    folder = tmp_path / "saves" / "mine"
    save(folder / "evals", results(0.2, 0.6, 0.3, "a"))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    lines = [
        {"step": step, "loss": 1 / step, "forget_loss": 2.0, "lr": 1.0} for step in range(1, 1001)
    ]
    lines.append({"step": 1000, "eval_loss": 0.5})
    (folder / "metrics.jsonl").write_text(
        "\n".join(map(json.dumps, lines)) + '\n{"step": 1001, "lo'
    )
    return RunResult("mine", "forget", folder, {}, {})


def write_weights(folder: Path, *shapes: list[int]) -> None:
    """A safetensors file's header, which is all that is read of it."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {str(place): {"dtype": "F32", "shape": shape} for place, shape in enumerate(shapes)}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def test_a_run_says_how_it_was_made(run: RunResult, tmp_path: Path) -> None:
    write_weights(run.folder / "final_checkpoint", [10, 4], [7], [])
    recipe = recipes.read_recipe(run, tmp_path / "out")
    assert recipe is not None
    assert dict(recipe.facts) == {
        "model": "saves/full",
        "parameters": "48",
        "method": "NPO",
        "its settings": "beta=0.5",
        "learning rate": "1e-05, cosine, warmup 4",
        "batch": "24 rows a step (4 a pass × 2 passes × 3 processes)",
        "length": "5 epochs, 1000 steps done",
        "seed": "3",
        "forget rows": "csv gone.csv",
        "retain rows": "world retain90 train",
        "made on": "2026-03-01 08:20 UTC",
        "versions": "unteach 0.1.0, torch 2.13.0",
        "git commit": "abc123",
        "command": "unteach unlearn trainer=NPO 'task_name=a b'",
        "folder": "../saves/mine",
    }
    assert (
        recipe.summary
        == "NPO, beta=0.5, learning rate 1e-05, cosine, warmup 4, 5 epochs, 1000 steps done"
    )


def test_an_evaluation_says_how_its_model_was_made(run: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    model = {"model_args": {"pretrained_model_name_or_path": str(run.folder)}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"mode": "eval", "model": model}))
    evaluation = RunResult("judged", "eval", folder, {}, {})
    recipe = recipes.read_recipe(evaluation, tmp_path)
    assert recipe is not None
    facts = dict(recipe.facts)
    assert (facts["method"], facts["folder"], facts["trained in"]) == ("NPO", "eval", "saves/mine")
    assert list(losses.collect_losses([evaluation])) == ["loss", "forget_loss"]


def test_a_folder_that_says_nothing_has_no_card(tmp_path: Path) -> None:
    theirs = RunResult("theirs", "", tmp_path, {}, {})
    assert recipes.read_recipe(theirs, tmp_path) is None
    page = write_page({"X": [theirs]}, tmp_path / "report.html", "One").read_text()
    assert '<details class="made">' not in page
    assert losses.collect_losses([theirs]) == {}


def test_loss_curves_are_thinned_and_keep_both_ends(run: RunResult) -> None:
    curves = losses.collect_losses([RunResult("other", "", Path("nowhere"), {}, {}), run])
    assert list(curves) == ["loss", "forget_loss"]  # a loss that was logged once is no curve
    [line] = curves["loss"]
    assert line.run_index == 1
    assert len(line.steps) <= losses.MOST_POINTS + 1
    ends = (line.steps[0], line.values[0], line.steps[-1], line.values[-1])
    assert ends == (1, 1.0, 1000, 0.001)


def test_the_page_has_a_card_a_run_and_tells_no_token(run: RunResult, tmp_path: Path) -> None:
    config = yaml.safe_dump({**CONFIG, "seed": "<b>7</b>"})
    (run.folder / "config.yaml").write_text(config)
    out = tmp_path / "out"
    start("report", [str(run.folder), f"out={out}"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('<details class="made">') == 1
    assert "<dd><code>../saves/mine</code></dd>" in page
    assert "<dd>&lt;b&gt;7&lt;/b&gt;</dd>" in page
    assert "hf_secret" not in page
    making = page.partition('<section aria-labelledby="making"')[2]
    assert making.count("<svg") == 2 and 'data-told="mine' in making
