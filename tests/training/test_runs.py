"""Whole runs on small real data: what is logged, what is saved, and that nothing depends on how a
step is dealt."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.conftest import TORCHRUN, read_rows
from tests.doors import train
from unteach import atomic, fingerprints, run_dir
from unteach.config import training_args
from unteach.errors import Diverged, UserError
from unteach.testing import method_loss
from unteach.training.build_args import note_idle_optimizer


@pytest.fixture(scope="module")
def corpus(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's corpus with 13 forget rows, which no batch divides, and 9 retain rows."""
    folder = tmp_path_factory.mktemp("corpus")
    for file in (kit / "data").iterdir():
        (folder / file.name).write_text(file.read_text())
    for name, size in (("forget10", 13), ("retain90", 9)):
        lines = (kit / "data" / f"{name}.jsonl").read_text().splitlines()[:size]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def words(kit: Path, corpus: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        "model.model_args.dtype=float32",
        f"tofu_path={corpus}",
        "task_name=t",
        f"paths.output_dir={folder}",
        "eval=null",
        "trainer.args.logging_steps=1",
        "trainer.args.per_device_train_batch_size=4",
        "trainer.args.warmup_epochs=0",
        "trainer.args.gradient_accumulation_steps=2",
        *extra,
    ]


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("GradAscent", "GradDiff")]


