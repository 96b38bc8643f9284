"""A signed statement about an audit: which files were audited, and what came out.

An in-toto statement (v1) in a DSSE envelope. Its subjects are the files of the model, its predicate
is the audit's summary. docs/statement.md says in plain words what it shows and what it does not.

Sources: in-toto attestation framework, Statement v1 (github.com/in-toto/attestation); Dead Simple
Signing Envelope v1 (github.com/secure-systems-lab/dsse).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unteach import atomic, json_files
from unteach.audits.signing_keys import EXTRA, load_public_key
from unteach.audits.subjects import Subject, list_subjects
from unteach.errors import UserError, explain_unreadable, refuse_unreadable, require_extra
from unteach.lazy import (
    dsse,
    in_toto_resource,
    in_toto_statement,
    securesystemslib_exceptions,
)
from unteach.wording import format_count, quote_value

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

FILE = "statement.json"
PREDICATE_TYPE = "https://unteach.dev/audit/v1"
FORGET_PREDICATE_TYPE = "https://unteach.dev/forget/v1"
"""What a statement is about: an audit, or a request to forget. Each is a name that is compared
letter by letter. Nothing is ever fetched from it, and nothing has to be there; a predicate that
older readers would misread gets another number."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
SHAPE_ERRORS = (AttributeError, KeyError, TypeError, ValueError, RecursionError)
"""What the libraries raise for JSON of another shape than they expect."""


