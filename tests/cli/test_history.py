"""The whole table of what a run logged: from its folder, from another trainer's state, from Weights
& Biases."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import unteach
from unteach.errors import UserError
from unteach.verbs.start import start

LINES = [
    {"step": 1, "epoch": 0.5, "progress": 0.5, "loss": 2.0, "grad_norm": 1.0},
    {"step": 1, "epoch": 0.5, "progress": 0.5, "eval_tofu_forget_quality": 1e-9},
    {"step": 2, "epoch": 1.0, "progress": 1.0, "loss": 1.5, "grad_norm": 0.9},
]
ENDED = {"step": 2, "train_loss": 1.75, "train_runtime": 3.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "lo')
    return tmp_path


def test_one_row_a_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = unteach.get_history(run)
    assert list(table.columns) == [
        "step",
        "epoch",
        "progress",
        "loss",
        "grad_norm",
        "eval_tofu_forget_quality",
    ]
    assert table["step"].tolist() == [1, 2] and table["loss"].tolist() == [2.0, 1.5]
    assert (
        table["eval_tofu_forget_quality"][0] == 1e-9 and table["eval_tofu_forget_quality"].isna()[1]
    )
    assert "1 torn or damaged line" in capsys.readouterr().err


def test_it_is_printed_and_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas

    start("history", [str(run), "to=csv"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "step,epoch,progress,loss,grad_norm,eval_tofu_forget_quality",
        "1,0.5,0.5,2.0,1.0,1e-09",
        "2,1.0,1.0,1.5,0.9,",
    ]
    start("history", [str(run)])
    shown = capsys.readouterr().out
    assert "1e-09" in shown and "0.9" in shown and "–" in shown
    monkeypatch.setenv("COLUMNS", "20")
    start("history", [str(run)])
    assert (
        "3 more columns (to=csv has all): eval_tofu_forget_quality, progress, grad_norm"
        in capsys.readouterr().out
    )
    for name in ("t.csv", "t.jsonl"):
        start("history", [str(run), f"to={tmp_path / name}"])
    assert pandas.read_csv(tmp_path / "t.csv")["loss"].tolist() == [2.0, 1.5]
    assert [
        json.loads(line)["step"] for line in (tmp_path / "t.jsonl").read_text().splitlines()
    ] == [1, 2]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_only_an_earlier_history_is_replaced(name: str, run: Path, tmp_path: Path) -> None:
    file = tmp_path / name
    start("history", [str(run), f"to={file}"])
    earlier = file.read_text()
    start("history", [str(run), f"to={file}"])
    assert file.read_text() == earlier
    for mine in (
        "question,answer\na,b\n",
        "step,mine\n1,2\n",
        '{"step": 1, "mine": 2}\n',
        "",
        "{",
        "\0",
    ):
        file.write_text(mine)
        with pytest.raises(UserError, match="something else is there already"):
            start("history", [str(run), f"to={file}"])
        assert file.read_text() == mine


def test_the_state_of_another_trainer(tmp_path: Path) -> None:
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(
            json.dumps({"log_history": [{"step": step, "loss": 1.0}]})
        )
    assert unteach.get_history(tmp_path)["step"].tolist() == [10]


def test_a_run_of_wandb_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """`history` would give a sample; `scan_history` gives every line."""
    rows = [
        {
            "_step": i,
            "train/global_step": i,
            "train/loss": 1 / (i + 1),
            "eval/x": None,
            "_runtime": 1.0,
        }
        for i in range(700)
    ]
    asked: list[str] = []

    def run(path: str) -> Any:
        asked.append(path)
        return SimpleNamespace(scan_history=lambda: iter(rows))

    wandb = ModuleType("wandb")
    wandb.Api = lambda: SimpleNamespace(run=run)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    table = unteach.get_history("wandb:me/project/abc123")
    assert asked == ["me/project/abc123"] and len(table) == 700
    assert list(table.columns) == ["step", "loss"] and table["step"].tolist() == list(range(700))
    with pytest.raises(UserError, match="say wandb:ENTITY/PROJECT/ID"):
        unteach.get_history("wandb:abc123")
    wandb.Api = lambda: (_ for _ in ()).throw(RuntimeError("not logged in"))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"did not give it \(not logged in\)"):
        unteach.get_history("wandb:me/project/abc123")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "takes one run"),
        (["nowhere"], "there is no such folder"),
        (["{run}", "too=csv"], "did you mean to"),
        (["{run}", "to=table.xlsx"], r"\.csv or \.jsonl"),
        (["{empty}"], "nothing was logged"),
    ],
)
def test_mistakes(words: list[str], said: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=said):
        start("history", [word.format(run=run, empty=tmp_path / "e") for word in words])


def test_the_mean_of_a_run_is_not_a_streams_loss(tmp_path: Path) -> None:
    lines = [{"step": 2, "loss": 1.5, "train_loss": 1.4}, ENDED]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = unteach.get_history(tmp_path)
    assert (table["train_loss"].tolist(), table["mean_loss"].tolist()) == ([1.4], [1.75])


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "[/a]": 1}',
        '{"step": 1, "a": "[/b]"}',
        '{"step": 1, "a": "\\u001b[2J"}',
        '{"step": 1, "\\u001b]0;x": 2}',
    ],
)
def test_names_and_values_of_a_log_are_no_markup_and_steer_nothing(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    for words in ([], ["to=csv"]):
        start("history", [str(tmp_path), *words])
        said = capsys.readouterr().out
        name, value = list(json.loads(line).items())[1]
        assert "\x1b" not in said
        assert (
            name.replace("\x1b", "\ufffd") in said and str(value).replace("\x1b", "\ufffd") in said
        )


@pytest.mark.parametrize(
    "line", ["[]", "3", "null", '{"step": [1]}', '{"step": "x"}', "[" * 5000, '{"step": "\xff"}']
)
def test_what_is_no_line_of_a_log_is_left_out(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(
        line.encode("latin-1") + b'\n{"step": 7, "loss": 1.0}\n'
    )
    assert unteach.get_history(tmp_path)["step"].tolist() == [7]
    assert "1 torn or damaged line" in capsys.readouterr().err


def test_a_spreadsheet_computes_nothing_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "=1+1": -2.5, "told": "@SUM(A1)"}\n')
    start("history", [str(tmp_path), f"to={tmp_path / 'out.csv'}"])
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "step,'=1+1,told",
        "1,-2.5,'@SUM(A1)",
    ]


def test_half_a_character_of_a_log_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a\\ud800": "b\\udfff"}\n')
    assert unteach.get_history(tmp_path)["a?"].tolist() == ["b?"]
