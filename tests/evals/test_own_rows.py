"""Rows of one's own: measured before training and after it, by their role, as they are trained
on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.io.test_tables import write
from tests.data.test_template import CHATML
from tests.doors import evaluate, train
from unteach import atomic, fingerprints, run_dir
from unteach.config import compose, schema
from unteach.data import user_files
from unteach.data.handlers.chat import ChatDataset
from unteach.data.handlers.qa import QADataset
from unteach.data.streams import Stream
from unteach.data.template import Template
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import start_values
from unteach.evals.own_rows import split_example
from unteach.models import loading
from unteach.seeds import permutation
from unteach.training import suites
from unteach.training.alternates import invent
from unteach.verbs.start import start

Planned = Callable[..., tuple[dict[str, Any], list[str]]]
METRICS = ("exact_memorization", "extraction_strength", "prob", "rouge")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Path:
    """A folder with the tiny model, and rows of each role."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").symlink_to(tiny_folder)
    for name, count in (("forget", 3), ("retain", 5), ("holdout", 2)):
        write(
            tmp_path / f"{name}.csv",
            [{"question": f"Who is {name} {i}?", "answer": f"Ann {i}."} for i in range(count)],
        )
    return tmp_path


MODEL = ("model=auto", "model.model_args.pretrained_model_name_or_path=MODEL")
FILES = (
    "data=files",
    "data.forget_file=forget.csv",
    "data.retain_file=retain.csv",
    "data.holdout_file=holdout.csv",
)
STEP = (
    "trainer=GradDiff",
    "trainer.args.max_steps=1",
    "trainer.args.learning_rate=1e-2",
    "trainer.args.save_strategy=no",
)


def read(folder: Path, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"ROWS_{kind}.json").read_text())
    return found


@pytest.fixture
def planned(tiny: Any) -> Planned:
    """Plans the suites of a command on a model that is loaded."""

    def make(name: str, *words: str, loaded: Any = tiny) -> tuple[dict[str, Any], list[str]]:
        config = user_files.resolve_files(compose.compose(name, ("task_name=t", *MODEL, *words)))
        plans, notes = suites.plan_suites(config, loaded)
        return plans, notes

    return make


def test_before_is_what_eval_says_of_the_start_and_training_is_as_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes: list[int] = []
    score_rows = HFEngine.score_rows

    def count(engine: HFEngine, rows: Any) -> Any:
        passes.append(len(rows))
        return score_rows(engine, rows)

    monkeypatch.setattr(HFEngine, "score_rows", count)
    measured = train("task_name=measured", *MODEL, *FILES, *STEP, config_name="unlearn")
    of_both = len(passes)
    shown = "".join(capsys.readouterr())
    plain = train("task_name=plain", *MODEL, *FILES[:3], *STEP, "eval=null", config_name="unlearn")
    assert passes[of_both:] == [5, 5], (
        "eval=null measures nothing; the watch of an ascent looks at the retain rows"
    )
    weights = [
        fingerprints.hash_files(folder / run_dir.FINAL / "model.safetensors")
        for folder in (measured, plain)
    ]
    assert weights[0] == weights[1], "what is measured changes nothing of the training"
    assert not (plain / run_dir.EVALS_BEFORE).exists()

    of_all = len(passes)
    start = evaluate("task_name=start", *MODEL, *FILES, "eval=rows")
    assert len(passes) == of_all, "the same weights and rows are found again"
    assert read(measured / run_dir.EVALS_BEFORE, "EVAL") == read(start, "EVAL")
    end = evaluate(
        "task_name=end",
        "model=auto",
        f"{MODEL[1].partition('=')[0]}={measured}",
        *FILES,
        "eval=rows",
    )
    assert read(measured / run_dir.EVALS, "EVAL") == read(end, "EVAL") != read(start, "EVAL")

    names = {f"{role}_{metric}" for role in ("forget", "retain", "holdout") for metric in METRICS}
    assert set(read(end, "SUMMARY")) == names, (
        "a run without rows of `train` is not asked about them"
    )
    assert not (end / "ROWS_ABSENT.json").exists() and not (end / "ROWS_NOTES.json").exists()
    told = read(end, "METRICS")["forget_prob"]
    assert (told["role"], told["better"], told["decimals"]) == ("forget", "lower", 3)
    old, new = (
        read(measured / folder, "SUMMARY")["forget_prob"]
        for folder in (run_dir.EVALS_BEFORE, run_dir.EVALS)
    )
    assert any(
        line.split() == ["forget", "forget_prob", f"{old:.3f}", f"{new:.3f}", "lower"]
        for line in shown.splitlines()
    )

    # The same again from the start: only what the new weights are is measured, and they are the old
    # ones.
    train("task_name=again", *MODEL, *FILES, *STEP, config_name="unlearn")
    assert passes[of_all:] == [5, 5], "the watch of an ascent keeps nothing"


