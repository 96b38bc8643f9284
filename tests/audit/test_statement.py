"""A statement holds for the files and the words that were signed, and for no others."""

import base64
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.audit.conftest import write_files, write_private_key, write_public_key
from unteach import atomic, errors
from unteach.audits.signing_keys import PASSWORD_VARIABLE, load_public_key, load_signer
from unteach.audits.statement import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    build_statement,
    read_statement,
    verify,
    write_statement,
)
from unteach.audits.subjects import list_subjects
from unteach.errors import UserError

SUMMARY = {"worst_leak": 0.05, "n": 40, "attacks": ["rank", "prefill"], "nested": {"ci": [0, 0.1]}}
WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture
def signed(model: Path, sign_key: Path, tmp_path: Path) -> Path:
    path = tmp_path / "statement.json"
    payload = build_statement(list_subjects(str(model)), SUMMARY)
    write_statement(path, payload, load_signer(sign_key))
    return path


@pytest.fixture
def unsigned(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "unsigned.json"
    write_statement(path, build_statement(list_subjects(str(model)), SUMMARY))
    return path


def change_envelope(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    envelope = json.loads(path.read_text())
    change(envelope)
    path.write_text(json.dumps(envelope))


def change_payload(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    def rewrite(envelope: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        change(statement)
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    change_envelope(path, rewrite)


def test_a_statement_is_in_totos(signed: Path) -> None:
    envelope = json.loads(signed.read_text())
    assert envelope["payloadType"] == PAYLOAD_TYPE == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["predicate"] == SUMMARY
    first = statement["subject"][0]
    assert first["name"] == WEIGHTS and first["annotations"] == {"role": "weights"}
    assert set(first["digest"]) == {"sha256"}


def test_signed_and_verified(signed: Path, model: Path, public_key: Path) -> None:
    result = verify(signed, str(model), public_key)
    assert result.holds and result.signature == "valid"
    assert result.statement.predicate == SUMMARY
    assert len(result.matching) == 8 and not (result.changed + result.missing + result.added)
    result.refuse_difference()
    assert result.describe() == [
        "signature: valid, by the key that was given",
        "as audited: 8 files",
    ]


def test_the_same_inputs_give_the_same_file(signed: Path, model: Path, sign_key: Path) -> None:
    again = signed.with_name("again.json")
    reversed_summary = dict(reversed(SUMMARY.items()))
    payload = build_statement(list_subjects(str(model)), reversed_summary)
    write_statement(again, payload, load_signer(sign_key))
    assert again.read_bytes() == signed.read_bytes()


def test_numbers_that_json_lacks_become_null(model: Path) -> None:
    payload = build_statement(list_subjects(str(model)), {"value": float("nan")})
    assert json.loads(payload)["predicate"] == {"value": None}


def test_one_changed_byte_of_the_weights_is_refused(
    signed: Path, model: Path, public_key: Path
) -> None:
    """Also where size and time are as they were."""
    weights = model / WEIGHTS
    before = weights.stat()
    weights.write_bytes(b"girst")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    result = verify(signed, str(model), public_key)
    assert not result.holds and result.changed == (WEIGHTS,) and len(result.matching) == 7
    with pytest.raises(UserError, match=rf"not the model that was audited.*\n.*\n.*\n.*{WEIGHTS}"):
        result.refuse_difference()


def test_missing_and_added_files_are_named(signed: Path, model: Path) -> None:
    (model / WEIGHTS).unlink()
    write_files(model, {"modeling_own.py": "", "notes.txt": "not of the model"})
    result = verify(signed, str(model))
    assert result.missing == (WEIGHTS,) and result.added == ("modeling_own.py",)
    assert not result.holds
    lines = result.describe()
    assert lines[2:] == [f"missing: {WEIGHTS}", "not audited: modeling_own.py"]


def test_a_changed_predicate_is_refused(signed: Path, model: Path, public_key: Path) -> None:
    change_payload(signed, lambda statement: statement["predicate"].update(worst_leak=0.0))
    with pytest.raises(UserError, match="was changed after"):
        verify(signed, str(model), public_key)


def test_a_wrong_key_is_refused(signed: Path, model: Path, tmp_path: Path) -> None:
    other = write_public_key(tmp_path / "other.pem", Ed25519PrivateKey.generate())
    with pytest.raises(UserError, match=r"not signed by .* but by another key"):
        verify(signed, str(model), other)


def test_the_id_of_a_key_is_not_believed(signed: Path, model: Path, tmp_path: Path) -> None:
    other = write_public_key(tmp_path / "other.pem", Ed25519PrivateKey.generate())
    keyid = load_public_key(other).keyid
    change_envelope(signed, lambda envelope: envelope["signatures"][0].update(keyid=keyid))
    with pytest.raises(UserError, match="the signature does not hold"):
        verify(signed, str(model), other)


def test_an_unsigned_statement_shows_the_files_alone(
    unsigned: Path, model: Path, public_key: Path
) -> None:
    result = verify(unsigned, str(model))
    assert result.holds and result.signature == "none"
    assert "anybody could have" in result.describe()[0]
    with pytest.raises(UserError, match="is not signed"):
        verify(unsigned, str(model), public_key)


def test_a_signature_that_nobody_checked_is_not_called_valid(signed: Path, model: Path) -> None:
    assert verify(signed, str(model)).signature == "unchecked"


def test_a_truncated_file_is_refused(signed: Path, model: Path) -> None:
    content = signed.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 3):
        signed.write_bytes(content[:length])
        with pytest.raises(UserError, match="not whole JSON"):
            verify(signed, str(model))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold a mapping"),
        ("{}", "is no DSSE envelope"),
        ('{"payload": 1, "payloadType": "x", "signatures": []}', "is no DSSE envelope"),
        ('{"payload": "?", "payloadType": "x", "signatures": []}', "is no DSSE envelope"),
        ('{"payload": "", "payloadType": "x", "signatures": {}}', "the envelope holds 'x'"),
    ],
)
def test_what_is_no_envelope_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "statement.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_statement(path)


def test_another_payload_type_is_refused(unsigned: Path) -> None:
    change_envelope(unsigned, lambda envelope: envelope.update(payloadType="text/plain"))
    with pytest.raises(UserError, match="the envelope holds 'text/plain'"):
        read_statement(unsigned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "is a statement of the type"),
        ({"predicate": {}}, "holds no in-toto statement"),
        ({"predicate": [1]}, "holds no in-toto statement"),
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "holds no in-toto statement"),
        ({"subject": []}, "holds no in-toto statement"),
        ({"subject": [{"name": "a", "digest": {"sha1": "00"}}]}, "holds no in-toto statement"),
        ({"subject": 3}, "holds no in-toto statement"),
        (
            {"subject": [{"name": "a\nsignature: valid", "digest": {"sha256": "00"}}]},
            "holds control characters",
        ),
    ],
)
def test_another_statement_is_refused(
    change: dict[str, object], message: str, unsigned: Path
) -> None:
    change_payload(unsigned, lambda statement: statement.update(change))
    with pytest.raises(UserError, match=message):
        read_statement(unsigned)


