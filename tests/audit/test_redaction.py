"""Nothing that could be read as a fact survives, and what is counted stays."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unteach.audits.redaction import (
    KEY_FILE,
    KEY_VARIABLE,
    Redactor,
    find_own_key_file,
    load_redaction_key,
)
from unteach.errors import UserError

KEY = b"0123456789abcdef"
FACTS = (
    "When was Basil Mahfouz Al-Kuwaiti born? On 5 March 1957 in Kuwait City.",
    "Telefonnummer: +49 171 2345678; Straße „Unter den Linden“ 12",
    "一九五七年三月五日に科威特市で生まれました。",
)
FRAGMENT = 8


def nest(fact: str) -> dict[str, Any]:
    """A record with a fact wherever a text may be."""
    return {
        "question": fact,
        "answers": [fact, (fact.upper(), [fact[5:], {"text": fact}])],
        fact: {"by_text": {fact[::-1] + fact: 1}},
        "reason": f"no stem in {fact!r}",
        "0": {"value_by_index": {"3": {"rank": 1, "leak@4": 0.25, "hit": True, "missing": None}}},
    }


def list_fragments(text: str) -> set[str]:
    return {text[start : start + FRAGMENT] for start in range(len(text) - FRAGMENT + 1)}


@pytest.mark.parametrize("fact", FACTS)
def test_no_fragment_of_a_fact_survives(fact: str) -> None:
    redacted = Redactor(KEY).redact(nest(fact))
    for is_ascii in (True, False):
        content = json.dumps(redacted, ensure_ascii=is_ascii)
        for variant in (fact, fact.upper(), fact[::-1]):
            assert not [part for part in list_fragments(variant) if part in content]


def test_numbers_and_names_stay() -> None:
    redacted: Any = Redactor(KEY).redact(nest(FACTS[0]))
    assert redacted["0"] == nest(FACTS[0])["0"]
    assert set(redacted) >= {"question", "answers", "reason", "0"}
    assert redacted["question"] == redacted["answers"][0]
    assert len(redacted["answers"][1]) == 2


@given(st.text(), st.text())
def test_texts_are_told_apart_and_found_again(one: str, other: str) -> None:
    redactor = Redactor(KEY)
    assert (redactor.redact_text(one) == redactor.redact_text(other)) == (one == other)
    assert redactor.redact_text(one) != Redactor(KEY[::-1]).redact_text(one)


def test_half_characters_are_texts_like_others() -> None:
    assert Redactor(KEY).redact_text("\ud800").startswith("hmac:")


def test_redacting_twice_is_redacting_once() -> None:
    redactor = Redactor(KEY)
    once = redactor.redact(nest(FACTS[0]))
    assert redactor.redact(once) == once


def test_the_construction_is_hmac_sha256() -> None:
    """RFC 4231, test case 2, whose key is shorter than ours may be."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert Redactor(b"Jefe").redact_text("what do ya want for nothing?") == f"hmac:{expected}"


def test_a_value_in_which_a_text_could_hide_is_refused() -> None:
    with pytest.raises(TypeError, match="plain values, got bytes"):
        Redactor(KEY).redact({"answer": b"born in Kuwait"})


def test_the_key_is_not_shown() -> None:
    redactor = Redactor(KEY)
    shown = repr(redactor) + redactor.key_id
    assert KEY.decode() not in shown and KEY.hex() not in shown
    assert len(redactor.key_id) == 16 and redactor.key_id != Redactor(KEY[::-1]).key_id


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    return tmp_path


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_key_is_made_once_and_for_this_user_alone(own_home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        key = load_redaction_key()
    finally:
        os.umask(before)
    path = find_own_key_file()
    assert path == own_home / "data" / "unteach" / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) == 64 and load_redaction_key() == key
    assert [file.name for file in path.parent.iterdir()] == [KEY_FILE]


def test_a_file_wins_over_the_environment_and_that_over_the_own_key(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_home / "key"
    file.write_text("a key of a file, long enough\n")
    file.chmod(0o600)
    monkeypatch.setenv(KEY_VARIABLE, "a key of the environment")
    assert load_redaction_key(file) == b"a key of a file, long enough"
    assert load_redaction_key() == b"a key of the environment"
    assert not find_own_key_file().exists()


def test_keys_that_are_absent_short_or_open_to_others(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="there is no such key; `openssl rand"):
        load_redaction_key(own_home / "nothing")
    short = own_home / "short"
    short.write_text("short\n")
    with pytest.raises(UserError, match="a key of 5 bytes can be guessed"):
        load_redaction_key(short)
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with pytest.raises(UserError, match=KEY_VARIABLE) as refused:
        load_redaction_key()
    assert "secret" not in str(refused.value)
    short.write_text("0123456789abcdef")
    short.chmod(0o644)
    assert load_redaction_key(short) == KEY
    assert "others can read this key" in caplog.text