def build_statement(
    subjects: Sequence[Subject],
    predicate: Mapping[str, object],
    predicate_type: str = PREDICATE_TYPE,
) -> bytes:
    """Build a statement: the bytes that are signed.

    The same subjects and predicate give the same bytes: keys are sorted, nothing stands between
    them, and no time is added. Numbers that JSON does not have (NaN, infinity) become null, as in
    every JSON file of unteach.

    Args:
        subjects: the files that were audited.
        predicate: the audit's summary, or another record, plain values.
        predicate_type: what the predicate is.

    Raises:
        UserError: the packages of the extra are missing.
    """
    require_extra(EXTRA, "a statement about an audit")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [_describe_subject(subject) for subject in subjects],
        "predicateType": predicate_type,
        "predicate": atomic.replace_nan(predicate),
    }
    _validate(statement)
    text = json.dumps(
        statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def _describe_subject(subject: Subject) -> dict[str, Any]:
    """Describe a file as an in-toto ResourceDescriptor."""
    descriptor: dict[str, Any] = {
        "name": subject.name,
        "digest": {"sha256": subject.sha256},
        "annotations": {"role": subject.role},
    }
    if subject.uri:
        descriptor["uri"] = subject.uri
    return descriptor


def _validate(statement: Mapping[str, Any]) -> None:
    """Have the library check a statement.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: what is not as in-toto has it.
    """
    descriptors = []
    for subject in statement["subject"]:
        descriptor = in_toto_resource.ResourceDescriptor(
            name=subject["name"], digest=subject["digest"]
        )
        descriptors.append(descriptor.pb)
    checked = in_toto_statement.Statement(
        descriptors, statement["predicateType"], statement["predicate"]
    )
    # The constructor sets the type itself.
    checked.pb.type = statement["_type"]
    checked.validate()


def write_statement(path: Path, payload: bytes, signer: "CryptoSigner | None" = None) -> None:
    """Write a statement in its envelope, whole or not at all.

    Args:
        path: the file, called `statement.json` by unteach.
        payload: of build_statement.
        signer: of signing_keys.load_signer; None leaves the envelope without a signature. It can
            still be compared with the files of a model, and says nothing of who wrote it.

    Raises:
        UserError: the packages of the extra are missing.
    """
    require_extra(EXTRA, "a statement about an audit")
    envelope = dsse.Envelope(payload, PAYLOAD_TYPE, {})
    if signer is not None:
        envelope.sign(signer)
    atomic.write_json(path, envelope.to_dict())


@dataclass(frozen=True)
class Statement:
    """A statement that was read.

    Attributes:
        subjects: the files that were audited.
        predicate: the audit's summary.
        has_signature: whether anybody signed it; by whom is not checked.
    """

    subjects: tuple[Subject, ...]
    predicate: dict[str, Any]
    has_signature: bool


def read_statement(path: Path, public_key: Path | None = None) -> Statement:
    """Read a statement, and check its signature where a key is given.

    The signature is checked before the payload is parsed.

    Args:
        path: the envelope.
        public_key: a PEM file of an ed25519 key; None checks no signature.

    Raises:
        UserError: there is no such file, it is no envelope with such a statement, or the key did
            not sign it.
    """
    require_extra(EXTRA, "a statement about an audit")
    envelope = _read_envelope(path)
    if public_key is not None:
        _refuse_bad_signature(envelope, path, public_key)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise UserError(
            f"{path}: the envelope holds {envelope.payload_type!r}, and {PAYLOAD_TYPE!r} is read "
            "here; name a statement that unteach wrote"
        )
    with refuse_unreadable(str(path), "what the envelope holds is not JSON"):
        content = json.loads(envelope.payload)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no in-toto statement but {type(content).__name__}")
    return _parse_statement(content, path, has_signature=bool(envelope.signatures))


def _read_envelope(path: Path) -> "Envelope":
    content = json_files.read_mapping(path, "the statement")
    try:
        envelope = dsse.Envelope.from_dict(content)
    except SHAPE_ERRORS as error:
        raise UserError(
            f"{path}: is no DSSE envelope, which holds payload, payloadType and signatures "
            f"({type(error).__name__}: {explain_unreadable(error)}); name the statement that an "
            "audit wrote"
        ) from None
    return envelope


def _refuse_bad_signature(envelope: "Envelope", path: Path, public_key: Path) -> None:
    """Raise UserError where a key did not sign what the envelope holds."""
    key = load_public_key(public_key)
    if not envelope.signatures:
        raise UserError(
            f"{path}: is not signed, so key={public_key} can show nothing. Leave key out to "
            "compare the files alone, or ask who made it for a signed one"
        )
    if key.keyid not in envelope.signatures:
        raise UserError(
            f"{path}: is not signed by key={public_key} but by another key (its id: "
            f"{quote_value(list(envelope.signatures))}); name the public key of who signed it"
        )
    try:
        envelope.verify([key], threshold=1)
    except securesystemslib_exceptions.VerificationError:
        raise UserError(
            f"{path}: the signature does not hold: what the envelope says was changed after "
            f"key={public_key} signed it. Believe nothing of it, and ask for the original"
        ) from None


def _parse_statement(content: dict[str, Any], path: Path, has_signature: bool) -> Statement:
    """Parse what an envelope holds."""
    try:
        _validate(content)
        subjects = [_parse_subject(descriptor) for descriptor in content["subject"]]
        predicate = dict(content["predicate"])
    except SHAPE_ERRORS as error:
        raise UserError(
            f"{path}: holds no in-toto statement ({type(error).__name__}: "
            f"{explain_unreadable(error)}); name the statement that an audit wrote"
        ) from None
    types = (PREDICATE_TYPE, FORGET_PREDICATE_TYPE)
    if content["predicateType"] not in types:
        raise UserError(
            f"{path}: is a statement of the type {content['predicateType']!r}, and "
            f"{' or '.join(map(repr, types))} is read here; name one that `unteach audit` or "
            "`unteach forget` of this version wrote"
        )
    return Statement(tuple(subjects), predicate, has_signature)


def _parse_subject(descriptor: dict[str, Any]) -> Subject:
    """Parse a file's entry.

    Raises:
        ValueError: its name could pass for another line of what is printed.
    """
    name = descriptor["name"]
    if not name.isprintable():
        raise ValueError(f"the name of a file holds control characters: {name!r}")
    role = descriptor.get("annotations", {}).get("role", "")
    return Subject(
        name, str(role), str(descriptor["digest"]["sha256"]), str(descriptor.get("uri", ""))
    )


@dataclass(frozen=True)
class Verification:
    """What holds of a statement, and what differs. Names are those of its subjects.

    Attributes:
        statement: what was checked.
        signature: `valid` for the key that was given; `unchecked` where none was; `none` where
            nobody signed.
        matching: files that are as they were audited.
        changed: files that are there, with other bytes.
        missing: files that were audited and are not there.
        added: files of the model that are there and were not audited, as a new chat template.
    """

    statement: Statement
    signature: Literal["valid", "unchecked", "none"]
    matching: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the model is, file by file, the one that was audited."""
        return not (self.changed or self.missing or self.added)

    def describe(self) -> list[str]:
        """Say in a line each what holds and what differs."""
        lines = [SIGNATURE_LINES[self.signature]]
        lines.append(f"as audited: {format_count(len(self.matching), 'file')}")
        for label, names in (
            ("changed since", self.changed),
            ("missing", self.missing),
            ("not audited", self.added),
        ):
            if names:
                lines.append(f"{label}: {', '.join(names)}")
        return lines

    def refuse_difference(self) -> None:
        """Raise UserError where the model is not the one that was audited."""
        if self.holds:
            return
        lines = "\n  ".join(self.describe())
        raise UserError(
            "this is not the model that was audited, so the statement says nothing of it; name "
            f"that one, or audit this one\n  {lines}"
        )


SIGNATURE_LINES = {
    "valid": "signature: valid, by the key that was given",
    "unchecked": "signature: there is one, not checked; name the signer's public key (key=FILE)",
    "none": "signature: none; who wrote this is not known, and anybody could have",
}


def verify(
    path: Path,
    model: str,
    public_key: Path | None = None,
    base_path: str | None = None,
    tokenizer_path: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Verification:
    """Check a statement: its signature, and every subject against the files as they are now.

    Every file is read whole, whatever its size and time say.

    Args:
        path: the statement.
        model: the folder, or hub id, that it is compared with; it and the words after `public_key`
            are those of list_subjects.
        public_key: a PEM file of the signer's ed25519 key; None checks no signature.

    Raises:
        UserError: it is no statement of an audit, the key did not sign it, or there is no such
            model. Files that differ are no error here: see Verification.refuse_difference.
    """
    statement = read_statement(path, public_key)
    current = list_subjects(model, base_path, tokenizer_path, revision, cache_dir)
    digests = {subject.name: subject.sha256 for subject in current}
    matching, changed, missing = [], [], []
    for subject in statement.subjects:
        digest = digests.pop(subject.name, None)
        if digest is None:
            missing.append(subject.name)
        elif digest == subject.sha256:
            matching.append(subject.name)
        else:
            changed.append(subject.name)
    return Verification(
        statement=statement,
        signature=_describe_signature(statement, public_key),
        matching=tuple(matching),
        changed=tuple(changed),
        missing=tuple(missing),
        added=tuple(digests),
    )


def _describe_signature(
    statement: Statement, public_key: Path | None
) -> Literal["valid", "unchecked", "none"]:
    if not statement.has_signature:
        return "none"
    return "unchecked" if public_key is None else "valid"
