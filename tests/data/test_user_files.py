"""`data=files`: columns found for every method, rows held out, what is refused before anything is
trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.io.test_tables import write
from tests.doors import train
from unteach.config import compose, schema
from unteach.data import user_files
from unteach.data.io import sources
from unteach.data.row_selection import RowSelection
from unteach.data.template import Template
from unteach.data.truncation import IGNORED, truncate
from unteach.errors import UserError
from unteach.training.build_streams import build_streams

ROWS = [{"input": f"What is {i}?", "output": f" It is {i}."} for i in range(10)]
WORDS = ("data=files", "task_name=t", "model=auto", "eval=null", "data.train_file=rows.csv")


@pytest.fixture
def raw(tiny: Any) -> Any:
    """The tiny model, whose words are taken as they are."""
    return replace(tiny, template=Template(tiny.tokenizer, schema.TemplateArgs(kind="raw")))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").symlink_to(tiny_folder)
    write(tmp_path / "rows.csv", ROWS)
    return tmp_path


def settled(*words: str, name: str = "train") -> tuple[schema.RunConfig, list[str]]:
    path = "model.model_args.pretrained_model_name_or_path=MODEL"
    config = user_files.resolve_files(compose.compose(name, (*WORDS, path, *words)))
    return config, list(config.data.notes)


def parts(*words: str, name: str = "train") -> dict[str, schema.DatasetConfig]:
    config, _ = settled(*words, name=name)
    assert config.data is not None
    return {stream: next(iter(parts.values())) for stream, parts in config.data.streams.items()}


FOUND = {
    "input output": ("SFT", "QADataset", {"question_key": "input", "answer_key": "output"}, "raw"),
    "prompt completion": (
        "SFT",
        "QADataset",
        {"question_key": "prompt", "answer_key": "completion"},
        "raw",
    ),
    "prompt generation": (
        "SFT",
        "QADataset",
        {"question_key": "prompt", "answer_key": "generation"},
        "raw",
    ),
    "question answer": (
        "SFT",
        "QADataset",
        {"question_key": "question", "answer_key": "answer"},
        "auto",
    ),
    "text": ("SFT", "PretrainingDataset", {"text_key": "text"}, "auto"),
    "text notes": ("Pretrain", "PretrainingDataset", {"text_key": "text"}, "auto"),
    "input": ("Pretrain", "PretrainingDataset", {"text_key": "input"}, "auto"),
    "output input": ("Pretrain", "PretrainingDataset", {"text_key": ["input", "output"]}, "auto"),
    "instruction input output": (
        "SFT",
        "QADataset",
        {"question_key": "instruction", "answer_key": "output", "input_key": "input"},
        "auto",
    ),
    "output instruction history system": (
        "SFT",
        "QADataset",
        {
            "question_key": "instruction",
            "answer_key": "output",
            "system_key": "system",
            "history_key": "history",
        },
        "auto",
    ),
    "instruction input output forget": (
        "SignedSFT",
        "QADataset",
        {
            "question_key": "instruction",
            "answer_key": "output",
            "input_key": "input",
            "forget_key": "forget",
        },
        "auto",
    ),
    "instruction input output text": (
        "SFT",
        "QADataset",
        {"question_key": "instruction", "answer_key": "output", "input_key": "input"},
        "auto",
    ),
    "messages tools": (
        "SFT",
        "ChatDataset",
        {"messages_key": "messages", "tools_key": "tools"},
        "auto",
    ),
    "conversations system": (
        "SFT",
        "ChatDataset",
        {"messages_key": "conversations", "system_key": "system"},
        "auto",
    ),
    "instruction input chosen rejected": (
        "PrefDPO",
        "PreferenceDataset",
        {
            "prompt_key": "instruction",
            "chosen_key": "chosen",
            "rejected_key": "rejected",
            "input_key": "input",
        },
        "auto",
    ),
    "conversations chosen rejected": (
        "PrefDPO",
        "PreferenceDataset",
        {"prompt_key": "conversations", "chosen_key": "chosen", "rejected_key": "rejected"},
        "auto",
    ),
    "instruction input output label": (
        "KTO",
        "FeedbackDataset",
        {
            "prompt_key": "instruction",
            "answer_key": "output",
            "label_key": "label",
            "input_key": "input",
        },
        "auto",
    ),
    "instruction system history output label": (
        "KTO",
        "FeedbackDataset",
        {
            "prompt_key": "instruction",
            "answer_key": "output",
            "label_key": "label",
            "system_key": "system",
            "history_key": "history",
        },
        "auto",
    ),
    "input output forget": (
        "SignedSFT",
        "QADataset",
        {"question_key": "input", "answer_key": "output", "forget_key": "forget"},
        "raw",
    ),
}


def test_a_column_that_turns_up_late_is_read_or_named(place: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}] * 1001
    write(
        place / "late.jsonl",
        [*rows, {"instruction": "a", "output": "b", "input": "c", "more": "words"}],
    )
    config, said = settled("data.train_file=late.jsonl")
    assert config.data is not None
    assert config.data.streams["train"]["file"].args["input_key"] == "input"
    assert "data.train: late.jsonl: nothing reads its text column more" in said
    write(
        place / "late.csv",
        [
            *[{"input": "a", "output": "b", "more": ""}] * 30,
            {"input": "a", "output": "b", "more": "words"},
        ],
    )
    _, said = settled("data.train_file=late.csv")
    assert "data.train: late.csv: nothing reads its text column more" in said


@pytest.mark.parametrize("columns", FOUND)
def test_columns_are_found_by_their_names(place: Path, columns: str) -> None:
    method, handler, keys, template = FOUND[columns]
    row = {column: 1 if column == "forget" else "x" for column in columns.split()}
    write(place / "found.jsonl", [row])
    config, said = settled(f"trainer={method}", "data.train_file=found.jsonl")
    assert config.data is not None
    part = config.data.streams["train"]["file"]
    assert (
        part.handler == handler and {k: v for k, v in part.args.items() if k != "hf_args"} == keys
    )
    assert config.model.template_args.kind == template
    assert said[0].startswith("data.train: found.jsonl, by its columns")


def test_columns_are_mapped(place: Path) -> None:
    write(place / "rows.csv", [{"Frage": "Wo?", "Antwort": "Hier."}])
    made = parts("data.columns.question=Frage", "data.columns.answer=Antwort")["train"]
    assert (made.args["question_key"], made.args["answer_key"]) == ("Frage", "Antwort")
    config, _ = settled("data.columns.input=Frage", "data.columns.output=Antwort", "template=qa")
    assert config.model.template_args.kind == "qa", "what the user names wins"


def test_columns_that_are_all_named_are_the_ones(place: Path) -> None:
    write(place / "rows.csv", [{"instruction": "Say it.", "input": "a", "output": "b"}])
    assert parts()["train"].args["question_key"] == "instruction", "the widest"
    config, said = settled("data.columns.input=input", "data.columns.output=output")
    assert (
        config.data is not None
        and config.data.streams["train"]["file"].args["question_key"] == "input"
    )
    assert said[-1] == "data.train: rows.csv: nothing reads its text column instruction"
    mapped = parts("data.columns.instruction=instruction", "data.columns.output=output")["train"]
    assert mapped.args["input_key"] == "input", "an input that is there belongs to its instruction"


def test_columns_of_words_that_nothing_reads_are_named(place: Path) -> None:
    rows = [{"id": 1, "input": "a", "output": "b", "source": "", "score": "0.5", "tags": []}]
    rows += [
        {
            "id": 2,
            "input": "c",
            "output": "d",
            "source": "a book",
            "score": "1",
            "tags": ["old", "new"],
        }
    ]
    write(place / "rows.jsonl", rows)
    _, said = settled("data.train_file=rows.jsonl")
    assert said[1:] == ["data.train: rows.jsonl: nothing reads its text columns source, tags"]
    write(
        place / "rows.jsonl",
        [{**row, "forget": "true" if row["id"] == 1 else "false"} for row in rows],
    )
    _, said = settled("data.train_file=rows.jsonl", "trainer=GradDiff", name="unlearn")
    assert [note for note in said if "nothing reads" in note] == [
        f"data.{stream}: rows.jsonl: nothing reads its text columns source, tags"
        for stream in ("forget", "retain")
    ]


def test_rows_may_lack_columns_that_others_have(place: Path, raw: Any) -> None:
    """Columns are those of all first rows; one that a row needs must be in it."""
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "input": "d", "output": "e"}]
    write(place / "rows.jsonl", rows)
    streams, said = build_streams(settled("data.train_file=rows.jsonl")[0], raw)
    asked = [
        raw.tokenizer.decode(streams["train"].example(number)["input_ids"]) for number in range(2)
    ]
    assert said == [] and asked[0].startswith("a") and asked[1].startswith("c\nd")
    write(place / "rows.jsonl", [{**row, "forget": int("input" not in row)} for row in rows])
    marked = settled("data.train_file=rows.jsonl", "trainer=GradDiff", name="unlearn")[0]
    assert len(build_streams(marked, raw)[0]["forget"]) == 1, "none of those to forget has an input"
    write(place / "rows.jsonl", [*rows, {"instruction": "f"}])
    with pytest.raises(
        UserError, match=r"rows\.jsonl, line 3: no column 'output'; its columns: instruction"
    ):
        build_streams(settled("data.train_file=rows.jsonl")[0], raw)


def test_settings_reach_the_handler(place: Path) -> None:
    made = parts("data.max_length=7", "data.too_long=split")["train"]
    assert (made.args["max_length"], made.args["too_long"]) == (7, "split")
    write(place / "earlier.jsonl", [{"instruction": "a", "output": "b", "history": [["c", "d"]]}])
    write(place / "chat.jsonl", [{"messages": [{"role": "user", "content": "a"}]}])
    for name in ("earlier", "chat"):
        assert (
            parts(f"data.train_file={name}.jsonl", "data.turns=last")["train"].args["turns"]
            == "last"
        )
    made = parts("trainer=pretrain", "data.packing=best_fit", "data.pretrain_with_output=false")[
        "train"
    ]
    assert (made.args["packing"], made.args["text_key"]) == ("best_fit", "input")


def test_rows_to_forget_and_to_retain(place: Path) -> None:
    kept = [{"input": f"Who is {i}?", "output": f" She is {i}."} for i in range(10)]
    write(place / "kept.csv", kept)
    one = ("data.train_file=null", "data.forget_file=rows.csv")
    two = parts(*one, "data.retain_file=kept.csv", "trainer=GradDiff", name="unlearn")
    assert (
        list(two) == ["forget", "retain"] and two["forget"].args["hf_args"]["choice"].flag is None
    )
    assert (
        parts(*one, "trainer=IdkSFT", "data.retain_file=kept.csv", name="unlearn")["forget"].handler
        == "QAwithIdkDataset"
    )
    write(place / "rows.csv", [{**row, "alternate": "No."} for row in ROWS])
    assert (
        parts(*one, "trainer=DPO", "data.retain_file=kept.csv", name="unlearn")["forget"].args[
            "alternate_key"
        ]
        == "alternate"
    )
    assert list(parts("trainer=csv_npo", name="unlearn")) == ["forget"], (
        "all of train_file is to be forgotten"
    )
    write(place / "rows.csv", [{**row, "forget": int(i < 3)} for i, row in enumerate(ROWS)])
    marked = parts("trainer=GradDiff", name="unlearn")
    read = {stream: sources.load_rows(part.args["hf_args"]) for stream, part in marked.items()}
    assert {stream: [row["input"] for row in rows] for stream, rows in read.items()} == {
        "forget": [row["input"] for row in ROWS[:3]],
        "retain": [row["input"] for row in ROWS[3:]],
    }


REFUSED = {
    "columns.inptu": (
        ["data.columns.inptu=x"],
        "data.columns.inptu: this method reads no such column; did you mean input",
    ),
    "columns to nothing": (
        ["data.columns.input=Input"],
        r"rows.csv: no column 'Input'; its columns: input, output; did you mean "
        r"data.columns.input=input\?",
    ),
    "no forget column": (
        ["trainer=csv_ga"],
        "needs the columns .*input and output and forget.* it has input, output",
    ),
    "no retain": (
        ["trainer=GradDiff"],
        "data.forget: this method trains on rows to forget and on rows to retain",
    ),
    "turns": (
        ["data.turns=last"],
        "data.turns: nothing here takes it; it is for conversations, and instructions with a "
        "history",
    ),
    "packing": (["data.packing=best_fit"], "data.packing: nothing here takes it; it is for text"),
    "too_long": (
        ["trainer=pretrain", "data.too_long=drop"],
        "data.too_long: nothing here takes it",
    ),
    "txt": (["data.txt=line"], "data.txt: nothing here takes it; it is for .txt files"),
    "output of text": (
        ["trainer=pretrain", "data.train_file=text.jsonl", "data.pretrain_with_output=false"],
        "data.pretrain_with_output: nothing here takes it",
    ),
    "messages and answers": (
        ["data.train_file=chat.jsonl"],
        "could be read by question and answer, or by messages; say which, as in "
        "data.columns.question=question",
    ),
    "output": (
        ["data.pretrain_with_output=false"],
        "data.pretrain_with_output: nothing here takes it",
    ),
    "forget file": (
        ["data.forget_file=rows.csv"],
        "data.forget_file: this method does not train on it; it trains on train",
    ),
    "no file": (
        ["data.train_file=row.csv"],
        r"row.csv: there is no such file; did you mean rows.csv\?",
    ),
    "two ways": (
        ["data.train_file=both.jsonl"],
        "could be read by input and output, or by question and answer; say which, as in "
        "data.columns",
    ),
    "two templates": (
        [
            "trainer=GradDiff",
            "data.forget_file=rows.csv",
            "data.retain_file=qa.jsonl",
            "data.train_file=null",
        ],
        "taken in two ways",
    ),
    "misspelt column": (
        ["data.train_file=misspelt.jsonl"],
        r"needs the columns input and output.* it has input, outptu; did you mean "
        r"data.columns.output=outptu\?",
    ),
    "anchor": (
        ["data.anchor=forget"],
        "data.anchor: 'forget' is not a stream of this run; its streams: train",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together(place: Path, case: str) -> None:
    words, said = REFUSED[case]
    write(place / "both.jsonl", [dict.fromkeys(("input", "output", "question", "answer"), "x")])
    write(place / "qa.jsonl", [{"question": "a", "answer": "b"}])
    write(place / "chat.jsonl", [{"question": "a", "answer": "b", "messages": "[]"}])
    write(place / "text.jsonl", [{"text": "a"}])
    write(place / "misspelt.jsonl", [{"input": "a", "outptu": "b"}])
    with pytest.raises(UserError, match=said):
        settled(*words, name="unlearn" if "trainer=GradDiff" in words else "train")


COMPOSED = {
    "data.train_fil=x.csv": r"did you mean data\.train_file\?",
    "data.input_column=x": r"data\.input_column: is called data\.columns\.input now",
    "data.train_validation_split=0.9": r"is called data\.validation_fraction, the share that is "
    r"held out",
    "data.max_train_samples=5": r"is called data\.max_rows\.train now",
    "data.validation_fraction=1.5": "validation_fraction must be at least 0 and less than 1",
    "data.max_rows=0": "max_rows must be at least 1",
    "data.max_rows.test=4": r"max_rows\.test: there is no test_file",
    "data.too_long=cut": r"data\.too_long: must be .*truncate_right",
    "data.train=TOFU_QA_full": r"both a dataset and data\.train_file are given",
}


@pytest.mark.parametrize("word", COMPOSED)
def test_keys_that_are_wrong_are_refused_with_the_right_ones(word: str) -> None:
    with pytest.raises(UserError, match=COMPOSED[word]):
        compose.compose("train", (*WORDS, "model=tiny", word))


@given(st.integers(2, 60), st.floats(0.01, 0.9), st.integers(0, 5), st.none() | st.integers(1, 30))
def test_rows_held_out_are_no_others(count: int, share: float, seed: int, most: int | None) -> None:
    train, held = RowSelection(seed, share, most=most), RowSelection(seed, share, held=True)
    kept, apart = train.select_indices(count), held.select_indices(count)
    assert not set(kept) & set(apart)
    assert len(apart) == min(count, max(1, round(share * count)))
    assert len(kept) == min(count - len(apart), most or count) and kept == sorted(kept)
    assert train.select_indices(count) == kept, "a function of the seed"


@given(
    st.integers(1, 8),
    st.integers(0, 8),
    st.integers(2, 9),
    st.sampled_from(["truncate_right", "truncate_left", "drop", "split"]),
)
def test_what_becomes_of_long_rows(prompt: int, answer: int, most: int, too_long: Any) -> None:
    ids = list(range(prompt + answer))
    labels = [IGNORED] * prompt + ids[prompt:]
    made = truncate(ids, labels, most, too_long)
    assert all(len(row) <= most and len(row) == len(its) for row, its in made)
    assert all(
        label in (IGNORED, token)
        for row, its in made
        for token, label in zip(row, its, strict=True)
    )
    learned = [label for _, its in made for label in its if label != IGNORED]
    if len(ids) <= most or too_long == "split":
        assert learned == ids[prompt:], "all of the answer, each token once"
        assert all(row[0] == 0 or row[1] == row[0] + 1 for row, _ in made), (
            "what is learned follows on the token before it"
        )
    elif too_long == "drop":
        assert not made
    elif too_long == "truncate_right":
        assert learned == ids[prompt:most]
    else:
        assert learned == ids[max(prompt, len(ids) - most + 1) :] and (
            not made or made[0][0][0] == 0
        )


def test_every_row_that_is_left_out_is_counted_with_its_line(place: Path, raw: Any) -> None:
    (place / "rows.csv").write_text('input,output\na,b\n"c\nd", \ne,\nf,' + "word " * 40 + "\n,g\n")
    config, _ = settled("data.max_length=12")
    _, said = build_streams(config, raw)
    assert said == [
        "data.train.file: 2 rows dropped, nothing in output (lines 3, 5)",
        "data.train.file: 1 row dropped, nothing in input (line 7)",
        "data.train.file: 1 row cut at max_length (line 6)",
    ]
    config, _ = settled("data.max_length=12", "data.too_long=drop")
    assert (
        "data.train.file: 1 row dropped, more than 12 tokens (line 6)"
        in build_streams(config, raw)[1]
    )


def test_cells_that_are_no_text_are_refused_with_their_lines(place: Path, raw: Any) -> None:
    rows = [
        *ROWS[:2],
        {"input": "a", "output": 5},
        {"input": "b", "output": None},
        {"input": ["c"], "output": "d"},
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, _ = settled("data.train_file=rows.jsonl")
    with pytest.raises(UserError) as caught:
        build_streams(config, raw)
    assert "output must be text, and is a number (line 3)" in str(caught.value)
    assert "input must be text, and is a list (line 5)" in str(caught.value)


def test_a_row_longer_than_the_context_is_refused(
    place: Path, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw.model.config, "max_position_embeddings", 16)
    write(place / "rows.csv", [*ROWS, {"input": "a", "output": "word " * 40}])
    config, _ = settled()
    streams, said = build_streams(config, raw)
    assert (
        max(len(streams["train"].example(i)["input_ids"]) for i in range(11)) == 16
        and "1 row cut" in said[0]
    )
    config, _ = settled("data.max_length=40")
    with pytest.raises(
        UserError, match=r"data\.train: line 12 has 40 tokens, and the model's context 16"
    ):
        build_streams(config, raw)


def test_a_file_that_changed_does_not_go_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "model.model_args.pretrained_model_name_or_path=MODEL"
    words = (
        *WORDS,
        path,
        "trainer.args.max_steps=2",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=1",
    )
    words = (*words, "trainer.args.keep_checkpoints=true", "data.validation_fraction=0.2")
    folder = train(*words)
    assert (
        "note: data.train: rows.csv, by its columns input, output (as they are)"
        in capsys.readouterr().err
    )
    (folder / "DONE.json").unlink()
    for gone in sorted((folder / "final_checkpoint").iterdir()):
        gone.unlink()
    (folder / "final_checkpoint").rmdir()
    with (place / "rows.csv").open("a") as file:
        file.write("a,b\n")
    with pytest.raises(
        UserError, match=r"rows\.csv: is not what it was when .* began to train on it"
    ):
        train(*words)
    write(place / "rows.csv", ROWS)
    assert train(*words) == folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train", "named beside it: data=FILE"),
        ("unlearn", "named beside it: forget=FILE retain=FILE"),
    ],
)
def test_rows_that_are_only_measured_need_rows_to_train_on(
    place: Path, name: str, said: str
) -> None:
    words = ("holdout=rows.csv", "model=./MODEL", "task_name=t")
    with pytest.raises(UserError, match=said):
        user_files.resolve_files(compose.compose(name, words))