def test_a_payload_that_is_no_json_is_refused(unsigned: Path) -> None:
    change_envelope(unsigned, lambda envelope: envelope.update(payload="AAAA"))
    with pytest.raises(UserError, match="what the envelope holds is not JSON"):
        read_statement(unsigned)
    change_envelope(unsigned, lambda envelope: envelope.update(payload="W10="))
    with pytest.raises(UserError, match="holds no in-toto statement but list"):
        read_statement(unsigned)


def test_files_that_are_not_there_are_named(signed: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        verify(tmp_path / "nothing.json", str(model))
    with pytest.raises(UserError, match="there is no such folder"):
        verify(signed, str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"key=.*: there is no such file; `openssl"):
        verify(signed, str(model), tmp_path / "nothing.pem")
    with pytest.raises(UserError, match=r"sign_key=.*: there is no such file; `openssl"):
        load_signer(tmp_path / "nothing.pem")


def test_an_encrypted_key_needs_its_password(
    private_key: Ed25519PrivateKey, sign_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted = write_private_key(tmp_path / "encrypted.pem", private_key, "right")
    with pytest.raises(UserError, match=f"is encrypted; set {PASSWORD_VARIABLE}"):
        load_signer(encrypted)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(UserError, match="must hold its password") as refused:
        load_signer(encrypted)
    assert "wrong" not in str(refused.value)
    with pytest.raises(UserError, match="is not encrypted; unset"):
        load_signer(sign_key)
    monkeypatch.setenv(PASSWORD_VARIABLE, "right")
    signer = load_signer(encrypted)
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert signer.public_key == load_signer(sign_key).public_key


def test_keys_of_another_kind_are_refused(sign_key: Path, public_key: Path, tmp_path: Path) -> None:
    elliptic: Any = generate_private_key(SECP256R1())
    with pytest.raises(UserError, match="must be an ed25519 key"):
        load_signer(write_private_key(tmp_path / "ec.pem", elliptic))
    with pytest.raises(UserError, match="must be an ed25519 key"):
        load_public_key(write_public_key(tmp_path / "ec_public.pem", elliptic))
    with pytest.raises(UserError, match="no private key"):
        load_signer(public_key)
    with pytest.raises(UserError, match="no public key"):
        load_public_key(sign_key)


def test_the_private_key_is_nowhere_in_the_statement(signed: Path, sign_key: Path) -> None:
    secret = sign_key.read_text().splitlines()[1]
    assert secret not in signed.read_text() and str(sign_key) not in signed.read_text()


@pytest.mark.parametrize("moment", ["sync", "replace"])
def test_killed_while_writing_leaves_the_old_file_or_the_new_one(
    moment: str, signed: Path, model: Path, public_key: Path
) -> None:
    old = signed.read_bytes()
    payload = build_statement(list_subjects(str(model)), {"worst_leak": 1.0})

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        if moment == "sync":
            atomic.sync = die
        else:
            Path.replace = die  # type: ignore[assignment, method-assign]
        write_statement(signed, payload)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert signed.read_bytes() == old
    assert verify(signed, str(model), public_key).holds
    # The next writer takes away what the killed one left.
    write_statement(signed, payload)
    assert read_statement(signed).predicate == {"worst_leak": 1.0}
    assert not [path for path in signed.parent.iterdir() if atomic.is_temporary(path)]


def test_a_missing_extra_is_named(
    signed: Path, model: Path, sign_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "has_extra", lambda extra: False)
    for work in (
        lambda: build_statement(list_subjects(str(model)), SUMMARY),
        lambda: load_signer(sign_key),
        lambda: verify(signed, str(model)),
    ):
        with pytest.raises(UserError, match=r'pip install "\.\[evidence\]"'):
            work()
