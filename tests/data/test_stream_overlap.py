"""Rows that say the same: both forgotten and retained, or twice in what is trained on."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.io.test_tables import write
from tests.data.test_user_files import place, raw, settled  # noqa: F401
from unteach.config import compose
from unteach.config.tokenize import TokenizeConfig
from unteach.data import duplicates, user_files
from unteach.errors import UserError
from unteach.training.build_streams import build_streams
from unteach.verbs.tokenize import run as tokenize

TWO = (
    "data.train_file=null",
    "data.forget_file=forget.csv",
    "data.retain_file=retain.csv",
    "trainer=GradDiff",
)
KEYS = {"question_key": "question", "answer_key": "answer"}


def two_files(place: Path) -> None:
    said = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(6)]
    write(place / "forget.csv", [*said[:3], {"question": "Who?", "answer": "Ann."}])
    write(
        place / "retain.csv",
        [
            said[5],
            {"question": " What  is\n1?", "answer": "It is 1. "},
            *said[3:5],
            said[2],
            said[1],
        ],
    )


def test_a_row_that_is_forgotten_and_retained_is_refused(place: Path) -> None:
    two_files(place)
    with pytest.raises(UserError) as caught:
        settled(*TWO, name="unlearn")
    assert str(caught.value) == (
        "2 rows are both forgotten and retained: forget.csv, lines 3, 4, and retain.csv, lines 3, "
        "7, 8; take them out of one of the two, or set data.allow_overlap=true, which trains on "
        "them in both"
    )
    _, said = settled(*TWO, "data.allow_overlap=true", name="unlearn")
    assert (
        said[-1]
        == "2 rows are both forgotten and retained: forget.csv, lines 3, 4, and retain.csv, lines "
        "3, 7, 8"
    )
    write(place / "forget.csv", [{"question": "Who?", "answer": "Ann."}])
    assert all("both" not in note for note in settled(*TWO, name="unlearn")[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("trainer=GradAscent",),
            "1 row is both forgotten and retained: forget.csv, line 2, and other.csv, line 2",
        ),
        (
            ("trainer=GradAscent",),
            "1 row is both holdout and forget: other.csv, line 2, and forget.csv, line 2",
        ),
    ],
)
def test_so_is_one_that_is_only_measured(place: Path, words: tuple[str, ...], said: str) -> None:
    write(place / "forget.csv", [{"question": "Qui?", "answer": "Ren\u00e9."}])
    write(place / "other.csv", [{"question": "Qui?", "answer": "Rene\u0301."}])
    role = "holdout" if "holdout" in said else "retain"
    model = (
        "model=auto",
        "model.model_args.pretrained_model_name_or_path=MODEL",
        "task_name=t",
        "data=files",
    )
    given = (
        *model,
        "data.forget_file=forget.csv",
        f"data.{role}_file=other.csv",
        "eval=rows",
        *words,
    )
    with pytest.raises(UserError, match=said):
        user_files.resolve_files(compose.compose("unlearn", given))
    allowed = compose.compose("unlearn", (*given, "data.allow_overlap=true"))
    assert said in user_files.resolve_files(allowed).data.notes


def test_a_text_file_is_named_as_a_whole(place: Path) -> None:
    (place / "f.txt").write_text("A story.")
    (place / "r.txt").write_text("A story.")
    words = (
        "data.train_file=null",
        "data.forget_file=f.txt",
        "data.retain_file=r.txt",
        "trainer=GradDiff",
    )
    with pytest.raises(UserError, match=r"f\.txt, the whole file, and r\.txt, the whole file"):
        settled(*words, name="unlearn")


def test_rows_of_validation_that_are_trained_on_are_counted(place: Path) -> None:
    _, said = settled("data.validation_file=rows.csv", "data.max_rows.train=2")
    assert any("are both validation and train" in note for note in said)


def test_so_is_one_that_a_column_marks_twice(place: Path) -> None:
    rows = [{"input": f"{i}?", "output": f"{i}.", "forget": int(i < 2)} for i in range(4)]
    write(
        place / "rows.csv",
        [*rows, {**rows[0], "forget": 0}, {**rows[1], "output": "other", "forget": 0}],
    )
    said = "1 row is both forgotten and retained: rows.csv, line 2, and rows.csv, line 6; take"
    for words in (("trainer=GradDiff",), ("trainer=csv_ga",)):
        with pytest.raises(UserError, match=said):
            settled(*words, name="unlearn" if words == ("trainer=GradDiff",) else "train")
    settled("trainer=csv_npo", name="unlearn")  # which forgets all of them
    with pytest.raises(UserError, match=r"data\.allow_overlap: nothing here takes it"):
        settled("data.allow_overlap=true")


def test_so_are_documents_and_conversations(place: Path) -> None:
    for name, row in (
        ("text", {"text": "A long story."}),
        (
            "chat",
            {
                "messages": [
                    {"role": "user", "content": "Who?"},
                    {"role": "assistant", "content": "Ann."},
                ]
            },
        ),
    ):
        write(place / f"{name}.jsonl", [row])
        words = (f"data.forget_file={name}.jsonl", f"data.retain_file={name}.jsonl")
        with pytest.raises(UserError, match="1 row is both forgotten and retained"):
            settled("data.train_file=null", "trainer=GradDiff", *words, name="unlearn")


def test_one_of_a_benchmark_is_counted(place: Path, tiny: Any) -> None:
    (folder := place / "tofu").mkdir()
    said = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(4)]
    write(folder / "forget10.jsonl", said[:2])
    write(folder / "retain90.jsonl", said[1:])
    words = (
        "task_name=t",
        "model=auto",
        "model.model_args.pretrained_model_name_or_path=MODEL",
        "eval=null",
        "tofu_path=tofu",
        "experiment=unlearn/tofu/default",
        "trainer=GradDiff",
    )
    config = compose.compose("unlearn", words)
    _, notes = build_streams(config, tiny)
    assert "1 row is both forgotten and retained" in notes


def test_rows_that_stand_twice_are_counted(place: Path, raw: Any) -> None:
    rows = [
        {"input": "a", "output": "b"},
        {"input": "a", "output": "c"},
        {"input": "a ", "output": "b"},
    ]
    write(place / "rows.csv", [*rows, {"input": "a", "output": ""}, {"input": "a", "output": ""}])
    _, notes = build_streams(settled()[0], raw)
    assert "data.train.file: 1 row says what an earlier one says (line 4)" in notes
    write(
        place / "text.jsonl",
        [{"text": "once"}, {"text": "once"}, {"text": " once"}, {"text": "more"}],
    )
    _, notes = build_streams(settled("data.train_file=text.jsonl")[0], raw)
    assert "data.train.file: 2 rows say what an earlier one says (lines 2, 3)" in notes


def test_words_beside_tokens_are_said_not_to_be_compared(place: Path) -> None:
    two_files(place)
    tokenize(TokenizeConfig("retain.csv", "tokens", "MODEL", num_proc=1))
    words = (
        "data.train_file=null",
        "data.forget_file=forget.csv",
        "data.retain_file=tokens",
        "trainer=GradDiff",
    )
    _, said = settled(*words, "data.validation_file=tokens", name="unlearn")
    note = (
        "cannot be compared, as data.{} has tokens and no words: a row that stands in both is "
        "not noticed"
    )
    assert [one for one in said if "cannot" in one] == [
        f"data.forget and data.retain {note.format('retain')}",
        f"data.validation and data.forget {note.format('validation')}",
    ]


def test_a_row_that_is_dropped_repeats_nothing(place: Path, raw: Any) -> None:
    long = {"input": "a", "output": "word " * 40}
    write(
        place / "rows.csv",
        [
            long,
            long,
            {"input": "", "output": "b"},
            {"input": "", "output": "b"},
            *[{"input": "a", "output": "b"}] * 2,
        ],
    )
    _, notes = build_streams(settled("data.max_length=12", "data.too_long=drop")[0], raw)
    assert notes == [
        "data.train.file: 2 rows dropped, more than 12 tokens (lines 2, 3)",
        "data.train.file: 2 rows dropped, nothing in input (lines 4, 5)",
        "data.train.file: 1 row says what an earlier one says (line 7)",
    ]


words = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1).filter(
    str.strip
)


@given(
    st.lists(st.tuples(words, words), min_size=1, max_size=8),
    st.lists(st.tuples(words, words), max_size=8),
)
def test_what_is_shared_is_shared(
    ours: list[tuple[str, str]], theirs: list[tuple[str, str]]
) -> None:
    """Of both sides the rows are named that the other has too, however they are written."""
    pairs = [{"question": question, "answer": answer} for question, answer in ours]
    chats = [
        {
            "messages": [
                {"from": "human", "value": f" {question}\n"},
                {"from": "gpt", "value": answer},
            ]
        }
        for question, answer in theirs
    ]
    one, two = (
        duplicates.hash_rows(KEYS, pairs),
        duplicates.hash_rows({"messages_key": "messages"}, chats),
    )
    plain = [[" ".join(text.split()) for text in pair] for pair in ours]
    others = [[" ".join(text.split()) for text in pair] for pair in theirs]
    assert duplicates.find_shared(one, two) == [i for i, pair in enumerate(plain) if pair in others]
    assert duplicates.find_repeats(one) == [i for i, pair in enumerate(plain) if pair in plain[:i]]


def test_an_instruction_with_its_input_is_one_question() -> None:
    alpaca = {
        "question_key": "instruction",
        "input_key": "input",
        "answer_key": "output",
        "system_key": "system",
    }
    rows = [
        {"instruction": "Say", "input": "a", "output": "a"},
        {"instruction": "Say", "input": "a", "output": "a", "system": "b"},
    ]
    hashes = duplicates.hash_rows(alpaca, rows)
    (plain,) = duplicates.hash_rows(KEYS, [{"question": "Say\na", "answer": "a"}])
    assert hashes[0] == plain != hashes[1], "what is asked differs with the system prompt"
    assert duplicates.hash_rows(KEYS, [{"question": "Say", "answer": " "}]).tolist() == [0], (
        "which is dropped"
    )
