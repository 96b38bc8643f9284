"""Whole runs on corpora in local folders: MUSE's shape and WMDP's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.doors import train
from unteach import run_dir
from unteach.data.handlers.text import PretrainingDataset
from unteach.verbs.load import load


def words(kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'reference'}",
        "task_name=t",
        "eval=null",
        "model.model_args.dtype=float32",
        f"paths.output_dir={folder}",
        "trainer.args.max_steps=2",
        "trainer.args.logging_steps=1",
        "trainer.args.per_device_train_batch_size=2",
        "trainer.args.gradient_accumulation_steps=1",
        *extra,
    ]


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


def test_muse_is_unlearned(kit: Path, tmp_path: Path) -> None:
    """A step over every piece: its forget loss is that of the whole corpus, and the second step's
    is lower."""
    lengths = [f"data.{stream}.MUSE_{stream}.args.max_length=96" for stream in ("forget", "retain")]
    extra = (
        "experiment=unlearn/muse/default",
        f"muse_path={kit / 'muse'}",
        "trainer=GradDiff",
        *lengths,
    )
    whole = ("trainer.args.learning_rate=1e-3", "trainer.args.per_device_train_batch_size=32")
    train(*words(kit, tmp_path / "run", *extra, *whole), config_name="unlearn")
    taught, unlearned = load(str(kit / "reference")), load(str(tmp_path / "run"))
    pieces = PretrainingDataset(
        taught.template,
        {"path": str(kit / "muse"), "name": "raw", "split": "forget"},
        max_length=96,
    )
    assert 1 < len(pieces) <= 32
    total, count = 0.0, 0
    for piece in pieces:
        ids = torch.tensor([piece["input_ids"]])
        with torch.no_grad():
            logits = taught.model(ids).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(ids[0]) - 1
    first, second = (line["forget_loss"] for line in logged(tmp_path / "run"))
    assert first == pytest.approx(-total / count, rel=1e-5)
    assert second < first
    assert not any(map(torch.equal, taught.model.parameters(), unlearned.model.parameters()))


def test_wmdp_is_unlearned(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RMU with the experiment's parameters moved to the kit's layers: only those train."""
    for kind, split in (("forget", "forget"), ("retain", "retain1")):
        rows = (kit / "muse" / "raw" / f"{split}.jsonl").read_text()
        (tmp_path / f"cyber-{kind}-corpus.jsonl").write_text(rows + '{"text": ""}\n')
    extra = (
        "experiment=unlearn/wmdp/default",
        f"wmdp_path={tmp_path}",
        r"trainer.method_args.module_regex=model\.layers\.2",
        r"trainer.method_args.trainable_params_regex=['model\.layers\.[12]\.mlp\.down_proj\.weight']",
    )
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    assert "data.forget.WMDP_forget: 1 row dropped, empty text" in capsys.readouterr().err
    before, after = (load(str(place)).model for place in (kit / "reference", tmp_path / "run"))
    changed = {
        name
        for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {f"model.layers.{n}.mlp.down_proj.weight" for n in (1, 2)}