def test_values_are_those_of_the_rows_as_they_are_trained_on(tiny: Any, planned: Planned) -> None:
    folder = evaluate(
        "task_name=direct",
        *MODEL,
        *FILES[:2],
        "eval=rows",
        "eval.rows.metrics=[forget_prob,forget_rouge]",
    )
    values = read(folder, "EVAL")
    encoded = tiny.template.encode("Who is forget 1?", "Ann 1.")
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([encoded.input_ids])).logits[0]
    log_probs = logits.log_softmax(-1)[len(encoded.prompt) - 1 : -1]
    loss = -log_probs.gather(-1, torch.tensor(encoded.answer)[:, None]).mean()
    assert values["forget_prob"]["value_by_index"]["1"]["avg_loss"] == pytest.approx(
        loss.item(), abs=1e-5
    )
    row = values["forget_rouge"]["value_by_index"]["1"]
    assert (row["question"], row["ground_truth"]) == ("Who is forget 1?", "Ann 1.")
    assert row["input"] == "Question: Who is forget 1?\nAnswer:\n"
    plans, _ = planned("eval", *FILES[:2], "eval=rows")
    assert plans["rows"].rows.build_generation_args("forget.answer")["max_new_tokens"] == 50, (
        "no more than the answers call for"
    )


def test_so_many_rows_are_drawn_by_the_seed_and_it_is_said(planned: Planned) -> None:
    words = ("eval", *FILES[:3], "eval=rows", "eval.rows.max_rows=3")
    plans, notes = planned(*words)
    rows = plans["rows"].rows
    assert rows.load_column("retain.answer").row_indices == sorted(
        permutation(5, 0, "measured rows", "retain")[:3]
    )
    assert rows.load_column("forget.answer").row_indices == [0, 1, 2]
    assert notes == ["measures 3 of 5 retain rows, drawn by seed 0 (eval.rows.max_rows)"]
    others, _ = planned(*words, "seed=2")
    assert (
        others["rows"].rows.load_column("retain.answer").row_indices
        != rows.load_column("retain.answer").row_indices
    )
    folder = evaluate("task_name=few", *MODEL, *words[1:], "eval.rows.metrics=[retain_prob]")
    assert read(folder, "NOTES") == {
        "rows measured of retain": "3 of 5, drawn by seed 0 (eval.rows.max_rows)"
    }
    assert (
        read(folder, "EVAL")["retain_prob"]["n"] == 3
        and read(folder, "ROWS")["retain.answer"]["count"] == 5
    )


def test_a_role_without_rows_is_an_error_only_by_name(planned: Planned) -> None:
    with pytest.raises(
        UserError,
        match=r"asks for train_prob, and .* no train rows; they come from data\.train_file",
    ):
        planned("eval", *FILES[:2], "eval=rows", "eval.rows.metrics=[train_prob]")
    with pytest.raises(UserError, match="measures the run's own rows, and this run has none"):
        planned("eval", "eval=rows")


def test_what_a_run_measured_of_its_start_is_not_measured_when_it_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, planned: Planned, tiny: Any
) -> None:
    from unteach.distributed.process_context import SINGLE_PROCESS

    words = ("task_name=t", *MODEL, *FILES, *STEP)
    calls: list[Any] = []

    def go_on(*more: str) -> None:
        config = user_files.resolve_files(compose.compose("unlearn", (*words, *more)))
        plans, _ = suites.plan_suites(config, tiny)
        suites.measure_before_training(config, plans, Path("saves/unlearn/t"), SINGLE_PROCESS)

    go_on()  # measures, as a run does that starts
    assert (place / "saves/unlearn/t" / run_dir.EVALS_BEFORE / "ROWS_EVAL.json").exists()
    monkeypatch.setattr(suites, "evaluate_before", lambda *given: calls.append(given))
    go_on()
    assert calls == []
    go_on("eval.rows.max_rows=1")
    assert len(calls) == 1, "other rows are measured"
    go_on("eval.rows.before=false")
    go_on("trainer.args.do_eval=false")
    assert len(calls) == 1
    (place / "saves/unlearn/t" / run_dir.EVALS_BEFORE / "ROWS_TOKENS.json").unlink()
    go_on()
    assert len(calls) == 2, "one that was killed before its last file is measured again"


def test_a_model_from_random_weights_is_not_measured_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(
        "task_name=new", "model=tiny", "data=files", "data.train_file=retain.csv", *STEP[1:]
    )
    assert (
        "nothing is measured before training: this model starts from random weights"
        in capsys.readouterr().err
    )
    assert (
        not (run / run_dir.EVALS_BEFORE).exists()
        and (run / run_dir.EVALS / "ROWS_EVAL.json").exists()
    )


