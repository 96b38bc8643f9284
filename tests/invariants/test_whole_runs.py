"""Methods through the real Trainer: alternates that change by epoch, state that survives, splits
and processes."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TORCHRUN
from tests.doors import train
from unteach import run_dir
from unteach.errors import UserError
from unteach.training import alternates, checkpoint, save

IDK = "data.forget=TOFU_QA_forget_idk"


@pytest.fixture(scope="module")
def corpus(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's corpus with 6 forget rows, which no batch divides, and 5 retain rows."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, size in (("forget10", 6), ("retain90", 5)):
        lines = (kit / "data" / f"{name}.jsonl").read_text().splitlines()[:size]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def words(
    kit: Path, corpus: Path, folder: Path, method: str, *extra: str, split: str = "4x1"
) -> list[str]:
    size, accumulation = split.split("x")
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        "model.model_args.dtype=float32",
        f"tofu_path={corpus}",
        "task_name=t",
        f"paths.output_dir={folder}",
        "eval=null",
        f"paths.cache_dir={folder.parent / 'cache'}",
        f"trainer={method}",
        "trainer.args.logging_steps=1",
        f"trainer.args.per_device_train_batch_size={size}",
        f"trainer.args.gradient_accumulation_steps={accumulation}",
        "trainer.args.num_train_epochs=3",
        "trainer.args.warmup_epochs=0",
        *extra,
    ]


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


@pytest.mark.parametrize("split", ["4x1", "1x4"])
def test_dpo_meets_each_epochs_own_alternate_and_its_reference(
    split: str, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """With the weights held still every step of every epoch loses (2/beta) log 2: policy and table
    see the same pair."""
    extra = (
        IDK,
        "trainer.args.learning_rate=0.0",
        "trainer.method_args.beta=0.5",
        "trainer.method_args.alpha=0.0",
    )
    train(*words(kit, corpus, tmp_path / "run", "DPO", *extra, split=split), config_name="unlearn")
    lines = logged(tmp_path / "run")
    assert len(lines) == 6
    assert [line["loss"] for line in lines] == pytest.approx([4 * math.log(2)] * 6, rel=1e-5)
    assert len({round(line["grad_norm"], 3) for line in lines}) == 6, (
        "other alternates, other gradients"
    )


def test_only_what_is_drawn_is_scored(kit: Path, corpus: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    extra = (IDK, "trainer.args.max_steps=1", "trainer.method_args.alpha=0.0")
    train(*words(kit, corpus, tmp_path / "run", "DPO", *extra), config_name="unlearn")
    table = load_file(tmp_path / "run" / "reference" / "alternate.safetensors")
    assert table["starts"].shape == (1, 6)
    assert int((table["starts"] < len(table["values"])).sum()) == 4, "one step of 4 rows"


def test_altpo_invents_once_and_takes_turns(
    kit: Path, corpus: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    extra = (
        "trainer.args.learning_rate=0.0",
        "trainer.method_args.n_alternates=2",
        "trainer.method_args.max_new_tokens=8",
        "trainer.method_args.alpha=0.0",
    )
    train(*words(kit, corpus, tmp_path / "a", "AltPO", *extra), config_name="unlearn")
    (kept,) = (tmp_path / "cache" / "alternates").iterdir()
    texts = json.loads(kept.read_text())
    assert [len(row) for row in texts] == [2] * 6
    assert len({text for row in texts for text in row}) > 6
    assert [line["loss"] for line in logged(tmp_path / "a")] == pytest.approx(
        [20 * math.log(2)] * 6, rel=1e-5
    )
    monkeypatch.setattr(alternates, "_sample_texts", lambda *_: pytest.fail("it has them already"))
    train(
        *words(kit, corpus, tmp_path / "b", "AltPO", *extra, "trainer.method_args.beta=0.2"),
        config_name="unlearn",
    )
    invented = alternates.InventedAnswers(None, ["q"], [["one", "two", "three"]], 0)  # type: ignore[arg-type]
    invented.template = type("T", (), {"encode": staticmethod(lambda q, a: a)})()  # type: ignore[assignment]
    monkeypatch.setattr(alternates, "build_example", lambda encoded, row: encoded)
    taken = [invented.variant(0, epoch)["alternate"] for epoch in range(6)]
    assert sorted(taken[:3]) == sorted(taken[3:]) == ["one", "three", "two"]


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        (
            "PDU",
            (
                "trainer.method_args.retain_loss_eps=0.01",
                "trainer.method_args.dual_warmup_epochs=0.5",
            ),
        ),
        ("RMU", (r"trainer.method_args.module_regex=model\.layers\.2",)),
        ("DPO", (IDK,)),
        ("LLMU", ()),
        ("IdkAP", (IDK, "data.retain=TOFU_QA_retain_idk")),
        ("JensUnPP", (IDK,)),
        ("CircuitBreaker", ("trainer.method_args.ramp_steps=12",)),
        ("RepNoise", (IDK,)),
    ],
)
def test_a_run_that_goes_on_takes_the_same_steps(
    method: str, extra: tuple, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """Steps 4 to 6 again from the checkpoint of step 3: the same losses, and the same state of the
    method."""
    keeping = (
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=3",
        "trainer.args.keep_checkpoints=true",
        "trainer.args.save_total_limit=9",
        "trainer.args.learning_rate=1e-3",
    )
    command = words(kit, corpus, tmp_path / "run", method, *extra, *keeping)
    train(*command, config_name="unlearn")
    first, state = (
        logged(tmp_path / "run"),
        checkpoint.read_state(tmp_path / "run" / "checkpoint-6")["method"],
    )
    train(*command, f"resume={tmp_path / 'run' / 'checkpoint-3'}", config_name="unlearn")
    again = logged(tmp_path / "run")
    assert [line["step"] for line in again] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(first, again, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert checkpoint.read_state(tmp_path / "run" / "checkpoint-6")["method"] == state
    if state:
        assert json.loads((tmp_path / "run" / run_dir.FINAL / save.METHOD).read_text()) == state
    if method == "PDU":
        assert state["multiplier"] != 1.0


@pytest.mark.long
def test_two_processes_move_pdus_multiplier_alike(kit: Path, corpus: Path, tmp_path: Path) -> None:
    extra = (
        "trainer.method_args.retain_loss_eps=0.01",
        "trainer.method_args.dual_warmup_epochs=0.0",
        "trainer.args.keep_checkpoints=true",
        "trainer.args.max_steps=3",
        "trainer.args.learning_rate=1e-4",
    )
    train(*words(kit, corpus, tmp_path / "one", "PDU", *extra), config_name="unlearn")
    command = [
        *TORCHRUN,
        "unlearn",
        *words(kit, corpus, tmp_path / "two", "PDU", *extra, split="2x1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    states = [
        checkpoint.read_state(tmp_path / n / "checkpoint-3")["method"]["multiplier"]
        for n in ("one", "two")
    ]
    assert states[1] == pytest.approx(states[0], rel=1e-5)
    assert states[0] != 1.0


def test_a_forget_set_without_alternates_is_refused(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"needs another answer .* data\.forget=TOFU_QA_forget_idk"):
        train(*words(kit, corpus, tmp_path / "run", "DPO"), config_name="unlearn")


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("arc_ascent", ("GradAscent", {"loss_on": "all", "alpha": 0.0})),
        (
            "arc_difference",
            ("GradDiff", {"loss_on": "all", "gamma": 1.0, "alpha": 1.0, "retain_loss_type": "NLL"}),
        ),
        ("arc_kl", ("GradDiff", {"loss_on": "all", "alpha": 1.0, "retain_loss_type": "KL"})),
        ("arc_idk", ("IdkSFT", {"loss_on": "all", "gamma": 0.5, "alpha": 0.5})),
        ("csv_npo", ("NPO", {"alpha": 0.0, "beta": 0.1})),
        ("csv_ga", ("SignedSFT", {"loss_on": "completion"})),
    ],
)
def test_presets_are_what_they_say(
    preset: str, said: tuple, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    from unteach.config.compose import compose

    command = words(kit, corpus, tmp_path / "run", preset)
    if preset == "csv_ga":  # its rows are one stream, `train`
        command[0] = "experiment=finetune/tofu/default"
    trainer: Any = compose("train" if preset == "csv_ga" else "unlearn", command).trainer
    assert trainer.handler == said[0]
    assert {name: getattr(trainer.method, name) for name in said[1]} == said[1]


def test_csv_ga_reads_the_column_that_marks_what_to_forget(kit: Path, tmp_path: Path) -> None:
    """Rows of one file: with forget 0 everywhere the run is SFT's, with 1 everywhere its
    opposite."""
    found = {}
    for name, forget in (("finetune", 0), ("csv_ga", 0), ("ascent", 1)):
        corpus = tmp_path / name
        corpus.mkdir()
        rows = [
            json.loads(line)
            for line in (kit / "data" / "forget10.jsonl").read_text().splitlines()[:6]
        ]
        (corpus / "forget10.jsonl").write_text(
            "".join(json.dumps({**row, "forget": forget}) + "\n" for row in rows)
        )
        trainer = "finetune" if name == "finetune" else "csv_ga"
        command = words(kit, corpus, tmp_path / f"{name}-run", trainer, "data.train=TOFU_QA_forget")
        command[0] = "experiment=finetune/tofu/default"
        marked = (
            "data.train.TOFU_QA_forget.args.forget_key=forget",
            "trainer.args.learning_rate=0.0",
        )
        train(*command, *marked)
        found[name] = [line["loss"] for line in logged(tmp_path / f"{name}-run")]
    assert found["csv_ga"] == found["finetune"]
    assert found["ascent"] == [-loss for loss in found["finetune"]]
