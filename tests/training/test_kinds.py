"""Each kind of training from a CSV made by hand, through the command's own path, and what it does
to the model."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.doors import export, train
from unteach import run_dir


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def words(
    folder: Path,
    model: Path,
    trainer: str,
    *extra: str,
    **streams: tuple[str, Path, dict[str, Any]],
) -> list[str]:
    """A command over streams of (handler, file, the handler's arguments)."""
    parts = []
    for stream, (handler, path, args) in streams.items():
        part = {
            "handler": handler,
            "args": {"hf_args": {"path": str(path)}, **args},
        }
        parts.append(f"data.{stream}={{rows: {json.dumps(part).replace(chr(34), '')}}}")
    return [
        "~data.train.TOFU_QA_full",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={model}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        f"trainer={trainer}",
        "trainer.args.learning_rate=5e-3",
        "trainer.args.per_device_train_batch_size=4",
        "model.model_args.dtype=float32",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.logging_steps=1",
        "trainer.args.num_train_epochs=4",
        *parts,
        *extra,
    ]


def logged(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line[key] for line in lines if key in line]


PAIRS = [
    {
        "input": f"Who wrote book {i}?",
        "chosen": f"Anna did, in {1900 + i}.",
        "rejected": f"I like number {i}.",
    }
    for i in range(8)
]
ASKED = {"prompt_key": "input"}


@pytest.mark.parametrize("name", ["PrefDPO", "CPO", "SimPO", "ORPO"])
def test_preferences_are_learned(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.csv", PAIRS)
    train(*words(tmp_path / "run", tiny_folder, name, train=("PreferenceDataset", file, ASKED)))
    margin, right = (logged(tmp_path / "run", key) for key in ("margin", "preference_accuracy"))
    assert len(margin) == 8
    assert margin[-1] > margin[0]
    assert right[-1] == 1.0
    rewards = [logged(tmp_path / "run", f"reward_{side}")[-1] for side in ("chosen", "rejected")]
    assert rewards[0] - rewards[1] == pytest.approx(margin[-1], rel=1e-4)


def test_kto_moves_liked_answers_up_and_others_down(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"input": r["input"], "output": r[side], "label": int(side == "chosen")}
        for r in PAIRS
        for side in ("chosen", "rejected")
    ]
    file = write(tmp_path / "rows.csv", rows)
    args = {**ASKED, "answer_key": "output"}
    train(*words(tmp_path / "labels", tiny_folder, "KTO", train=("FeedbackDataset", file, args)))
    liked, other = (
        logged(tmp_path / "labels", f"reward_{side}") for side in ("desirable", "undesirable")
    )
    assert liked[-1] > max(liked[0], other[-1])
    assert all(value >= 0 for value in logged(tmp_path / "labels", "kl"))
    pairs = (
        "FeedbackDataset",
        write(tmp_path / "pairs.csv", PAIRS),
        {**ASKED, "chosen_key": "chosen", "rejected_key": "rejected"},
    )
    train(*words(tmp_path / "pairs", tiny_folder, "KTO", train=pairs))
    assert logged(tmp_path / "pairs", "loss")[0] == pytest.approx(
        logged(tmp_path / "labels", "loss")[0], rel=0.2
    )


WORDS = {
    "fruit": ("apple", "pear", "plum"),
    "tool": ("saw", "drill", "axe"),
    "bird": ("owl", "crow", "tit"),
}
TEXTS = [
    {"input": f"{'Look, ' * (i % 3)}here is {'an old ' * (i % 2)}{word} for you", "output": label}
    for label, words_ in WORDS.items()
    for i, word in enumerate(words_ * 2)
]


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_a_classifier_learns_and_is_read_by_the_library(
    adapted: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    """All of it, or an adapter and the head; saved with its label names, and asked by plain
    transformers and PEFT."""
    import peft
    import transformers

    file = write(tmp_path / "texts.csv", TEXTS)
    extra = ["trainer.args.num_train_epochs=25", "trainer.args.learning_rate=1e-2"]
    extra += (
        ["model.peft_args={r: 8, target_modules: all-linear, lora_dropout: 0.0}"] if adapted else []
    )
    folder = tmp_path / "run"
    train(*words(folder, tiny_folder, "classify", *extra, train=("LabelledDataset", file, {})))
    assert logged(folder, "loss")[-1] < 0.2 * logged(folder, "loss")[0]
    assert logged(folder, "accuracy")[-1] == 1.0
    if adapted:
        base = transformers.AutoModelForSequenceClassification.from_pretrained(
            tiny_folder, num_labels=3
        )
        model = peft.PeftModel.from_pretrained(base, folder / run_dir.FINAL).eval()
        export(str(folder), to=str(tmp_path / "merged"))
        merged = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "merged"
        )
        names: Any = json.loads((folder / run_dir.FINAL / "unteach_head.json").read_text())[
            "labels"
        ]
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder / run_dir.FINAL
        )
        names = [model.config.id2label[k] for k in range(3)]
        asked = transformers.pipeline(
            "text-classification", str(folder / run_dir.FINAL), batch_size=4
        )
        assert [one["label"] for one in asked([row["input"] for row in TEXTS])] == [
            row["output"] for row in TEXTS
        ]
    assert names == ["bird", "fruit", "tool"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / run_dir.FINAL)
    if adapted:
        asked = tokenizer(TEXTS[0]["input"], return_tensors="pt")
        assert torch.allclose(merged(**asked).logits, model(**asked).logits, atol=1e-4)
        assert list(merged.config.id2label.values()) == names
    said = [
        names[int(model(**tokenizer(row["input"], return_tensors="pt")).logits.argmax())]
        for row in TEXTS
    ]
    assert said == [row["output"] for row in TEXTS]