def test_rows_held_out_are_those_that_were_never_seen(place: Path, planned: Planned) -> None:
    plans, _ = planned(
        "train", "data=files", "data.train_file=retain.csv", "data.validation_fraction=0.4"
    )
    own = plans["rows"].rows.own
    assert {role: len(rows.row_numbers) for role, rows in own.items()} == {"train": 3, "holdout": 2}
    questions = [set(plans["rows"].rows.load_column(f"{role}.answer").questions) for role in own]
    assert not set.intersection(*questions)
    plans, _ = planned(
        "train",
        "data=files",
        "data.train_file=retain.csv",
        "data.validation_file=forget.csv",
        "data.holdout_file=holdout.csv",
    )
    assert plans["rows"].rows.load_column("holdout.answer").questions[0] == "Who is holdout 0?"


def test_methods_that_look_at_no_retain_rows_are_measured_on_them(
    place: Path, planned: Planned
) -> None:
    plans, _ = planned("unlearn", *FILES[:3], "trainer=GradAscent")
    assert list(plans["rows"].rows.own) == ["forget", "retain"]
    rows = [{"input": f"Who {i}?", "output": " Ann.", "forget": int(i < 3)} for i in range(8)]
    write(place / "marked.csv", rows)
    marked = ("data=files", "data.train_file=marked.csv")
    for name, trainer in (("unlearn", "GradAscent"), ("unlearn", "NPO"), ("train", "csv_ga")):
        plans, _ = planned(
            name, *marked, f"trainer={trainer}", "data.holdout_file=holdout.csv", "template=qa"
        )
        own = plans["rows"].rows.own
        assert {role: len(found.row_numbers) for role, found in own.items()} == {
            "forget": 3,
            "retain": 5,
            "holdout": 2,
        }
        column = plans["rows"].rows.load_column("forget.answer")
        assert column.questions == ["Who 0?", "Who 1?", "Who 2?"], trainer
    plans, _ = planned("eval", *marked, "eval=rows")
    assert {role: len(found.row_numbers) for role, found in plans["rows"].rows.own.items()} == {
        "forget": 3,
        "retain": 5,
    }


def test_holdout_rows_that_nothing_measures_are_refused(place: Path) -> None:
    write(place / "pairs.csv", [{"prompt": "Who?", "chosen": "Ann.", "rejected": "Bob."}])
    one = ("task_name=t", *MODEL, "data=files", "data.holdout_file=holdout.csv")
    for words, said in (
        ((*one, "data.train_file=retain.csv", "eval=null"), "this run has no such suite"),
        ((*one, "data.train_file=retain.csv", "eval=tofu"), "this run has no such suite"),
        ((*one, "data.train_file=pairs.csv", "trainer=PrefDPO"), "rows of pairs have no answers"),
    ):
        with pytest.raises(
            UserError,
            match=rf"data\.holdout_file: these rows are measured by the suite rows, and {said}",
        ):
            user_files.resolve_files(compose.compose("train", words))
    words = ("task_name=t", *MODEL, *FILES[:3], "trainer=GradAscent", "eval=null")
    with pytest.raises(
        UserError,
        match=r"data\.retain_file: this method does not train on it.*no suite measures it",
    ):
        user_files.resolve_files(compose.compose("unlearn", words))


def test_text_is_asked_nothing(place: Path, planned: Planned) -> None:
    write(place / "text.jsonl", [{"text": f"Ann {i} lives here."} for i in range(4)])
    plans, _ = planned(
        "train",
        "data=files",
        "data.train_file=text.jsonl",
        "trainer=pretrain",
        "data.packing=best_fit",
    )
    made = plans["rows"]
    assert list(made.metrics) == [
        "train_prob",
        "train_extraction_strength",
        "train_exact_memorization",
    ]
    assert made.absent == {
        "train_rouge": "its rows are plain text, and nothing is asked that could be answered"
    }
    assert made.rows.load_column("train.answer").answer_texts[0] == ["nn 0 lives here."], (
        "nothing predicts the first token"
    )
    # Of several documents in a row the first: the others do not follow on it.
    packed = {
        "input_ids": [1, 5, 6, 1, 7, 8],
        "labels": [-100, 5, 6, -100, 7, 8],
        "segment": [1, 1, 1, 2, 2, 2],
    }
    assert split_example(packed) == ((1,), (5, 6))
    assert split_example({"input_ids": [4, 5, 6], "labels": [4, 5, 6]}) == ((4,), (5, 6)), (
        "nothing predicts the first"
    )


@pytest.fixture
def chatting(tiny_folder: Path) -> loading.LoadedModel:
    """The tiny model with a chat template."""
    loaded = loading.load(
        schema.ModelConfig({"pretrained_model_name_or_path": str(tiny_folder)}), training=False
    )
    loaded.tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    )
    loaded.tokenizer.chat_template = CHATML
    loaded.template = Template(loaded.tokenizer)
    return loaded


