"""What is hashed of each kind of model, and in which order."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.audit.conftest import MODEL_FILES, write_adapter, write_files
from unteach.audits.subjects import Subject, find_role, list_subjects
from unteach.errors import UserError

OWN_ORDER = [
    ("model-00001-of-00002.safetensors", "weights"),
    ("model-00002-of-00002.safetensors", "weights"),
    ("model.safetensors.index.json", "weights"),
    ("config.json", "config"),
    ("chat_template.jinja", "template"),
    ("tokenizer.json", "tokenizer"),
    ("tokenizer_config.json", "tokenizer"),
    ("generation_config.json", "generation"),
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def list_names(subjects: list[Subject]) -> list[tuple[str, str]]:
    return [(subject.name, subject.role) for subject in subjects]


def write_hub_model(cache: Path, owner: str, name: str) -> Path:
    """A download as huggingface_hub leaves it."""
    repository = cache / f"models--{owner}--{name}"
    write_files(repository, {"refs/main": COMMIT})
    return write_files(repository / "snapshots" / COMMIT, MODEL_FILES)


def test_a_model_is_all_its_files_in_a_fixed_order(model: Path) -> None:
    subjects = list_subjects(str(model))
    assert list_names(subjects) == OWN_ORDER
    assert subjects[0].sha256 == hashlib.sha256(b"first").hexdigest()
    assert all(subject.uri == "" for subject in subjects)


def test_a_run_is_its_final_model(tmp_path: Path) -> None:
    write_files(tmp_path / "run" / "final_checkpoint", MODEL_FILES)
    write_files(tmp_path / "run", {"config.yaml": "", "checkpoint-1/model.safetensors": "old"})
    assert list_names(list_subjects(str(tmp_path / "run"))) == OWN_ORDER


def test_an_adapter_is_itself_and_its_base(model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", str(model))
    subjects = list_subjects(str(adapter))
    assert list_names(subjects) == [
        ("adapter_config.json", "adapter"),
        ("adapter_model.safetensors", "adapter"),
        ("tokenizer.json", "tokenizer"),
        ("base/config.json", "base"),
        ("base/generation_config.json", "base"),
        ("base/model-00001-of-00002.safetensors", "base"),
        ("base/model-00002-of-00002.safetensors", "base"),
        ("base/model.safetensors.index.json", "base"),
    ]
    moved = model.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"model\.base_path=.*no such folder"):
        list_subjects(str(adapter))
    assert list_subjects(str(adapter), base_path=str(moved)) == subjects


def test_a_model_that_forgets_in_its_decoding_is_its_rule_and_two_models(tmp_path: Path) -> None:
    # A plugin's rule is read without the plugin.
    rule = {"decoding": "OfAPlugin", "base": "base", "second": "amnesiac"}
    files = {"config.json": "{}", "decoding.json": json.dumps(rule)}
    folder = write_files(tmp_path / "two", files)
    write_files(folder / "base", MODEL_FILES)
    write_adapter(folder / "amnesiac", "base")
    names = list_names(list_subjects(str(folder)))
    assert names[:2] == [("config.json", "config"), ("decoding.json", "processor")]
    assert ("base/tokenizer.json", "base") in names
    assert ("amnesiac/adapter_model.safetensors", "second") in names
    assert len(names) == 2 + len(OWN_ORDER) + 3


def test_a_hub_model_is_what_was_downloaded_at_its_commit(tmp_path: Path) -> None:
    write_hub_model(tmp_path / "hub", "owner", "name")
    cache = str(tmp_path / "hub")
    subjects = list_subjects("owner/name", cache_dir=cache)
    assert list_names(subjects) == OWN_ORDER
    assert {subject.uri for subject in subjects} == {f"pkg:huggingface/owner/name@{COMMIT}"}
    assert list_subjects("owner/name", revision=COMMIT, cache_dir=cache) == subjects
    with pytest.raises(UserError, match=r"owner/name: .* hub model at v2 was downloaded"):
        list_subjects("owner/name", revision="v2", cache_dir=cache)
    adapter = write_adapter(tmp_path / "adapter", "owner/name")
    bases = [s for s in list_subjects(str(adapter), cache_dir=cache) if s.role == "base"]
    assert bases and all(COMMIT in base.uri for base in bases)


def test_a_tokenizer_from_elsewhere_is_hashed_too(model: Path, tmp_path: Path) -> None:
    other = write_files(tmp_path / "other", MODEL_FILES)
    plain = list_subjects(str(model))
    assert list_subjects(str(model), tokenizer_path=str(model)) == plain
    names = list_names(list_subjects(str(model), tokenizer_path=str(other)))
    assert names[len(plain) :] == [
        ("tokenizer/chat_template.jinja", "template"),
        ("tokenizer/tokenizer.json", "tokenizer"),
        ("tokenizer/tokenizer_config.json", "tokenizer"),
    ]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("pytorch_model.bin", "weights"),
        ("pytorch_model.bin.index.json", "weights"),
        ("adapter_model.bin", "adapter"),
        ("modeling_own.py", "code"),
        ("vocab.json", "tokenizer"),
        ("spiece.model", "tokenizer"),
        ("additional_chat_templates/rag.jinja", "template"),
        ("unteach_template.json", "template"),
        ("preprocessor_config.json", "preprocessor"),
        ("README.md", None),
        ("training_args.bin", None),
        ("trainer_state.json", None),
    ],
)
def test_a_file_has_a_role_by_its_name(name: str, role: str | None) -> None:
    assert find_role(name) == role


def test_a_real_model_has_every_file_that_it_needs(tiny_folder: Path) -> None:
    roles = {subject.role for subject in list_subjects(str(tiny_folder))}
    assert roles == {"weights", "config", "tokenizer", "generation"}


@pytest.mark.parametrize("name", ["./nothing", "nobody/nothing", "not a name"])
def test_what_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        list_subjects(name, cache_dir=str(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "empty", {"config.json": "{}"})
    with pytest.raises(UserError, match="no weights"):
        list_subjects(str(tmp_path / "empty"))
    write_adapter(tmp_path / "adapter", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no weights"):
        list_subjects(str(tmp_path / "adapter"))
