"""Keys that sign a statement and check it: ed25519, as PEM files that openssl makes and reads.

Source: ed25519, RFC 8032; PKCS#8 and SubjectPublicKeyInfo in PEM, RFC 7468.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from unteach.errors import UserError, explain_unreadable, require_extra
from unteach.lazy import key_serialization, securesystemslib_signer

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

EXTRA = "evidence"
PASSWORD_VARIABLE = "UNTEACH_SIGN_PASSWORD"
"""The environment variable with the password of a private key that is encrypted."""
SCHEME = "ed25519"
HOW_TO_MAKE = (
    "`openssl genpkey -algorithm ed25519 -out private.pem` makes a private key, and `openssl pkey "
    "-in private.pem -pubout -out public.pem` writes its public key"
)


def load_signer(path: Path) -> "CryptoSigner":
    """Load a private key, encrypted or not.

    It is worth doing before an audit starts, which may take hours. The password of an encrypted key
    is in PASSWORD_VARIABLE.

    Args:
        path: a PEM file of an ed25519 private key (PKCS#8).

    Raises:
        UserError: there is no such file, it is no such key, or the password is not right.
    """
    require_extra(EXTRA, "signing a statement")
    password = os.environ.get(PASSWORD_VARIABLE)
    content = _read_pem(path, "sign_key")
    try:
        private_key = key_serialization.load_pem_private_key(
            content, password.encode() if password else None
        )
        signer = securesystemslib_signer.CryptoSigner(private_key)
    except TypeError:
        # The library's word for a password that is missing, or that nothing is encrypted with.
        raise UserError(_explain_password(path, is_set=bool(password))) from None
    except Exception as error:  # each format of a key fails in the library in a way of its own
        raise UserError(
            f"sign_key={path}: no private key in PEM can be read from it "
            f"({explain_unreadable(error)}). If it is encrypted, {PASSWORD_VARIABLE} must hold its "
            f"password; {HOW_TO_MAKE}"
        ) from None
    _refuse_other_scheme(path, "sign_key", signer.public_key)
    return signer


def load_public_key(path: Path) -> "SSlibKey":
    """Load the public key that a statement is checked with.

    Args:
        path: a PEM file of an ed25519 public key (SubjectPublicKeyInfo).

    Raises:
        UserError: there is no such file, or it is no such key.
    """
    require_extra(EXTRA, "checking a signature")
    content = _read_pem(path, "key")
    try:
        public_key = key_serialization.load_pem_public_key(content)
        key = securesystemslib_signer.SSlibKey.from_crypto(public_key)
    except Exception as error:  # each format of a key fails in the library in a way of its own
        raise UserError(
            f"key={path}: no public key in PEM can be read from it ({explain_unreadable(error)}); "
            f"{HOW_TO_MAKE}"
        ) from None
    _refuse_other_scheme(path, "key", key)
    return key


def _read_pem(path: Path, label: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{label}={path}: there is no such file; {HOW_TO_MAKE}") from None


def _explain_password(path: Path, is_set: bool) -> str:
    if is_set:
        return f"sign_key={path}: this key is not encrypted; unset {PASSWORD_VARIABLE}"
    return f"sign_key={path}: this key is encrypted; set {PASSWORD_VARIABLE} to its password"


def _refuse_other_scheme(path: Path, label: str, key: "SSlibKey") -> None:
    if key.scheme != SCHEME:
        raise UserError(
            f"{label}={path}: must be an {SCHEME} key, and is one of {key.scheme}; {HOW_TO_MAKE}"
        )
