"""Each kind of training from a CSV made by hand, through the command's own path, and what it does to the model."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unteach import runs
from unteach.verbs.export import export
from unteach.verbs.train import train


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def words(
    folder: Path, model: Path, trainer: str, *extra: str, **streams: tuple[str, Path, dict[str, Any]]
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
        "~data.train.TOFU_QA_full", "model=auto", f"model.model_args.pretrained_model_name_or_path={model}",
        "task_name=t", f"paths.output_dir={folder}", f"paths.cache_dir={folder.parent / 'cache'}", f"trainer={trainer}",
        "trainer.args.learning_rate=5e-3", "trainer.args.per_device_train_batch_size=4", "model.model_args.dtype=float32",
        "trainer.args.gradient_accumulation_steps=1", "trainer.args.logging_steps=1", "trainer.args.num_train_epochs=4",
        *parts, *extra,
    ]  # fmt: skip


def logged(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]
    return [line[key] for line in lines if key in line]


PAIRS = [
    {"input": f"Who wrote book {i}?", "chosen": f"Anna did, in {1900 + i}.", "rejected": f"I like number {i}."}
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
    rows = [{"input": r["input"], "output": r[side], "label": int(side == "chosen")} for r in PAIRS for side in ("chosen", "rejected")]  # fmt: skip
    file = write(tmp_path / "rows.csv", rows)
    args = {**ASKED, "answer_key": "output"}
    train(*words(tmp_path / "labels", tiny_folder, "KTO", train=("FeedbackDataset", file, args)))
    liked, other = (logged(tmp_path / "labels", f"reward_{side}") for side in ("desirable", "undesirable"))
    assert liked[-1] > max(liked[0], other[-1])
    assert all(value >= 0 for value in logged(tmp_path / "labels", "kl"))
    pairs = ("FeedbackDataset", write(tmp_path / "pairs.csv", PAIRS), {**ASKED, "chosen_key": "chosen", "rejected_key": "rejected"})  # fmt: skip
    train(*words(tmp_path / "pairs", tiny_folder, "KTO", train=pairs))
    assert logged(tmp_path / "pairs", "loss")[0] == pytest.approx(logged(tmp_path / "labels", "loss")[0], rel=0.2)


WORDS = {"fruit": ("apple", "pear", "plum"), "tool": ("saw", "drill", "axe"), "bird": ("owl", "crow", "tit")}
TEXTS = [
    {"input": f"{'Look, ' * (i % 3)}here is {'an old ' * (i % 2)}{word} for you", "output": label}
    for label, words_ in WORDS.items() for i, word in enumerate(words_ * 2)
]  # fmt: skip


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_a_classifier_learns_and_is_read_by_the_library(adapted: bool, tiny_folder: Path, tmp_path: Path) -> None:
    """All of it, or an adapter and the head; saved with its label names, and asked by plain transformers and PEFT."""
    import peft
    import transformers

    file = write(tmp_path / "texts.csv", TEXTS)
    extra = ["trainer.args.num_train_epochs=25", "trainer.args.learning_rate=1e-2"]
    extra += ["model.peft_args={r: 8, target_modules: all-linear, lora_dropout: 0.0}"] if adapted else []
    folder = tmp_path / "run"
    train(*words(folder, tiny_folder, "classify", *extra, train=("LabelledDataset", file, {})))
    assert logged(folder, "loss")[-1] < 0.2 * logged(folder, "loss")[0]
    assert logged(folder, "accuracy")[-1] == 1.0
    if adapted:
        base = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=3)
        model = peft.PeftModel.from_pretrained(base, folder / runs.FINAL).eval()
        export(str(folder), to=str(tmp_path / "merged"))
        merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
        names: Any = json.loads((folder / runs.FINAL / "unteach_head.json").read_text())["labels"]
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / runs.FINAL)
        names = [model.config.id2label[k] for k in range(3)]
    assert names == ["bird", "fruit", "tool"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / runs.FINAL)
    if adapted:
        asked = tokenizer(TEXTS[0]["input"], return_tensors="pt")
        assert torch.allclose(merged(**asked).logits, model(**asked).logits, atol=1e-4)
        assert list(merged.config.id2label.values()) == names
    said = [names[int(model(**tokenizer(row["input"], return_tensors="pt")).logits.argmax())] for row in TEXTS]
    assert said == [row["output"] for row in TEXTS]


def test_a_regression_learns(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"input": f"there are {' '.join(['very'] * n)} many", "output": n / 2} for n in range(8)]
    file = write(tmp_path / "rows.csv", rows)
    extra = ("trainer.args.num_train_epochs=20", "trainer.args.learning_rate=1e-2")
    train(*words(tmp_path / "run", tiny_folder, "regress", *extra, train=("ScoredDataset", file, {})))
    loss = logged(tmp_path / "run", "loss")
    assert loss[-1] < 0.1 * loss[0]
    assert json.loads((tmp_path / "run" / runs.FINAL / "config.json").read_text())["problem_type"] == "regression"
