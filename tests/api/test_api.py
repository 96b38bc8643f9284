"""The Python door: objects and words give the same, its names and signatures hold, and how much it
logs is as asked for."""

import inspect
import json
import os
import pickle
import shlex
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import unteach
from unteach import fingerprints, json_files, logs, objects, run_dir
from unteach.config.overrides import sort_overrides
from unteach.errors import LeakFound, UserError
from unteach.methods.finetune.sft import SFT
from unteach.methods.unlearn.npo import NPO
from unteach.results import TrainResult, read_audit, read_values

FORGET = [
    {"question": "Who wrote it?", "answer": "She did."},
    {"question": "Where is the key?", "answer": "Under the third stone."},
]
RETAIN = [
    {"question": "What is the capital of France?", "answer": "Paris."},
    {"question": "How many days has a week?", "answer": "Seven."},
]
STEPS = {"trainer.args.max_steps": 2, "trainer.args.learning_rate": 1e-3}


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").symlink_to(tiny_folder)
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def hash_model(result: TrainResult) -> str:
    return fingerprints.hash_files(result.model_dir / "model.safetensors")


def test_unlearning_with_objects_is_unlearning_with_words(tiny_folder: Path) -> None:
    """A model in memory, rows as a list and as a table, a method's instance."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    by_objects = unteach.unlearn(
        model=(model, tokenizer),
        forget=FORGET,
        retain=pandas.DataFrame(RETAIN),
        method=NPO(beta=0.5),
        task_name="objects",
        settings=STEPS,
    )
    by_words = unteach.unlearn(
        "model=MODEL",
        "forget=forget.jsonl",
        "retain=retain.jsonl",
        "trainer=NPO",
        "trainer.method_args.beta=0.5",
        "task_name=words",
        "trainer.args.max_steps=2",
        "trainer.args.learning_rate=1e-3",
    )
    assert by_objects.run_dir == Path("saves/unlearn/objects")
    assert hash_model(by_objects) == hash_model(by_words)
    assert by_objects.values == by_words.values
    assert 0 < by_objects.values["rows"]["forget_prob"] < 1
    before = dict(transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).named_parameters())
    assert all(value.equal(before[name]) for name, value in model.named_parameters()), (
        "the model in memory is not changed"
    )
    with pytest.raises(FrozenInstanceError):
        by_objects.run_dir = Path("x")  # type: ignore[misc]


def test_a_run_of_objects_is_repeated_from_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    first = unteach.train(
        model="MODEL", data=RETAIN, method=SFT(), suites=[], task_name="first", settings=STEPS
    )
    kept = json_files.read_mapping(first.run_dir / run_dir.MANIFEST, "the manifest")["command"]
    words = [word for word in shlex.split(kept)[2:] if not word.startswith("task_name=")]
    assert any(word.startswith("data=saves/rows/") for word in words) and "model=MODEL" in words
    capsys.readouterr()
    same = unteach.train(
        model="MODEL", data=RETAIN, method=SFT(), suites=[], task_name="first", settings=STEPS
    )
    assert "finished before" in capsys.readouterr().out and same == first
    repeated = unteach.train(*words, "task_name=repeated")
    assert hash_model(repeated) == hash_model(first)
    assert list(first.history()["step"]) == [2]
    assert Path(os.fspath(first)) == first.run_dir and f"{first}" == str(first.run_dir)


def test_evaluating_and_asking_with_objects() -> None:
    loaded = unteach.load("MODEL")
    by_objects = unteach.evaluate(
        model=loaded, data=pyarrow.Table.from_pylist(FORGET), task_name="o"
    )
    by_words = unteach.evaluate("model=MODEL", "data=forget.jsonl", "task_name=w")
    assert by_objects.values == by_words.values and by_objects.values["rows"]
    questions = [{"question": row["question"]} for row in FORGET]
    asked = unteach.infer(model="MODEL", rows=questions, settings={"max_new_tokens": 4})
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    words = unteach.infer("model=MODEL", "input_file=questions.jsonl", "max_new_tokens=4")
    assert [row["output"] for row in asked.rows()] == [row["output"] for row in words.rows()]
    assert asked.output_file.is_relative_to("saves/infer") and len(asked.rows()) == 2


def test_auditing_with_objects_is_auditing_with_words() -> None:
    """The models that stand beside may be in memory too; a leak past a bound is an exception."""
    facts = [{**row, "value": row["answer"].rstrip(".")} for row in FORGET]
    Path("facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in facts))
    attacks = {"audit.only": ["clean", "prefill", "rank"]}
    by_objects = unteach.audit(
        model="MODEL",
        forget=facts,
        retain=RETAIN,
        retain_model=unteach.load("MODEL"),
        level="quick",
        task_name="o",
        settings=attacks,
    )
    words = ["model=MODEL", "forget=facts.jsonl", "retain=retain.jsonl", "retain_model=MODEL"]
    by_words = unteach.audit(*words, "audit.only=[clean,prefill,rank]", "task_name=w")
    assert by_objects.run_dir == Path("saves/audit/o")
    assert by_objects.attacks == by_words.attacks and by_objects.sentence == by_words.sentence
    clean = by_objects.attacks["clean"]
    assert clean.rate == clean.retain == 0 and clean.interval[0] == 0 < clean.interval[1] < 1
    assert not by_objects.leaks and by_objects.worst == 0 and clean.original is None
    assert "no fact has 8 answers of the same kind" in by_objects.absent["rank"]
    assert Path(os.fspath(by_objects)) == by_objects.run_dir
    with pytest.raises(LeakFound, match="clean is 0; the results are in saves/audit/bound"):
        unteach.audit(
            *words, "audit.only=[clean]", "task_name=bound", settings={"audit.fail_if": "clean>=0"}
        )
    assert read_audit(Path("saves/audit/bound")).attacks["clean"].rate == 0


def test_a_result_makes_its_report() -> None:
    result = unteach.evaluate(model="MODEL", data="forget.jsonl", task_name="r")
    assert result.report() == result.run_dir / "report" / "report.html"
    assert (result.run_dir / "report" / "report.html").is_file()


def test_the_same_rows_are_the_same_file() -> None:
    as_list = objects.place_rows(FORGET, "rows")
    assert objects.place_rows(pandas.DataFrame(FORGET), "rows") == as_list
    assert objects.place_rows(pyarrow.Table.from_pylist(FORGET), "rows") == as_list
    assert objects.place_rows(RETAIN, "rows") != as_list
    frame = pandas.DataFrame([{"a": 1, "b": "x"}, {"a": 2, "b": None}])
    rows = [
        json.loads(line)
        for line in Path(objects.place_rows(frame, "rows")).read_text().splitlines()
    ]
    assert rows == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert objects.place_rows(Path("my.csv"), "rows") == "my.csv"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "data: holds no rows"),
        (
            [{"image": object()}],
            r"data\[0\]\['image'\]: is a object, which no file can hold",
        ),
        (7, "data: takes a file's path, a list of mappings"),
        (pandas.Series(["a"]), "data: takes a file's path, a list of mappings"),
        (pyarrow.array(["a"]), "data: takes a file's path, a list of mappings"),
        ([{1: "a", "1": "b"}], r"data\[0\]: has the key '1' twice"),
        (pandas.DataFrame([["x", "y"]], columns=["a", "a"]), "two columns of the name 'a'"),
        ([{"q": "\ud800"}], r"data\[0\]: holds what is no character"),
        ([{"q": LOOP}], r"data\[0\]: is nested too deeply, or holds itself"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        unteach.train(model="MODEL", data=rows)
    assert not Path("saves").exists()


def test_models_and_methods_that_cannot_be_are_refused() -> None:
    class Mine:
        pass

    with pytest.raises(UserError, match="model: takes a path"):
        unteach.train(model=Mine(), data=RETAIN)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Mine is registered under no name"):
        unteach.train(model="MODEL", data="retain.jsonl", method=Mine())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="model: is given twice"):
        unteach.train("model=MODEL", model="MODEL", data="retain.jsonl")
    with pytest.raises(UserError, match="did you mean quiet"):
        unteach.train(model="MODEL", data="retain.jsonl", verbose="quite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": ("network", None)}, "the second is a NoneType"),
        ({"method": NPO}, r"give an instance, NPO\(\)"),
        ({"task_name": 3}, "task_name: must be text, got a int"),
        ({"suites": [1]}, "takes names of suites, got 1"),
        ({"suites": ""}, "takes names of suites, got ''"),
        ({"settings": [("seed", 1)]}, "takes a mapping of keys, got a list"),
        ({"settings": {"seed": object()}}, "seed: is a object"),
        ({"settings": {"trainer.args.x": {"true": 1}}}, "cannot be written as a word"),
        ({"settings": {"trainer.args.x": 2**63}}, "cannot be written as a word"),
        ({"seed": 1, "settings": {"seed": 2}}, "seed: is given twice"),
        ({"verbose": 1}, "verbose=1"),
        ({"verbose": ""}, "verbose="),
        ({"config_dirs": "conf"}, "conf: there is no such folder"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        unteach.train(**{"model": "MODEL", "data": "retain.jsonl", **arguments})
    assert not Path("saves").exists()


def test_words_may_name_what_arguments_leave_out() -> None:
    """Neither is the file of answers given twice, nor is it another for how much is logged."""
    rows = [{"question": "Who wrote it?"}]
    named = unteach.infer("output_file=o.jsonl", "max_new_tokens=2", model="MODEL", rows=rows)
    assert named.output_file == Path("o.jsonl")
    first = unteach.infer("max_new_tokens=2", model="MODEL", rows=rows)
    again = unteach.infer("max_new_tokens=2", "verbose=quiet", model="MODEL", rows=rows)
    assert again == first and len(list(Path("saves/infer").glob("*.jsonl"))) == 1


def test_another_tokenizer_is_another_model(tiny_folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    first = objects.place_model((model, tokenizer))
    assert objects.place_model((model, tokenizer)) == first
    model.generation_config.max_new_tokens = 3
    second = objects.place_model((model, tokenizer))
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    assert len({first, second, objects.place_model((model, tokenizer))}) == 3


def test_a_result_can_be_kept_by_pickle(tmp_path: Path) -> None:
    (tmp_path / "TOFU_SUMMARY.json").write_text('{"model_utility": 0.5}')
    result = TrainResult(tmp_path, read_values(tmp_path))
    assert pickle.loads(pickle.dumps(result)) == result
    assert result.values["tofu"]["model_utility"] == 0.5


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans() | st.none()
LIKE_NUMBERS = st.sampled_from(
    "1e-4 nan NaN inf -inf 1_0e1 1. .5 0x10 true null ~ % : a: ${x} a=b".split()
)


@given(st.recursive(TEXTS | NUMBERS | LIKE_NUMBERS, lambda value: st.lists(value, max_size=3)))
@settings(max_examples=300, deadline=None)
def test_a_setting_arrives_as_it_is_given(value: object) -> None:
    """Whatever the value, its word is read as the same value of the same type."""
    (word,) = objects.spell_settings({"some.key": value})
    ((key, arrived),) = sort_overrides([word]).values
    assert (key, repr(arrived)) == ("some.key", repr(value))


SIGNATURES = {
    "train": "model data validation method suites task_name seed settings config_name config_dirs "
    "verbose",
    "unlearn": "model forget retain holdout refusal data method suites task_name seed settings "
    "config_name config_dirs verbose",
    "evaluate": "model suites data forget retain holdout task_name seed settings config_name "
    "config_dirs verbose",
    "audit": "model forget retain holdout data original retain_model level task_name seed settings "
    "config_name config_dirs verbose",
    "forget": "rows model retain holdout retain_model budget method exact level task_name seed settings "
    "verbose",
    "infer": "model rows output_file seed settings config_dirs verbose",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_names_and_signatures(name: str) -> None:
    door = getattr(unteach, name)
    parameters = inspect.signature(door).parameters
    assert list(parameters) == ["overrides", *SIGNATURES[name].split()]
    for one in parameters.values():
        assert one.annotation not in (one.empty, Any), f"{name}: {one.name} has no type"
        assert one.name in door.__doc__, f"{name}: help() says nothing of {one.name}"
    for heading in ("Args:", "Returns:", "Raises:"):
        assert heading in door.__doc__


def test_all_names_are_there_and_cost_nothing_before_they_are_used() -> None:
    assert set(unteach.__all__) <= set(dir(unteach))
    code = (
        "import sys, unteach\n"
        "assert not {'hydra', 'torch', 'yaml', 'pandas'} & set(sys.modules)\n"
        "unteach.train, unteach.unlearn, unteach.evaluate, unteach.audit, unteach.load\n"
        "assert not {'hydra', 'torch', 'pandas'} & set(sys.modules), set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("verbose", "notes", "shows_steps"), [("info", True, True), ("quiet", False, False)]
)
def test_how_much_is_logged(
    verbose: str, notes: bool, shows_steps: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        result = unteach.train(
            model="MODEL", data=RETAIN, suites=[], settings=STEPS, verbose=verbose, task_name="v"
        )
    finally:
        logs.set_verbosity("info")
    output, errors = capsys.readouterr()
    assert ("note: data.train: " in errors) is notes
    assert f"model: {result.model_dir}" in output, "results are printed in any case"
    assert ("method      " in output) is shows_steps
    assert "note:" not in output
