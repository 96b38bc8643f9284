"""What cannot be asked is said, by row where it is a row's fault and before anything is loaded
where it is the user's."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import read_rows
from tests.doors import infer
from tests.inference.conftest import Infer, questions, words, write_lines
from unteach.engines.finiteness import NOT_FINITE, FiniteCheck
from unteach.errors import RowsFailed, UserError


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["input_column=inputs"], "no column 'inputs'.*did you mean input"),
        (["keep_columns=[topics]"], "no column 'topics'.*did you mean topic"),
        (["output_column=topic"], "has the columns topic, which the output has too"),
        (["backend=hg"], "no backend called 'hg'"),
        (
            ["backend_args.batchsize=3"],
            "backend_args.batchsize: no such key; did you mean batch_size",
        ),
        (["backend_args.batch_size=0"], "batch_size must be 1 or more"),
        (["temprature=0.5"], "temprature: no such key; did you mean temperature"),
        (["do_sample=false", "top_p=0.5"], "do_sample=false draws none"),
        (["num_return_sequences=2"], "one text 2 times"),
        (["kind=score", "top_p=0.9"], "kind=score continues none"),
        (["kind=score"], "has no column output or answer or completion or generation"),
        (["id_column=topic"], "ids must differ"),
        (["output_file=out.csv"], "must end in .jsonl"),
        (["too_long=cut"], "must be one of error, truncate_left, skip"),
        (["resume=maybe"], "resume: must be one of auto, never"),
        (["max_new_tokens=5000"], "leaves no room for a prompt: this model reads 2048"),
    ],
    ids=str,
)
def test_mistakes(tiny_folder: Path, table: Path, more: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        infer(*words(tiny_folder, table, *more))
    assert {path.name for path in table.parent.iterdir()} <= {"in.jsonl"}, "nothing is left behind"


def test_mistakes_about_files(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        infer(*words(tiny_folder, tmp_path / "absent.csv"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="the file is empty"):
        infer(*words(tiny_folder, tmp_path / "empty.csv"))
    (tmp_path / "torn.jsonl").write_text('{"input": "a"}\n{"inp')
    with pytest.raises(UserError, match="line 2: not JSON"):
        infer(*words(tiny_folder, tmp_path / "torn.jsonl"))
    with pytest.raises(UserError, match="input_file: is required"):
        infer(f"model={tiny_folder}")
    with pytest.raises(UserError, match="model: no model was named"):
        infer(f"input_file={tmp_path}/torn.jsonl")
    whole = write_lines(tmp_path / "whole.jsonl", questions(2))
    with pytest.raises(UserError, match="is the input itself"):
        infer(*words(tiny_folder, whole, f"output_file={whole}"))
    with pytest.raises(UserError, match="no such folder"):
        infer(*words(tmp_path / "absent", whole))


def test_rows_that_cannot_be_asked_fail_alone(
    ask: Infer, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"input": "Who?"},
        {"input": " "},
        {"input": 5},
        {"other": "?"},
        {"input": "word " * 3000},
        {"input": "Why?"},
    ]
    write_lines(table, rows)
    with pytest.raises(RowsFailed, match="4 of 6 rows"):
        ask()
    lines = read_rows(table.parent / "in_output.jsonl")
    assert [line["error"] is None for line in lines] == [True, False, False, False, False, True]
    assert [line["output"] is None for line in lines] == [False, True, True, True, True, False]
    for line, said in zip(
        lines[1:5],
        ("is empty", "a number", "no column 'input'", "too_long=truncate_left"),
        strict=True,
    ):
        assert said in line["error"]
    before = (table.parent / "in_output.jsonl").read_bytes()
    capsys.readouterr()
    with pytest.raises(RowsFailed):
        ask()
    assert "2 of 6 rows answered, 4 failed" in capsys.readouterr().out
    assert (table.parent / "in_output.jsonl").read_bytes() == before


def test_an_instruction_is_asked_with_its_input(
    ask: Infer, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"instruction": "Say it.", "input": "aloud"},
        {"instruction": "Say it.", "input": ""},
        {"instruction": "Go."},
    ]
    write_lines(table, rows)
    answers = [line["output"] for line in ask()]
    said = capsys.readouterr().err
    assert "the first prompt: 'Question: Say it.\\naloud\\nAnswer:\\n'" in said
    joined = [{"question": text} for text in ("Say it.\naloud", "Say it.", "Go.")]
    assert [
        line["output"] for line in ask(of=write_lines(table.with_name("joined.jsonl"), joined))
    ] == answers
    write_lines(table, [{**row, "system": "Be kind."} for row in rows])
    with pytest.raises(
        UserError,
        match="an instruction is asked with its input, and what stands in system would not be",
    ):
        ask("resume=never")


def test_what_is_too_long(ask: Infer, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 3000
    write_lines(table, [{"input": "Who?"}, {"input": long + "Who wrote it?"}])
    skipped = ask("too_long=skip")
    assert (skipped[1]["output"], skipped[1]["finish_reason"], skipped[1]["error"]) == (
        None,
        "skipped",
        None,
    )
    assert "1 of 2 rows answered, 1 skipped as too long" in capsys.readouterr().out
    lines = ask("too_long=truncate_left", "resume=never")
    assert (lines[0]["cut_tokens"], lines[1]["prompt_tokens"]) == (0, 2048 - 8)
    assert lines[1]["cut_tokens"] > 0 and lines[1]["output"]
    assert "1 shortened from the left" in capsys.readouterr().out


@pytest.fixture
def overflowing(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model whose weights are finite and whose outputs are not."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "overflowing"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"].fill_(1e38)
    weights["model.norm.weight"].fill_(1e38)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "more",
    [(), ("temperature=1.0",), ("num_beams=2",), ("num_return_sequences=2", "temperature=1.0")],
)
def test_outputs_that_are_no_numbers_are_each_rows_error(
    overflowing: Path, table: Path, more: tuple[str, ...]
) -> None:
    with pytest.raises(RowsFailed, match="7 of 7 rows have an error"):
        infer(*words(overflowing, table, *more))
    for row in read_rows(table.with_name("in_output.jsonl")):
        assert row["error"] == NOT_FINITE and row["output"] is None


def test_scores_that_are_no_numbers_are_each_rows_error(overflowing: Path, tmp_path: Path) -> None:
    table = write_lines(
        tmp_path / "in.jsonl",
        [{"input": "Who?", "output": "Ann."}, {"input": "Why?", "output": "So"}],
    )
    with pytest.raises(RowsFailed, match="2 of 2 rows have an error"):
        infer(*words(overflowing, table, "kind=score"))
    assert {row["error"] for row in read_rows(tmp_path / "in_output.jsonl")} == {NOT_FINITE}


def test_only_what_a_row_has_before_its_end_counts() -> None:
    finite, nan = FiniteCheck(), float("nan")
    for scores in (
        [[0.0, 1.0], [nan, 0.0], [0.0, 0.0]],
        [[0.0, nan], [0.0, 0.0], [1.0, float("inf")]],
    ):
        finite(torch.zeros(3, 1), torch.tensor(scores))
    assert finite.find_broken([1, 2, 2]) == [False, True, True]
    assert finite.find_broken([1]) == [True], "several rows of a prompt are taken together"
