"""Results of an audit without the texts that it is about.

The facts that were to be forgotten are personal data, and so are the answers that give them away. A
plain hash of a birthday or a telephone number can be reversed by trying them all; a keyed one can
be reversed by the holder of the key alone.

Source: HMAC, RFC 2104, with SHA-256; pseudonymisation is what the GDPR calls it (Art. 4(5)), so
what is redacted stays personal data for whoever holds the key.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from unteach.atomic import make_folder, make_temporary_path, sync
from unteach.errors import UserError

logger = logging.getLogger(__name__)

KEY_VARIABLE = "UNTEACH_REDACTION_KEY"
KEY_FILE = "redaction.key"
KEY_BYTES = 32
MIN_KEY_BYTES = 16
PREFIX = "hmac:"
REDACTED = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")
FIELD_NAME = re.compile(r"[A-Za-z0-9_@./-]{1,64}")
"""What the key of a mapping must look like to stay: the name of a field, a metric or an attack, or
a row's number."""


class Redactor:
    """Turn every text of a record into `hmac:` and 64 hexadecimal digits.

    The same text gives the same digits under the same key, so that rows can be counted, compared
    and found again by whoever holds the key and the text.

    Args:
        key: at least 16 bytes; see load_redaction_key.
    """

    def __init__(self, key: bytes):
        self._key = key

    def __repr__(self) -> str:
        return f"Redactor(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """What tells this key from others, for results to name; the key cannot be had from it."""
        return self.redact_text("unteach redaction key")[len(PREFIX) :][:16]

    def redact_text(self, text: str) -> str:
        """Compute HMAC-SHA256(key, text in UTF-8); a text that is redacted already stays."""
        if REDACTED.fullmatch(text):
            return text
        # Half a character, as a model may write it, is a text like others.
        message = text.encode("utf-8", "surrogatepass")
        return PREFIX + hmac.new(self._key, message, hashlib.sha256).hexdigest()

    def redact(self, record: object) -> object:
        """Copy a record of plain values with every text redacted.

        Numbers, truth values and null stay, and so do the names of fields. A key that could be a
        sentence is redacted as well; a single word as a key cannot be told from the name of a
        metric, so a record holds texts as values.

        Args:
            record: mappings, lists, texts, numbers, truth values, None, nested as they may be.

        Raises:
            TypeError: for a value of another kind, in which a text could hide.
        """
        if isinstance(record, str):
            return self.redact_text(record)
        if record is None or isinstance(record, bool | int | float):
            return record
        if isinstance(record, Mapping):
            return {self._redact_key(key): self.redact(value) for key, value in record.items()}
        if isinstance(record, list | tuple):
            return [self.redact(item) for item in record]
        raise TypeError(f"a record holds plain values, got {type(record).__name__}")

    def _redact_key(self, key: object) -> str:
        name = str(key)
        return name if FIELD_NAME.fullmatch(name) else self.redact_text(name)


def load_redaction_key(path: Path | None = None) -> bytes:
    """Load the key of redaction from a file, the environment, or the user's own key file.

    Args:
        path: a file that holds it; None: the variable UNTEACH_REDACTION_KEY, or where that is not
            set a file of this user, which is made with 32 random bytes (mode 0600) if it is not
            there.

    Returns:
        The key, as many bytes as it is long.

    Raises:
        UserError: there is no such file, or the key is shorter than 16 bytes.
    """
    if path is not None:
        return _read_key(path)
    value = os.environ.get(KEY_VARIABLE)
    if value:
        return _refuse_short(os.fsencode(value).strip(), KEY_VARIABLE)
    own_path = find_own_key_file()
    if not own_path.exists():
        _make_key(own_path)
    return _read_key(own_path)


def find_own_key_file() -> Path:
    """Return where a user's own key is kept: with the data of programs, which no clean-up of caches
    removes."""
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data_home) / "unteach" / KEY_FILE


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such key; `openssl rand -hex 32 > {path.name}` makes one"
        ) from None
    if mode & 0o077:
        logger.warning(
            f"{path}: others can read this key, and reverse with it what was redacted: chmod 600"
        )
    return _refuse_short(key, str(path))


def _refuse_short(key: bytes, where: str) -> bytes:
    if len(key) < MIN_KEY_BYTES:
        raise UserError(
            f"{where}: a key of {len(key)} bytes can be guessed; it must have {MIN_KEY_BYTES} or "
            "more (`openssl rand -hex 32` prints one)"
        )
    return key


def _make_key(path: Path) -> None:
    """Make a random key, whole or not at all, for this user alone; one that is there stays."""
    make_folder(path.parent)
    temporary = make_temporary_path(path)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(secrets.token_hex(KEY_BYTES) + "\n")
        sync(temporary)
        # A link fails where another process was first: both then read one key.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
            sync(path.parent)
            logger.info(f"made a key for redaction: {path}. Who loses it cannot find rows again")
    finally:
        temporary.unlink()
