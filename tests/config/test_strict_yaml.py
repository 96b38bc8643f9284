"""YAML of others: plain values, each key once, nothing endless; anything else is one message."""

import math
from pathlib import Path

import pytest

from unteach.config import compose
from unteach.config.overrides import sort_overrides
from unteach.errors import UserError
from unteach.strict_yaml import parse_yaml, read_yaml

ODD = {
    "twice": ("name: a\nb: 1\nname: c\n", r"name is said twice \(lines 1 and 3\)"),
    "twice within": ("a:\n  b: 1\n  b: 2\n", r"b is said twice \(lines 2 and 3\)"),
    "twice a number": ("1: a\n1: b\n", "1 is said twice"),
    "digits": (f"a: {'1' * 5000}\n", "a number of more than 4,300 digits"),
    "64 bits": (f"a: {2**63}\n", "more than 64 bits"),
    "deep": ("[" * 100 + "]" * 100, "nested more than 60 levels"),
    "too deep": ("[" * 5000, "nested too deeply"),
    "circle": ("&a [*a]", r"an anchor \(&\) stands within itself"),
    "laughs": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
            for before, name in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "more than 1,000,000 values",
    ),
    "python": ("a: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
    "bytes": ("a: !!binary aGFsbG8=", "a value must be text, a number"),
    "key": ("? [a]\n: b\n", "cannot be read as YAML|a key must be text"),
    "tab": ("a:\n\t- b", "cannot be read as YAML"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_plain_yaml_is_one_message(tmp_path: Path, name: str) -> None:
    content, said = ODD[name]
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(UserError, match=rf"x\.yaml: .*({said})"):
        read_yaml(tmp_path / "x.yaml")


def test_plain_values_come_as_they_stand() -> None:
    content = "a: &a {b: 1, c: [true, null, 1.5, text]}\nd: {<<: *a, b: 2}\nday: 2026-01-31\n"
    inner = {"b": 1, "c": [True, None, 1.5, "text"]}
    assert parse_yaml(content, "x") == {"a": inner, "d": {**inner, "b": 2}, "day": "2026-01-31"}


def test_a_run_without_a_name_and_without_places_is_refused() -> None:
    with pytest.raises(UserError, match="paths: is required, and was removed"):
        compose.compose("train", ["~paths", "model=a/b", "data=files", "data.train_file=a.csv"])


def test_a_key_that_stands_twice_in_a_folder_of_ones_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "mine.yaml").write_text("handler: NPO\nargs: {}\nhandler: GradDiff\n")
    words = ["trainer=mine", "model=policy", "task_name=t", "data=files", "data.forget_file=a.csv"]
    with pytest.raises(UserError, match="duplicate key handler"):
        compose.compose("unlearn", words, (str(tmp_path),))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (f"task_name={'[' * 200}{']' * 200}", "nested more than 60 levels"),
        (f"task_name={'[' * 5000}{']' * 5000}", "nested too deeply"),
        (f"seed={'1' * 5000}", "a number of more than 4,300 digits"),
        (f"trainer.args.learning_rate={'9' * 400}", "more than 64 bits"),
    ],
)
def test_a_value_that_nothing_takes_is_refused_shortly(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compose.compose("train", [word, "experiment=finetune/authors/default", "model=tiny"])
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    ["1e-4", "3E5", "-1.5e3", ".5e-2", "+2e+1", "1_0e1", "7", "-7", "1_000", "0", "1.", "2.5"],
)
def test_a_number_is_what_it_is_on_the_command_line(text: str) -> None:
    read = parse_yaml(text, "a file")
    assert [("key", read)] == sort_overrides([f"key={text}"]).values
    assert isinstance(read, int if text.replace("_", "").lstrip("-").isdigit() else float)


@pytest.mark.parametrize(
    "text",
    [
        "'1e-4'",
        "e5",
        "1e",
        "3f",
        "1e4x",
        "e",
        "010",
        "0x10",
        "1:30:00",
        "1:30",
        "2:15.5",
        "2024-01-02",
    ],
)
def test_what_is_in_quotes_or_no_number_stays_text(text: str) -> None:
    assert parse_yaml(text, "a file") == text.strip("'")


def test_what_is_no_finite_number_is_read_as_yaml_writes_it() -> None:
    assert parse_yaml("[.inf, -.inf]", "a file") == [math.inf, -math.inf]
    assert math.isnan(parse_yaml(".nan", "a file"))
