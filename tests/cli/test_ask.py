"""`unteach ask`: the answers are those of `unteach infer`, one question at a time."""

import io
import sys
from pathlib import Path

import pytest

from tests.conftest import read_rows
from tests.doors import infer
from unteach.errors import RowsFailed, UserError
from unteach.verbs import ask
from unteach.verbs.start import start

QUESTIONS = ["Who wrote it?", "What is 2+2=?", "Where does she live, and why?"]
DRAWN = ("temperature=1.2", "top_p=0.9", "seed=3")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def inferred(model: Path, folder: Path, *more: str) -> list[str]:
    """What `unteach infer` answers to the questions."""
    table = folder / "questions.csv"
    table.write_text("question\n" + "".join(f'"{question}"\n' for question in QUESTIONS))
    output = infer(f"model={model}", f"input_file={table}", "max_new_tokens=8", *more)
    return [row["output"].strip("\n") for row in read_rows(output)]


@pytest.mark.parametrize("more", [(), DRAWN, ("template=raw",), ("stop_strings=[e]",)], ids=str)
def test_lines_are_answered_as_infer_answers_rows(
    more: tuple[str, ...],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = inferred(tiny_folder, tmp_path, *more)
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n".join(QUESTIONS)))
    start("ask", [f"model={tiny_folder}", "max_new_tokens=8", *more])
    captured = capsys.readouterr()
    assert captured.out == "".join(f"{answer}\n" for answer in expected)
    assert ("no template was saved with this model" in captured.err) == ("template=raw" not in more)


def test_one_question(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = inferred(tiny_folder, tmp_path)
    capsys.readouterr()
    start("ask", [QUESTIONS[0], f"model={tiny_folder}", "max_new_tokens=8"])
    assert capsys.readouterr().out == f"{expected[0]}\n"


@pytest.mark.parametrize("end", ["", EOFError, KeyboardInterrupt])
def test_questions_at_a_terminal(
    end: "str | type[BaseException]",
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that cannot be asked is said and costs nothing; an empty line, the end of the input and
    Ctrl-C end it."""
    expected = inferred(tiny_folder, tmp_path)
    capsys.readouterr()
    typed = iter([QUESTIONS[0], "long " * 3000, end])

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys, "stdin", Terminal())
    start("ask", [f"model={tiny_folder}", "max_new_tokens=8"])
    captured = capsys.readouterr()
    assert captured.out.strip() == expected[0]
    assert "are more than the 2048 that the model reads" in captured.err


def test_a_line_that_cannot_be_asked_leaves_the_others(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{'long ' * 3000}\nWho?\n"))
    with pytest.raises(RowsFailed, match="1 of 2 questions have no answer"):
        start("ask", [f"model={tiny_folder}", "max_new_tokens=8"])
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 and "question 1: a prompt of" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Who?"], "no model was named"),
        (
            ["model=m", "Who", "is", "it?"],
            'takes one question, in quotes: unteach ask model=… "Who is it?"',
        ),
        (["model=m", " "], "the question is empty"),
        (["model=m", "max_new_token=3", "Who?"], "did you mean max_new_tokens?"),
        (["model=m", "input_file=a.csv", "Who?"], "no key of ask called 'input_file'"),
        (["model=m", "temperature=-1", "Who?"], "temperature must be more than 0"),
        (["model=./nowhere", "Who?"], "there is no such folder"),
    ],
)
def test_mistakes(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        start("ask", words)
    assert message in str(error.value)


def test_no_question_at_all(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match="there is no question"):
        start("ask", [f"model={tiny_folder}"])


def test_a_terminal_is_not_steered(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    ask.show("\n\x1b[2Jred\tand\nblue\n")
    assert terminal.getvalue() == "\ufffd[2Jred\tand\nblue\n"


def test_a_model_given_as_the_question_is_told_how_it_is_named() -> None:
    with pytest.raises(
        UserError,
        match=r"saves/full: names a model: unteach ask model=saves/full 'Who wrote it\?'$",
    ):
        start("ask", ["saves/full", "Who wrote it?"])


def test_a_question_with_a_slash_is_a_question() -> None:
    with pytest.raises(UserError, match="no model was named"):
        start("ask", ["Is it and/or?"])