def test_a_regression_learns(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"input": f"there are {' '.join(['very'] * n)} many", "output": n / 2} for n in range(8)
    ]
    file = write(tmp_path / "rows.csv", rows)
    extra = ("trainer.args.num_train_epochs=20", "trainer.args.learning_rate=1e-2")
    train(
        *words(tmp_path / "run", tiny_folder, "regress", *extra, train=("ScoredDataset", file, {}))
    )
    loss = logged(tmp_path / "run", "loss")
    assert loss[-1] < 0.1 * loss[0]
    assert (
        json.loads((tmp_path / "run" / run_dir.FINAL / "config.json").read_text())["problem_type"]
        == "regression"
    )


FEEDBACK = [
    {"input": r["input"], "output": r[side], "label": int(side == "chosen")}
    for r in PAIRS
    for side in ("chosen", "rejected")
]
LIKED = {**ASKED, "answer_key": "output"}


def of_kind(name: str, folder: Path, tmp_path: Path, model: Path, *extra: str) -> list[str]:
    """A run of three epochs, of 4 rows a step, with rows held out that are measured every third
    step."""
    handler, rows, args = {
        "PrefDPO": ("PreferenceDataset", PAIRS, ASKED),
        "KTO": ("FeedbackDataset", FEEDBACK, LIKED),
        "classify": ("LabelledDataset", TEXTS, {}),
    }[name]
    files = [
        write(tmp_path / f"{part}.csv", taken)
        for part, taken in (("learned", rows[:-5]), ("held", rows[-5:]))
    ]
    return words(
        folder,
        model,
        name,
        "trainer.args.num_train_epochs=3",
        "trainer.args.eval_strategy=steps",
        "trainer.args.eval_steps=3",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=3",
        "trainer.args.keep_checkpoints=true",
        "trainer.args.save_total_limit=9",
        *extra,
        train=(handler, files[0], args),
        validation=(handler, files[1], args),
    )


@pytest.mark.parametrize("name", ["KTO", "PrefDPO", "classify"])
def test_a_run_that_goes_on_takes_the_same_steps(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """From the checkpoint of step 3 again: the same losses, of steps and of the rows held out."""
    inferred = ["trainer.method_args.class_weights=inferred"] if name == "classify" else []
    command = of_kind(name, tmp_path / "run", tmp_path, tiny_folder, *inferred)
    train(*command)
    first = [logged(tmp_path / "run", key) for key in ("loss", "grad_norm", "eval_loss")]
    train(*command, f"resume={tmp_path / 'run' / 'checkpoint-3'}")
    again = [logged(tmp_path / "run", key) for key in ("loss", "grad_norm", "eval_loss")]
    assert len(first[0]) >= 3
    for one, two in zip(first, again, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("spread", ["ddp", "fsdp2", "zero3"])
@pytest.mark.parametrize("name", ["KTO", "classify"])
def test_two_processes_take_the_same_steps(
    name: str, spread: str, tiny_folder: Path, tmp_path: Path
) -> None:
    extra = ["trainer.method_args.class_weights=inferred"] if name == "classify" else []
    train(*of_kind(name, tmp_path / "one", tmp_path, tiny_folder, *extra))
    two = of_kind(
        name,
        tmp_path / "two",
        tmp_path,
        tiny_folder,
        *extra,
        "trainer.args.per_device_train_batch_size=2",
    )
    command = [sys.executable, "-m", "unteach", "train", *two, f"launch={spread}", "nproc=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for key in ("loss", "eval_loss"):
        assert logged(tmp_path / "two", key) == pytest.approx(
            logged(tmp_path / "one", key), rel=1e-4
        )
