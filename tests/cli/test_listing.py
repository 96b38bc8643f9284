"""`unteach list`: what there is, readable at any width, and the fields of one thing."""

from pathlib import Path

import pytest

from unteach import registry
from unteach.errors import UserError
from unteach.verbs import listing
from unteach.verbs.start import start


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    start("list", list(words))
    return capsys.readouterr().out


def test_methods_stand_under_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "methods")
    assert text.startswith("use one as trainer=NAME\n")
    sections = dict(section.split("\n", 1) for section in text.split("\n\n")[1:6])
    assert list(sections) == [
        "unlearning",
        "one-shot edits",
        "unlearning in decoding",
        "fine-tuning",
        "preferences",
    ]
    for heading, names in {
        "unlearning": ("NPO", "arc_kl", "csv_ga"),
        "one-shot edits": ("RepSelect", "TaskVector"),
        "unlearning in decoding": ("ULD", "WHP"),
        "fine-tuning": ("SFT", "finetune", "classify"),
        "preferences": ("PrefDPO", "KTO"),
    }.items():
        assert all(f"\n  {name} " in f"\n{sections[heading]}" for name in names), heading


@pytest.mark.parametrize("kind", listing.KINDS)
def test_a_terminal_gets_whole_words_within_its_width(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "line_width", lambda: 80)
    text = printed(capsys, kind)
    told = {
        word for name, line, origin in listing.list_entries(kind) for word in (*line.split(), name)
    }
    words = set(text.split())
    assert told <= words, "no word is broken"
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in text.splitlines())


def test_every_entry_says_what_it_is() -> None:
    for kind in listing.KINDS:
        for name, line, _ in listing.list_entries(kind):
            assert not line.startswith(("handler:", "name:")), (
                f"{kind}: {name} has no line of its own"
            )


def test_a_class_is_told_in_a_whole_sentence() -> None:
    """Its first one, though a docstring breaks its lines."""
    lines = {name: line for name, line, _ in listing.list_entries("methods")}
    assert lines["DPO"].endswith("per pair, s a sum of log-probs.")
    assert all(line.endswith(".") for line in lines.values())


def test_the_fields_of_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "NPO")
    assert text == printed(capsys, "methods", "NPO")
    assert (
        "NPO: trainer=NPO; unteach.methods.unlearn.npo.NPO" in text
        and "paper: arXiv:2404.05868" in text
    )
    assert "  fields, under trainer.method_args." in text
    assert (
        "    alpha= number [1.0]\n        weight of the retain term; 0 makes no retain pass at "
        "all\n" in text
    )
    assert "    retain_loss_type= NLL or KL or EMBED_DIFF or JS [NLL]" in text


@pytest.mark.parametrize("kind", listing.REGISTRIES)
def test_everything_registered_shows_its_fields(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in listing.REGISTRIES[kind].entries():
        assert f"{entry.name}: " in printed(capsys, kind, entry.name)


def test_what_unteach_hands_over_is_no_field(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "datasets", "QADataset")
    assert "hf_args= mapping required" in text and "template=" not in text


def test_a_file_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "experiments", "unlearn/tofu/default")
    assert "experiment=unlearn/tofu/default" in text and "  # @package _global_" in text


def test_classes_of_a_plugin_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "seen_by_list.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom unteach.methods.base import Unlearn\n"
        "from unteach.registry import method\n\n@method('SeenByList')\n@dataclass\n"
        'class SeenByList(Unlearn):\n    """L = 0."""\n\n    heat: float = 2.5\n'
        '    """how warm"""\n'
    )
    try:
        text = printed(capsys, f"plugins=[{file}]", "SeenByList")
        assert "    heat= number [2.5]\n        how warm\n" in text
        unlearning = printed(capsys, f"plugins=[{file}]", "methods").split("fine-tuning")[0]
        assert "SeenByList" in unlearning
    finally:
        registry.method._entries.pop("SeenByList", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "takes one of"),
        (["methods", "NPO", "x"], "takes one of"),
        (["metods"], "did you mean methods?"),
        (["NPOO"], "did you mean NPO?"),
        (["metrics", "probabilty"], "did you mean probability?"),
        (["methods", "probability"], "no name among the methods called 'probability'"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        start("list", words)
    assert message in str(error.value)
    assert len(str(error.value)) < 700