def test_of_a_conversation_the_last_answer_is_asked_for(
    place: Path, planned: Planned, chatting: loading.LoadedModel
) -> None:
    loaded = chatting
    turns = [
        ("user", "Who?"),
        ("assistant", "Ann."),
        ("user", "Where?"),
        ("assistant", "Here."),
        ("user", "Oh."),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    write(place / "chats.jsonl", [{"messages": messages}])
    plans, _ = planned("train", "data=files", "data.train_file=chats.jsonl", loaded=loaded)
    column = plans["rows"].rows.load_column("train.answer")
    assert column.questions == ["Where?"] and column.answer_texts == [["Here."]]
    [[(prompt, answer)]] = column.pairs
    assert loaded.tokenizer.decode(prompt).count("Ann.") == 1, "all that precedes it is read"
    assert answer[-1] == loaded.template.eos, "the end of the turn is answered too"


CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]
AFTER_SYSTEM = [{"role": "system", "content": "Be kind."}, *CHAT]
TASK = {"instruction": "Who?", "input": "", "output": "Ann."}
WRITTEN: dict[str, dict[str, Any]] = {
    "qa": {"question": "Who?", "answer": "Ann."},
    "input_output": {"input": "Who?", "output": "Ann."},
    "alpaca": TASK,
    "alpaca_system": {**TASK, "system": "Be kind."},
    "alpaca_history": {**TASK, "history": [["Where?", "In Rome."]]},
    "signed": {"input": "Who?", "output": "Ann.", "forget": 0},
    "messages": {"messages": AFTER_SYSTEM},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ann."}]
    },
    "weight": {
        "messages": [*CHAT[:1], {"role": "assistant", "content": "Bo.", "weight": 0}, *CHAT]
    },
    "text": {"text": "Who? Ann."},
}


@pytest.mark.parametrize("form", WRITTEN)
def test_rows_are_measured_however_they_are_written(
    form: str, place: Path, planned: Planned, chatting: loading.LoadedModel
) -> None:
    write(place / "form.jsonl", [WRITTEN[form]])
    words = [
        "data=files",
        "data.train_file=form.jsonl",
        *(["trainer=csv_ga"] if form == "signed" else []),
    ]
    plans, _ = planned("train", *words, loaded=chatting)
    column = plans["rows"].rows.load_column("retain.answer" if form == "signed" else "train.answer")
    if form != "text":
        assert (column.questions, column.answer_texts) == (["Who?"], [["Ann."]])
    assert len(column.pairs) == 1


def test_no_other_answers_are_invented_to_rows_that_do_not_stand_alone(
    place: Path, chatting: loading.LoadedModel
) -> None:
    for form, made in (
        (
            "alpaca_history",
            {"question_key": "instruction", "answer_key": "output", "history_key": "history"},
        ),
        ("messages", None),
    ):
        write(place / "form.jsonl", [WRITTEN[form]])
        args = {"hf_args": {"path": "form.jsonl"}, **(made or {})}
        part = (QADataset if made else ChatDataset)(chatting.template, **args)
        with pytest.raises(
            UserError,
            match=r"form\.jsonl, line 1: other answers are invented to a question by itself",
        ):
            invent(None, chatting, Stream("forget", [part]), 0, place, None)


def test_check_shows_what_would_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    start("check", ["unlearn", "task_name=t", *MODEL, *FILES, *STEP, "eval.rows.max_rows=4"])
    shown = capsys.readouterr().out
    assert "suite       rows: forget_prob, " in shown and "train_prob" not in shown
    assert "measured    retain: 4 of 5 rows of retain.csv" in shown
    assert "measured    holdout: 2 rows of holdout.csv" in shown


def test_values_on_other_rows_are_not_set_beside_one_another(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose.compose("unlearn", ("task_name=t", *MODEL, *FILES)).eval
    for folder, digest in ((place / run_dir.EVALS_BEFORE, "a"), (place / run_dir.EVALS, "b")):
        folder.mkdir()
        atomic.write_json(folder / "ROWS_EVAL.json", {"forget_prob": {"agg_value": 1.0}})
        atomic.write_json(folder / "ROWS_SUMMARY.json", {"forget_prob": 1.0})
        atomic.write_json(folder / "ROWS_ROWS.json", {"forget.answer": {"digest": digest}})
    assert start_values.tell_before_and_after(place, config) == []
    atomic.write_json(place / run_dir.EVALS / "ROWS_ROWS.json", {"forget.answer": {"digest": "a"}})
    assert start_values.tell_before_and_after(place, config) == ["rows"]
    assert "1.000" in capsys.readouterr().out
