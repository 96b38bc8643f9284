"""Models of every origin as folders of a few bytes, and keys as openssl makes them.

What is hashed is bytes: a file of weights needs no weights in it.
"""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from unteach.config.schema import PATH, TrainConfig
from unteach.verbs import train

MODEL_FILES = {
    "config.json": "{}",
    "generation_config.json": "{}",
    "model-00001-of-00002.safetensors": "first",
    "model-00002-of-00002.safetensors": "second",
    "model.safetensors.index.json": "{}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "README.md": "not of the model",
    "training_args.bin": "not of the model",
}


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def write_adapter(folder: Path, base: str) -> Path:
    config = json.dumps({"base_model_name_or_path": base})
    files = {"adapter_config.json": config, "adapter_model.safetensors": "lora"}
    return write_files(folder, {**files, "tokenizer.json": "{}"})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_files(tmp_path / "model", MODEL_FILES)


@pytest.fixture(scope="session")
def private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def sign_key(tmp_path: Path, private_key: Ed25519PrivateKey) -> Path:
    return write_private_key(tmp_path / "private.pem", private_key)


@pytest.fixture
def public_key(tmp_path: Path, private_key: Ed25519PrivateKey) -> Path:
    return write_public_key(tmp_path / "public.pem", private_key)


def write_private_key(path: Path, key: Ed25519PrivateKey, password: str = "") -> Path:
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


def write_public_key(path: Path, key: Ed25519PrivateKey) -> Path:
    public_format = PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, public_format))
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models whose copies were trained, in their order."""
    names: list[str] = []
    original = train.run

    def count(config: TrainConfig) -> Path:
        names.append(Path(config.model.model_args[PATH]).name)
        return original(config)

    monkeypatch.setattr(train, "run", count)
    return names
