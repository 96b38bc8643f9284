"""What makes a run quicker changes nothing of it: worker processes, rows end to end, rows dealt by
length."""

import json
from pathlib import Path

import pytest

from tests.export.test_export import run
from unteach.training.trainer import Trainer

ROWS = (
    "trainer.args.per_device_train_batch_size=2",
    "trainer.args.gradient_accumulation_steps=4",
    "trainer.args.logging_steps=1",
)


def norms(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        value
        for line in lines
        if "grad_norm" in line
        for value in (line["loss"], line["grad_norm"])
    ]


def test_workers_and_packing(tiny_folder: Path, tmp_path: Path) -> None:
    kinds = {
        "plain": (),
        "workers": ("trainer.args.dataloader_num_workers=2",),
        "packed": ("model.packed=true",),
    }
    folders = {
        name: run(tiny_folder, tmp_path / name, *ROWS, *extra) for name, extra in kinds.items()
    }
    weights = {
        name: (f / "final_checkpoint" / "model.safetensors").read_bytes()
        for name, f in folders.items()
    }
    assert weights["plain"] == weights["workers"]
    assert len(norms(folders["plain"])) == 4
    assert norms(folders["packed"]) == pytest.approx(norms(folders["plain"]), rel=1e-5)


def test_rows_dealt_by_length_pad_less(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the order in which they are drawn: the same steps, at fewer positions."""
    from unteach.data.steps import Steps

    positions: list[int] = []
    real = Trainer.compute_loss

    def counted(
        self: Trainer, model: object, inputs: dict, *args: object, **given: object
    ) -> object:
        positions[-1] += inputs["input_ids"].numel()
        return real(self, model, inputs, *args, **given)

    monkeypatch.setattr(Trainer, "compute_loss", counted)
    found = []
    for name in ("sorted", "drawn"):
        if name == "drawn":
            monkeypatch.setattr(
                Steps,
                "_sort_longest_first",
                lambda self, name, drawn: list(range(len(drawn[name]))),
            )
        positions.append(0)
        found.append(norms(run(tiny_folder, tmp_path / name, *ROWS)))
    assert positions[0] < positions[1]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
