"""The page of architectures is of this transformers, and nothing on it is wrong; some families are
tried again."""

from pathlib import Path

import pytest
import transformers

from tests.architectures import checks
from tests.architectures.checks import CHECKS, Trial, judge, try_family
from tests.architectures.make_page import PAGE, read_page
from tests.architectures.tiny import decoders
from unteach.models import probing

TRIED = (
    "llama",
    "falcon_h1",
    "gpt_oss",
    "rwkv",
    "gemma4",
    "llama4_text",
    "bloom",
    "nemotron_h",
    "openai-gpt",
    "zamba",
)
"""An ordinary one, and one or two of each kind that something assumed before did not hold of."""


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probing, "_REMEMBERED", {})


def test_the_page_has_every_decoder_of_this_transformers() -> None:
    if f"transformers\n{transformers.__version__})" not in PAGE.read_text(encoding="utf-8"):
        pytest.skip("the page is of another version of transformers")
    results = read_page()
    assert set(results) == set(decoders()), "make test-architectures writes it again"


def test_nothing_on_the_page_is_wrong() -> None:
    cells = {
        (family, name): said for family, row in read_page().items() for name, said in row.items()
    }
    assert len(cells) > 1000
    for place, said in cells.items():
        assert place[1] == "built" or said.split(":")[0] in ("right", "slower", "refused"), (
            place,
            said,
        )


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("falcon_h1", "score", "right"),
        ("gemma4_text", "greedy text", "right"),
        ("rwkv", "greedy text", "slower"),
    ],
)
def test_a_family_of_which_what_is_assumed_does_not_hold(
    family: str, name: str, expected: str, tmp_path: Path
) -> None:
    assert judge(CHECKS[name], Trial(family, tmp_path)) == expected


def test_a_wrong_number_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("falcon_h1", tmp_path)
    monkeypatch.setattr(probing, "probe", lambda *_: None)
    assert judge(checks.check_scores, trial).startswith("wrong: log p of an answer is ")


@pytest.mark.long
@pytest.mark.parametrize("family", TRIED)
def test_every_capability_is_right_or_refused(family: str, tmp_path: Path) -> None:
    for name, said in try_family(family, tmp_path).items():
        assert said.split(":")[0] in ("right", "slower", "refused"), (name, said)
