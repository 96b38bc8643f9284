"""Rows held out: the method's own rule over all of them, for any batch and any number of processes,
and what goes by it."""

import csv
import json
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.doors import train
from tests.training.test_kinds import ASKED, PAIRS, TEXTS, logged, words, write
from unteach import run_dir
from unteach.config.compose import compose
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.streams import Stream
from unteach.distributed.process_context import SINGLE_PROCESS, DistContext
from unteach.errors import UserError
from unteach.models.reference import compute_table
from unteach.testing import build_method
from unteach.testing.tiny_world import build_tiny_world
from unteach.training.guard import NeverPreempted
from unteach.training.step import setup_method
from unteach.training.validation import FILE, Validation


def measured(
    world: Any, method: Any, place: Path, size: int, dist: DistContext = SINGLE_PROCESS
) -> dict[str, float]:
    policy, frozen, rows = world
    collator = DataCollatorForSupervisedDataset(policy.tokenizer)
    streams = {name: Stream(name, [examples]) for name, examples in rows.items()}
    setup_method(policy.model, method, 0, streams)
    tables = {
        name: compute_table(
            frozen, streams[name], [(row, 0) for row in range(len(streams[name]))], collator, 4
        )
        for name in method.reference()
    }
    return Validation(method, streams, lambda: tables, collator, size, dist).measure(
        policy.model, place
    )


def in_two(work: Callable[[DistContext], Any]) -> list[Any]:
    """What each of two processes finds, played by threads that wait for one another wherever they
    gather."""
    meeting, said = threading.Barrier(2, timeout=60), [[], []]

    def run(rank: int) -> Any:
        def gather(mine: list[Any]) -> list[Any]:
            said[rank] = mine
            meeting.wait()
            found = [*said[0], *said[1]]
            meeting.wait()
            return found

        return work(NeverPreempted(rank, 2, gather, torch.device("cpu")))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1)))


@pytest.mark.parametrize(
    "name", ["SFT", "SignedSFT", "PrefDPO", "ORPO", "KTO", "Classify", "Regress"]
)
def test_batches_and_processes_change_nothing(name: str, tmp_path: Path) -> None:
    """13 rows by 3, by 8, and by 2 in each of two processes, of which the second has fewer of
    them."""
    method = build_method(name, {"class_weights": "inferred"} if name == "Classify" else {})
    world = build_tiny_world(method)
    once = measured(world, method, tmp_path / "3", 3)
    assert once["eval_loss"] != 0
    again = measured(world, method, tmp_path / "8", 8)
    two = in_two(lambda dist: measured(world, method, tmp_path / str(dist.rank), 2, dist))
    assert two[0] == two[1]
    for other in (again, two[0]):
        assert other == pytest.approx(once, rel=1e-5, abs=1e-6)
    written = json.loads((tmp_path / "3" / FILE).read_text())
    assert written["loss"] == once["eval_loss"]
    assert written["rows"] == 13


def test_the_loss_of_held_out_rows_is_the_loss_of_a_step_over_them(tmp_path: Path) -> None:
    """With nothing learned between, a step over the same rows loses what their validation said;
    perplexity is its exp."""
    from unteach.testing import step_gradient

    method = build_method("SFT")
    policy, frozen, rows = build_tiny_world(method)
    found = measured((policy, frozen, rows), method, tmp_path, 5)
    _, loss = step_gradient(policy, method, rows, frozen, num_micro_batches=1)
    assert found["eval_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found["eval_perplexity"] == pytest.approx(math.exp(float(loss)), rel=1e-5)


def test_classes_are_told_by_scikit_learn(tmp_path: Path) -> None:
    from unteach.methods.finetune.scores import score_classification

    labels, sure = [0, 0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]
    found = score_classification(labels, sure, ("no", "yes"))
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert (found["precision_yes"], found["recall_yes"]) == (pytest.approx(2 / 3), 1.0)
    assert (found["precision_no"], found["recall_no"]) == (1.0, 0.5)
    assert found["confusion"] == [
        {"label": "no", "as no": 1, "as yes": 1},
        {"label": "yes", "as no": 0, "as yes": 2},
    ]
    at = {row["threshold"]: row["accuracy"] for row in found["thresholds"]}
    assert (at[0.7], at[0.1], at[0.9]) == (1.0, 0.5, 0.5)
    assert list(at) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9]), (
        "mean and median too"
    )
    apart = score_classification([0, 0], [[0.9, 0.1], [0.8, 0.2]], ("no", "yes"))
    assert {key for key in apart if key.endswith("_yes")} == set(), "no row tells anything of it"
    assert apart["classes"][1] == {
        "label": "yes",
        "precision": None,
        "recall": None,
        "f1": None,
        "rows": 0,
    }
    assert (apart["accuracy"], apart["macro_f1"]) == (1.0, 1.0)
    three = score_classification(
        [0, 1, 2], [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2]], ("a", "b", "c")
    )
    assert {"threshold": 0.6, "kept": pytest.approx(2 / 3), "accuracy": 1.0} in three["thresholds"]


def held_out(tiny_folder: Path, tmp_path: Path, *extra: str) -> list[str]:
    """A classifier with two of each label held out, measured every second step."""
    learned, apart = (
        [row for i, row in enumerate(TEXTS) if (i % 6 >= 4) is held] for held in (False, True)
    )
    return words(
        tmp_path / "run",
        tiny_folder,
        "classify",
        "trainer.args.eval_strategy=steps",
        "trainer.args.eval_steps=3",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=3",
        "trainer.args.learning_rate=1e-2",
        *extra,
        train=("LabelledDataset", write(tmp_path / "train.csv", learned), {}),
        validation=("LabelledDataset", write(tmp_path / "held.csv", apart), {}),
    )


