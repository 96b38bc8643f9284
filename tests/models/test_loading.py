"""A model that cannot be loaded: one message, which says what to do."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from huggingface_hub import errors

from unteach import run_dir
from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.models import integrity, model_handlers
from unteach.models.hub import PATH
from unteach.models.loading import load
from unteach.models.model_handlers import flash_attention_fits, load_tokenizer


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(path: Any, **model_args: Any) -> str:
    with pytest.raises(UserError) as told:
        load(ModelConfig({PATH: str(path), **model_args}), training=False)
    return str(told.value)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing").endswith("there is no such folder")
    assert "write the home folder out in full" in refused("~/models/none")
    assert "no such folder here and no such model" in refused("saves/unlearn/none")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "no model is in this folder" in refused(tmp_path)
    (tmp_path / run_dir.CONFIG).write_text("mode: train\n")
    assert "this run holds no final_checkpoint/ yet" in refused(tmp_path)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds no weights as *.safetensors" in refused(folder)


def test_pickled_weights_are_read_only_on_demand(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "model.model_args.use_safetensors=false if you trust" in refused(folder)
    load(ModelConfig({PATH: str(folder), "use_safetensors": False}), training=False)


def test_torn_files(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    assert "invalid header" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "not a valid JSON file" in refused(folder)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma", "gpt_neox"])
def test_a_folder_without_a_tokenizer(folder: Path, kind: str) -> None:
    """For some architectures transformers makes an empty tokenizer where there is none, and says
    nothing."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    edit(folder / "config.json", model_type=kind)
    with pytest.raises(
        UserError,
        match=r"holds no tokenizer\. Set model\.tokenizer_args\.pretrained_model_name_or_path",
    ):
        load_tokenizer(str(folder), {}, {})


def test_a_repositorys_own_code_is_not_run_unasked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder.parent))
    ran = folder.parent / "ran"
    (folder / "own.py").write_text(
        f"from transformers import LlamaConfig\nopen({str(ran)!r}, 'w')\nclass Own(LlamaConfig):\n "
        f"   model_type = 'own'\n"
    )
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    with mock.patch("builtins.input", side_effect=AssertionError("asked at the terminal")):
        assert "model.model_args.trust_remote_code=true" in refused(folder)
    assert not ran.exists()
    model_handlers.from_hub(transformers.AutoConfig, str(folder), trust_remote_code=True)
    assert ran.exists()


def hub_says(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Lets every download end in this error, below the place where transformers wraps it."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", fail)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            errors.GatedRepoError(
                "403 Client Error. Access is restricted.", response=mock.MagicMock()
            ),
            "hf auth login",
        ),
        (
            errors.RepositoryNotFoundError("404 Client Error.", response=mock.MagicMock()),
            "no such model on the hub",
        ),
        (
            errors.RevisionNotFoundError("404 Client Error.", response=mock.MagicMock()),
            "model.model_args.revision",
        ),
        (
            errors.LocalEntryNotFoundError("An error happened."),
            "hf download meta-llama/Llama-2-7b-hf",
        ),
    ],
)
def test_what_the_hub_refuses(error: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_says(monkeypatch, error)
    message = refused("meta-llama/Llama-2-7b-hf")
    assert message.startswith("cannot load meta-llama/Llama-2-7b-hf: ")
    assert told in message
    assert "\n" not in message and len(message) < 350
    if isinstance(error, errors.GatedRepoError):
        assert "Ask for access at https://huggingface.co/meta-llama/Llama-2-7b-hf" in message
        with pytest.raises(
            UserError, match=r"it is gated.*model\.tokenizer_args\.pretrained_model_name_or_path"
        ):
            load_tokenizer("here", {PATH: "meta-llama/Llama-2-7b-hf"}, {})


def test_config_weights_and_tokenizer_come_from_one_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def from_hub(auto: Any, path: str, **arguments: Any) -> Any:
        asked.append((auto.__name__, arguments.get("revision")))
        if auto is transformers.AutoModelForCausalLM:
            return mock.MagicMock(), {
                "missing_keys": [],
                "mismatched_keys": [],
                "unexpected_keys": [],
            }
        return transformers.LlamaConfig() if auto is transformers.AutoConfig else mock.MagicMock()

    monkeypatch.setattr(model_handlers, "from_hub", from_hub)
    monkeypatch.setattr(integrity, "from_hub", from_hub)
    args = {PATH: "somebody/model", "revision": "abc"}
    with pytest.raises(UserError, match="holds no tokenizer"):  # the stand-in is an empty one
        model_handlers.AutoModelForCausalLM.load(args, {}, None)
    assert asked == [
        ("AutoConfig", "abc"),
        ("AutoModelForCausalLM", "abc"),
        ("AutoTokenizer", "abc"),
    ]
    asked.clear()
    with pytest.raises(UserError, match="holds no tokenizer"):
        model_handlers.AutoModelForCausalLM.load(args, {PATH: "somebody/else"}, None)
    assert asked[-1] == ("AutoTokenizer", None)


def test_flash_attention_that_is_not_here_is_named(tiny_folder: Path) -> None:
    for path, handler in ((str(tiny_folder), "AutoModelForCausalLM"), (None, "scratch")):
        config = ModelConfig(
            {PATH: path, "attn_implementation": "flash_attention_2"}, model_handler=handler
        )
        with pytest.raises(UserError, match=r"pip install flash-attn --no-build-isolation"):
            load(config, training=False, texts=lambda: ["a"])
    assert "flash_attention_2" in refused(tiny_folder, attn_implementation="flash")


@pytest.mark.parametrize("asked", [None, "auto", "sdpa", "eager"])
def test_attention_that_works_everywhere(tiny_folder: Path, asked: str | None) -> None:
    args = {"attn_implementation": asked} if asked else {}
    loaded = load(ModelConfig({PATH: str(tiny_folder), **args}), training=False)
    assert loaded.model.config._attn_implementation == ("eager" if asked == "eager" else "sdpa")


def test_auto_takes_flash_attention_only_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    half, llama = {"dtype": torch.bfloat16}, transformers.LlamaConfig()
    assert not flash_attention_fits(half, llama)
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    assert flash_attention_fits(half, llama)
    assert not flash_attention_fits({"dtype": torch.float32}, llama)
    assert not flash_attention_fits({**half, "device_map": "cpu"}, llama)
    assert not flash_attention_fits({**half, "attn_implementation": "sdpa"}, llama)
    assert not flash_attention_fits(half, transformers.MptConfig()), "this architecture has none"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (7, 5))
    assert not flash_attention_fits(half, llama)


def test_what_a_model_from_scratch_does_not_know(tmp_path: Path) -> None:
    def scratch(**model_args: Any) -> None:
        load(
            ModelConfig(model_args, model_handler="scratch"),
            training=True,
            texts=lambda: ["some text"],
        )

    with pytest.raises(
        UserError, match=r"model\.model_args\.hiden_size: .*did you mean hidden_size"
    ):
        scratch(hiden_size=64)
    with pytest.raises(
        UserError,
        match=r"hidden size \(64\) is not a multiple of the number of attention heads \(3\)",
    ):
        scratch(hidden_size=64, num_attention_heads=3)


def test_no_path_is_said() -> None:
    with pytest.raises(UserError, match=r"pretrained_model_name_or_path: is required"):
        load(ModelConfig({}), training=False)