@pytest.mark.parametrize("method", ["NPO", *LONG])
def test_every_split_takes_the_same_steps(
    method: str, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """8x1, 4x2, 2x4 and 1x8 through the real Trainer, two epochs of a full and a short step,
    weights held still."""
    found = {}
    for size, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        folder = tmp_path / f"{size}x{accumulation}"
        split = (
            f"trainer.args.per_device_train_batch_size={size}",
            f"trainer.args.gradient_accumulation_steps={accumulation}",
        )
        extra = (
            f"trainer={method}",
            "trainer.args.learning_rate=0.0",
            "trainer.args.num_train_epochs=2",
        )
        train(*words(kit, corpus, folder, *extra, *split), config_name="unlearn")
        found[folder.name] = [
            (line["loss"], line["grad_norm"], line["forget_loss"]) for line in logged(folder)
        ]
    assert len(found["8x1"]) == 4
    for split, lines in found.items():
        assert torch.allclose(
            torch.tensor(lines), torch.tensor(found["8x1"]), rtol=1e-5, atol=1e-6
        ), split


def test_a_run_logs_what_method_loss_gives(kit: Path, corpus: Path, tmp_path: Path) -> None:
    small = tmp_path / "corpus"
    small.mkdir()
    rows = {name: read_rows(corpus / f"{name}.jsonl")[:4] for name in ("forget10", "retain90")}
    for name, taken in rows.items():
        (small / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taken))
    extra = (
        "trainer=NPO",
        "trainer.method_args.beta=0.2",
        "trainer.args.max_steps=1",
        "trainer.args.learning_rate=0.0",
    )
    train(*words(kit, small, tmp_path / "run", *extra), config_name="unlearn")
    loss, norm = method_loss(
        "NPO", {"beta": 0.2}, kit / "policy", kit / "policy", *rows.values(), {}
    )
    line = logged(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(loss, rel=1e-5)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_final_model_is_one_that_plain_transformers_loads(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    import transformers

    from unteach.verbs.load import load

    train(
        *words(kit, corpus, tmp_path / "run", "trainer=NPO", "trainer.args.max_steps=2"),
        config_name="unlearn",
    )
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "run" / run_dir.FINAL, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / run_dir.FINAL)
    ours = load(str(tmp_path / "run"))
    ids = torch.tensor([tokenizer("Question: Who?\nAnswer:\nAnn")["input_ids"]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, ours.model(ids).logits, atol=1e-6)
        start = transformers.AutoModelForCausalLM.from_pretrained(
            kit / "policy", dtype=torch.float32
        )
        assert not torch.allclose(plain(ids).logits, start(ids).logits, atol=1e-4), (
            "the run changed nothing"
        )


def test_finished_work_is_not_done_again(
    kit: Path, corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    command = words(kit, corpus, tmp_path / "run", "trainer.args.max_steps=1")
    train(*command, config_name="unlearn")
    written = (tmp_path / "run" / run_dir.METRICS).stat().st_mtime_ns
    train(*command, config_name="unlearn")
    assert (tmp_path / "run" / run_dir.METRICS).stat().st_mtime_ns == written
    assert "finished before" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run" / run_dir.FINAL)
    train(*command, config_name="unlearn")
    assert (
        "final_checkpoint is no longer there; resume=never trains it again"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match=r"trainer\.args\.learning_rate"):
        train(*command, "trainer.args.learning_rate=1.0", config_name="unlearn")


def test_a_run_that_diverges_stops_before_the_step(kit: Path, corpus: Path, tmp_path: Path) -> None:
    extra = (
        "trainer.args.learning_rate=1e30",
        "trainer.args.max_steps=5",
        "trainer.args.max_grad_norm=0.0",
    )
    with pytest.raises(Diverged, match=r"step 2: .*not finite"):
        train(*words(kit, corpus, tmp_path / "run", *extra), config_name="unlearn")
    assert not (tmp_path / "run" / run_dir.FINAL).exists()
    assert not (tmp_path / "run" / run_dir.DONE).exists()


def test_a_method_without_its_stream_is_refused(kit: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trains on the stream 'train'"):
        train(*words(kit, corpus, tmp_path / "run", "trainer=finetune"), config_name="unlearn")


def test_evaluation_during_training(kit: Path, corpus: Path, tmp_path: Path) -> None:
    command = [word for word in words(kit, corpus, tmp_path / "run") if word != "eval=null"]
    extra = (
        "eval.tofu.metrics=[forget_Q_A_Prob]",
        "trainer.args.eval_strategy=steps",
        "trainer.args.eval_steps=1",
    )
    train(*command, *extra, "trainer.args.max_steps=2", config_name="unlearn")
    values = [
        json.loads((tmp_path / "run" / part / "TOFU_SUMMARY.json").read_text())["forget_Q_A_Prob"]
        for part in ("checkpoint-1/evals", "checkpoint-2/evals", "evals")
    ]
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[2], abs=1e-6)
    lines = [
        json.loads(line) for line in (tmp_path / "run" / run_dir.METRICS).read_text().splitlines()
    ]
    assert [
        line["eval_tofu_forget_Q_A_Prob"] for line in lines if "eval_tofu_forget_Q_A_Prob" in line
    ] == values[:2]


@pytest.mark.parametrize("method", ["NPO", pytest.param("GradDiff", marks=pytest.mark.long)])
def test_two_processes_take_the_same_steps_and_measure_the_same(
    method: str, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """One process and two under torchrun: the same losses and gradients at every step, the same
    evaluation file."""
    metrics = "eval.tofu.metrics=[forget_truth_ratio,retain_Q_A_ROUGE]"
    extra = [
        f"trainer={method}",
        "trainer.args.max_steps=3",
        "trainer.args.learning_rate=1e-4",
        metrics,
    ]
    command = [word for word in words(kit, corpus, tmp_path / "one", *extra) if word != "eval=null"]
    train(*command, config_name="unlearn")
    two = [
        w.replace(str(tmp_path / "one"), str(tmp_path / "two")).replace(
            "accumulation_steps=2", "accumulation_steps=1"
        )
        for w in command
    ]
    torchrun = [
        *TORCHRUN,
        "unlearn",
    ]
    done = subprocess.run(
        [*torchrun, *two], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for one_line, two_line in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        for key in ("loss", "grad_norm", "forget_loss", "retain_loss"):
            assert two_line[key] == pytest.approx(one_line[key], rel=1e-4), key
    files = [
        json.loads((tmp_path / n / run_dir.EVALS / "TOFU_EVAL.json").read_text())
        for n in ("one", "two")
    ]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        assert files[1][name]["agg_value"] == pytest.approx(
            files[0][name]["agg_value"], abs=1e-4
        ), name
    manifest = json.loads((tmp_path / "two" / run_dir.MANIFEST).read_text())
    assert manifest["world"] == 2


def test_the_last_steps_are_logged_however_few(kit: Path, corpus: Path, tmp_path: Path) -> None:
    steps = (
        "trainer.args.max_steps=3",
        "trainer.args.logging_steps=2",
        "trainer.args.learning_rate=0.0",
    )
    train(*words(kit, corpus, tmp_path / "run", *steps), config_name="unlearn")
    assert [line["step"] for line in logged(tmp_path / "run")] == [2, 3]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("retain_logs_path=nothing.json", "nothing.json"), ("tofu_path=EMPTY", "its rows are absent")],
)
def test_what_a_suite_lacks_is_said_before_training(
    wrong: str, said: str, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for stream in ("forget10", "retain90"):
        (tmp_path / "empty" / f"{stream}.jsonl").write_text(
            (corpus / f"{stream}.jsonl").read_text()
        )
    asked = ("eval.tofu.metrics=[forget_quality]", wrong.replace("EMPTY", str(tmp_path / "empty")))
    command = [word for word in words(kit, corpus, tmp_path / "run", *asked) if word != "eval=null"]
    with pytest.raises(UserError, match=said):
        train(*command, config_name="unlearn")
    assert not (tmp_path / "run" / run_dir.MANIFEST).exists()
    train(*command, "trainer.args.do_eval=false", "trainer.args.max_steps=1", config_name="unlearn")
    assert (tmp_path / "run" / run_dir.FINAL).exists(), "what is not measured lacks nothing"


def test_a_finished_run_is_not_that_of_a_file_that_has_changed(tmp_path: Path) -> None:
    rows, folder = tmp_path / "rows.csv", tmp_path / "run"
    rows.write_text("question,answer\na,b\n")
    memory, base = tmp_path / "memory.json", tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    models = fingerprints.hash_models([str(base), None, "org/name"], memory)
    files = {str(rows): fingerprints.hash_files(rows), "gone.csv": "0"}
    atomic.write_json(
        folder / run_dir.MANIFEST, {"files": files, "models": {**models, "gone": "0"}}
    )
    run_dir.refuse_changed_inputs(folder, memory)
    (base / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"base: not what .*run was trained on"):
        run_dir.refuse_changed_inputs(folder, memory)
    (base / "model.safetensors").write_bytes(b"weights")
    rows.write_text("question,answer\na,c\n")
    with pytest.raises(UserError, match=r"rows\.csv: not what .*run was trained on\. resume=never"):
        run_dir.refuse_changed_inputs(folder, memory)


def test_steps_that_change_nothing_are_said() -> None:
    def notes(**given: Any) -> list[str]:
        return note_idle_optimizer(
            transformers.TrainingArguments(output_dir="x", use_cpu=True, **given)
        )

    assert (
        notes(max_steps=2, warmup_steps=1)
        == notes(warmup_steps=100)
        == notes(max_steps=2, warmup_steps=0.1)
        == []
    )
    assert notes(learning_rate=0.0) == ["trainer.args.learning_rate is 0: nothing is learned"]
    assert (
        "warmup_steps=100 of max_steps=2: the learning rate is never reached"
        in notes(max_steps=2, warmup_steps=100)[0]
    )
    with pytest.raises(UserError, match=r"warmup_ratio=5: must be below 1"):
        training_args.translate_old_names({"warmup_ratio": 5})
    assert training_args.translate_old_names({"warmup_ratio": 0.1})[0] == {"warmup_steps": 0.1}


def test_checkpoints_are_written_after_the_steps_that_are_named(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """Four steps, and no strategy that would write any."""
    keep = ["trainer.args.save_strategy=no", "trainer.args.keep_checkpoints=true"]
    keep += ["trainer.args.save_total_limit=4", "trainer.args.num_train_epochs=2"]
    with pytest.raises(UserError, match="step 5 is after the last one of this run, 4"):
        train(*words(kit, corpus, tmp_path / "none", *keep, "trainer.args.save_at_steps=[1,5]"))
    train(*words(kit, corpus, tmp_path / "run", *keep, "trainer.args.save_at_steps=[3,1]"))
    checkpoints = [path.name for path in (tmp_path / "run").glob("checkpoint-*")]
    assert sorted(checkpoints) == ["checkpoint-1", "checkpoint-3"]


@pytest.mark.parametrize("steps", [3, "3", [0], [1.5], [True], {"a": 1}])
def test_steps_of_checkpoints_are_whole_numbers(steps: object) -> None:
    fault = training_args.find_fault("save_at_steps", steps)
    assert fault is not None and fault.startswith("must be a list of steps, each 1 or more, got")


def test_no_checkpoint_is_named_after_the_last_step() -> None:
    clashes = training_args.find_clashes({"save_at_steps": [2, 9], "max_steps": 8})
    assert clashes == [("save_at_steps", "step 9 is after the last one, 8")]
    assert not training_args.find_clashes({"save_at_steps": [2, 8], "max_steps": 8})
    assert training_args.find_fault("save_at_steps", None) is None