def test_the_best_by_held_out_rows_is_kept(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Here the largest loss is called the best, so that the best is not the last."""
    best = (
        "trainer.args.load_best_model_at_end=true",
        "trainer.args.metric_for_best_model=eval_loss",
        "trainer.args.num_train_epochs=20",
        "trainer.args.greater_is_better=true",
        "trainer.args.early_stopping_patience=2",
        "trainer.args.evaluate_before_training=true",
    )
    train(*held_out(tiny_folder, tmp_path, *best))
    folder = tmp_path / "run"
    losses = logged(folder, "eval_loss")
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    assert next(line["step"] for line in lines if "eval_loss" in line) == 0, "before the first step"
    best_at = losses.index(max(losses[1:]))
    assert len(losses) == best_at + 3, "it stopped after two that were not better"
    final = json.loads((folder / run_dir.EVALS / FILE).read_text())
    assert final["loss"] == pytest.approx(losses[best_at], rel=1e-5)
    assert {"accuracy", "macro_f1", "precision_bird", "recall_tool"} <= set(final)
    with (folder / run_dir.EVALS / "validation_classes.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["bird", "fruit", "tool"]
    assert (folder / "checkpoint-3" / run_dir.EVALS / FILE).exists()
    assert f"validation: loss {losses[best_at]:.4g}, accuracy" in capsys.readouterr().out


def test_preferences_that_are_held_out(tiny_folder: Path, tmp_path: Path) -> None:
    """At the start the margin of every pair is 0 and the loss log 2; a method that unlearns is
    measured by plain loss."""
    streams: dict[str, Any] = {
        "train": ("PreferenceDataset", write(tmp_path / "train.csv", PAIRS[:6]), ASKED),
        "validation": ("PreferenceDataset", write(tmp_path / "held.csv", PAIRS[6:]), ASKED),
    }
    extra = ("trainer.args.eval_strategy=epoch", "trainer.args.eval_on_start=true")
    train(*words(tmp_path / "run", tiny_folder, "PrefDPO", *extra, **streams))
    assert logged(tmp_path / "run", "eval_loss")[0] == pytest.approx(math.log(2), rel=1e-5)
    margin = logged(tmp_path / "run", "eval_margin")
    assert margin[0] == pytest.approx(0, abs=1e-5)
    assert margin[-1] > 0.01
    assert logged(tmp_path / "run", "eval_preference_accuracy")[-1] == 1.0


def test_labels_of_held_out_rows_must_be_known(tiny_folder: Path, tmp_path: Path) -> None:
    rows = (
        "LabelledDataset",
        write(tmp_path / "held.csv", [TEXTS[0], {"input": "a shoe", "output": "froot"}]),
        {},
    )
    learned = ("LabelledDataset", write(tmp_path / "train.csv", TEXTS), {})
    with pytest.raises(
        UserError, match=r"held\.csv: output is 'froot', .* did you mean fruit\? \(line 3\)"
    ):
        train(*words(tmp_path / "run", tiny_folder, "classify", train=learned, validation=rows))
    assert not (tmp_path / "run" / run_dir.FINAL).exists()


def test_a_check_shows_the_labels(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    from unteach.verbs.check import check

    check(compose("train", held_out(tiny_folder, tmp_path)))
    said = capsys.readouterr().out
    assert "validation  6 rows" in said
    assert re.search(r"line \d+: .*here is .* for you ⟦(fruit|tool|bird)⟧", said)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            ("trainer.args.metric_for_best_model=eval_acuracy",),
            "'eval_acuracy' is not measured; did you mean accuracy",
        ),
        (
            ("eval=tofu", "tofu_path=authors"),
            "eval: asks a language model, and trainer.handler=classify trains none",
        ),
        (("trainer.guard={}",), "trainer.guard: asks a language model"),
        (("trainer.method_args.labels=[a]",), "two or more different ones"),
        (("trainer.method_args.class_weights={a: 0}",), "class_weights must be above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    extra: tuple[str, ...], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        compose("train", held_out(tiny_folder, tmp_path, *extra))
    assert said in str(caught.value).replace("Classify", "classify")


def test_weights_are_of_known_labels(tiny_folder: Path, tmp_path: Path) -> None:
    for given, said in (
        ("{fruit: 1.0, tol: 2.0, bird: 1.0}", "did you mean tool"),
        ("{fruit: 2}", "no weight for bird, tool"),
    ):
        with pytest.raises(UserError, match=said):
            train(
                *held_out(
                    tiny_folder,
                    tmp_path,
                    f"trainer.method_args.class_weights={given}",
                    "resume=never",
                )
            )


def test_held_out_rows_are_not_among_those_that_are_unlearned(
    tiny_folder: Path, tmp_path: Path
) -> None:
    rows = [{"input": f"Who {i}?", "output": "Ann.", "forget": i % 2} for i in range(8)]
    command = [
        "data=files",
        f"data.train_file={write(tmp_path / 'rows.csv', rows)}",
        "trainer=csv_npo",
        "model=tiny",
    ]
    with pytest.raises(UserError, match=r"give data\.validation_file"):
        train(
            *command,
            "task_name=t",
            f"paths.output_dir={tmp_path / 'run'}",
            "data.validation_fraction=0.5",
        )
