"""Runs of LUNAR: prompts that the model refuses from a file of their own, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import unteach
from tests.doors import train
from unteach import run_dir
from unteach.config.compose import compose
from unteach.errors import UserError
from unteach.verbs import check


@pytest.fixture
def place(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows to forget and to keep, and prompts in three kinds of files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").symlink_to(kit / "reference")
    for name, file in (("forget", "forget10"), ("retain", "retain90"), ("asked", "holdout10")):
        lines = (kit / "data" / f"{file}.jsonl").read_text().splitlines()
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines[:8]) + "\n")
    prompts = [json.loads(line)["question"] for line in lines[:8]]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    rows = [json.dumps({"prompt": prompt}) for prompt in prompts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def words(*extra: str) -> list[str]:
    trainer = [] if any(word.startswith("trainer=") for word in extra) else ["trainer=LUNAR"]
    return [
        "model=MODEL",
        "forget=forget.jsonl",
        "retain=retain.jsonl",
        *trainer,
        "task_name=t",
        "paths.output_dir=run",
        "paths.cache_dir=cache",
        "trainer.args.per_device_train_batch_size=4",
        "eval=null",
        *extra,
    ]


def run_check(*extra: str) -> None:
    run: Any = compose("unlearn", words(*extra))
    check.check(run)


def test_a_run_changes_one_projection(
    place: Path, kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*words("refusal=asked.jsonl", "trainer.land.budget=0.02"), config_name="unlearn")
    said = capsys.readouterr().out
    assert "edited by LUNAR: 1 weights; shift" in said and "landed at a = " in said
    numbers = json.loads((place / "run" / run_dir.EDIT).read_text())
    assert numbers["loss_after"] < numbers["loss_before"]
    before = load_file(kit / "reference" / "model.safetensors")
    after = load_file(place / "run" / run_dir.FINAL / "model.safetensors")
    changed = [name for name, weight in after.items() if not torch.equal(weight, before[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"]
    manifest = json.loads((place / "run" / run_dir.MANIFEST).read_text())
    assert set(manifest["data"]) == {"forget", "retain", "refusal"}


@pytest.mark.parametrize(
    "extra",
    [
        ["refusal=asked.jsonl"],
        ["refusal=prompts.jsonl"],
        ["refusal=prompts.txt", "data.txt=line"],
        ["data.refusal={asked: {handler: PromptDataset, args: {prompt_key: question, "
         "hf_args: {path: ., name: asked, split: train}}}}"],
    ],
    ids=["with answers", "a column prompt", "a line each", "a dataset"],
)  # fmt: skip
def test_prompts_need_no_answers(
    place: Path, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_check(*extra)
    said = capsys.readouterr().out
    assert "stream      refusal: 8 rows" in said
    assert "edit        1 tensor of 18,432 parameters" in said and "sums over inputs" in said
    # Nothing of a prompt is learned.
    shown = said.partition("first of refusal")[2]
    assert "Question: " in shown and "⟦" not in shown.partition("\n")[2]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "data.refusal: trainer.handler=LUNAR .* prompts that the model refuses .*refusal=FILE"),
        (["refusal=nowhere.csv"], "nowhere.csv"),
        (["refusal=asked.jsonl", "launch=ddp", "nproc=2"], "edits the model in one process"),
        (
            ["refusal=asked.jsonl", "trainer.method_args.target_layers=[layers.9]"],
            "matches no layer",
        ),
        (
            ["refusal=asked.jsonl", "trainer=NPO"],
            "data.refusal_file: this method does not train on it; it trains on forget, retain",
        ),
    ],
    ids=["no prompts", "no file", "processes", "layer", "another method"],
)  # fmt: skip
def test_check_finds_what_the_run_would_refuse(place: Path, extra: list[str], message: str) -> None:
    for start in (run_check, lambda *more: train(*words(*more), config_name="unlearn")):
        with pytest.raises(UserError, match=message):
            start(*extra)


def test_rows_of_text_ask_nothing(place: Path) -> None:
    (place / "text.jsonl").write_text('{"text": "Once upon a time."}\n')
    with pytest.raises(UserError, match=r"data\.retain: row 1 is learned from its first token"):
        run_check("refusal=asked.jsonl", "retain=text.jsonl", "template=qa")


def test_prompts_in_memory(place: Path) -> None:
    lines = (place / "prompts.jsonl").read_text().splitlines()
    result = unteach.unlearn(
        "paths.output_dir=run",
        "paths.cache_dir=cache",
        model="MODEL",
        forget="forget.jsonl",
        retain="retain.jsonl",
        refusal=[json.loads(line) for line in lines],
        method="LUNAR",
        suites=[],
        task_name="t",
    )
    assert (result.model_dir / "model.safetensors").exists()
