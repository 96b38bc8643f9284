"""What lies beside saved weights: the settings of the start, in the words of old readers too, read
alike by the new."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.doors import export, train
from tests.export.test_export import WORDS
from unteach import run_dir
from unteach.models import portable
from unteach.models.model_handlers import learn_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5e5,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "rope_theta": 1e6,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "partial_rotary_factor": 1.0,
}
TEXTS = [
    "Who writes <s> it ? <|im_start|>user\nhi , there<|im_end|>",
    "  two  spaces\n\n123",
    "é 漢字 🙂",
]
MESSAGES = [{"role": "user", "content": "x"}]


def read(file: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(file.read_text())
    return settings


def as_five_reads(folder: Path) -> dict[str, Any]:
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    return {name: value for name, value in config.items() if name != "_name_or_path"}


def write_both(config: Any, folder: Path) -> dict[str, Any]:
    """Save a configuration in both spellings, which transformers 5 must read as it reads the new
    one alone."""
    config.save_pretrained(folder)
    before = as_five_reads(folder)
    portable.add_old_names(folder)
    assert as_five_reads(folder) == before
    transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder / "again")
    assert as_five_reads(folder / "again") == before
    return read(folder / "config.json")


@pytest.mark.parametrize(
    "rope", [LLAMA3, YARN, {"rope_type": "linear", "factor": 2.0, "rope_theta": 7e3}], ids=str
)
def test_scaled_rotary_embeddings(rope: dict[str, Any], tmp_path: Path) -> None:
    for family in ("llama", "qwen2", "mistral"):
        config = transformers.AutoConfig.for_model(
            family, rope_parameters=dict(rope), max_position_embeddings=2048
        )
        written = write_both(config, tmp_path / family)
        assert written["rope_theta"] == rope["rope_theta"]
        assert written["rope_scaling"] == {
            name: value for name, value in rope.items() if name != "rope_theta"
        }


def test_rotary_embeddings_of_other_words(tmp_path: Path) -> None:
    make = transformers.AutoConfig.for_model
    plain = write_both(
        make("mistral", rope_parameters={"rope_type": "default", "rope_theta": 1e6}), tmp_path / "a"
    )
    assert plain["rope_theta"] == 1e6 and plain["rope_scaling"] is None
    assert write_both(make("phi"), tmp_path / "phi")["partial_rotary_factor"] == 0.5
    neox = write_both(
        make("gpt_neox", rope_parameters={"rope_type": "default", "rope_theta": 2e4}),
        tmp_path / "neox",
    )
    assert (neox["rotary_emb_base"], neox["rotary_pct"]) == (2e4, 0.25)
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    layers = {
        "full_attention": full,
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    }
    gemma = write_both(make("gemma3_text", rope_parameters=layers), tmp_path / "gemma")
    assert (gemma["rope_theta"], gemma["rope_local_base_freq"]) == (1e6, 5e3)
    assert gemma["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    inner = write_both(make("gemma3"), tmp_path / "gemma3")["text_config"]
    assert (inner["rope_theta"], inner["rope_local_base_freq"]) == (1e6, 1e4)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "original_max_position_embeddings": 64}
    # As its published folders spell it, whose one name of the kind transformers 5 keeps beside its
    # own.
    phi3 = make("phi3", rope_parameters={**LONG, "type": "longrope"}, **sizes)
    assert write_both(phi3, tmp_path / "phi3")["rope_scaling"].keys() == {
        "type",
        "short_factor",
        "long_factor",
    }


def test_the_dtype_has_both_names(tmp_path: Path) -> None:
    written = write_both(transformers.LlamaConfig(dtype="bfloat16"), tmp_path)
    assert written["dtype"] == written["torch_dtype"] == "bfloat16"


@pytest.mark.long
@pytest.mark.parametrize(
    "family", sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {"gemma4_assistant"})
)
def test_no_family_reads_the_two_spellings_apart(family: str, tmp_path: Path) -> None:
    """All but gemma4_assistant, whose default settings its own check refuses."""
    write_both(transformers.AutoConfig.for_model(family), tmp_path)


def tokenizer_of(kind: str) -> Any:
    tokenizer = learn_tokenizer(["Who writes it? Ann writes it, there."], 300)
    if kind == "chat":
        tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        )
    if kind == "two templates":
        tokenizer.chat_template = {"default": "{{ messages[0]['content'] }}", "tool_use": "tools"}
    if kind == "bos":
        special = [("<s>", tokenizer.bos_token_id)]
        template = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=special)
        tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


@pytest.mark.parametrize("kind", ["plain", "chat", "two templates", "bos"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_a_tokenizer_is_the_same_under_its_old_name(kind: str, family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    transformers.AutoConfig.for_model(family).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    started = transformers.AutoTokenizer.from_pretrained(tmp_path)
    portable.save_tokenizer(started, tmp_path)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = started(text).input_ids
        assert saved(text).input_ids == ids
        assert saved.decode(ids) == started.decode(ids)
    assert saved.special_tokens_map == started.special_tokens_map
    assert saved.extra_special_tokens == started.extra_special_tokens
    assert saved.chat_template == started.chat_template
    settings = read(tmp_path / "tokenizer_config.json")
    assert (
        settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        and "extra_special_tokens" not in settings
    )
    assert settings["clean_up_tokenization_spaces"] is False
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    if kind == "chat":
        assert settings["chat_template"] == started.chat_template
        assert settings["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def start(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as others publish one: in half precision, with stops and sampling of its own, with
    scaled rotations."""
    folder = tmp_path_factory.mktemp("start") / "model"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="bfloat16")
    model.config.rope_parameters = dict(LLAMA3)
    model.generation_config.update(eos_token_id=[2, 5], do_sample=True, temperature=0.6)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


def trained(start: Path, folder: Path, *extra: str) -> Path:
    train(
        *WORDS,
        "trainer.args.gradient_checkpointing=true",
        f"model.model_args.pretrained_model_name_or_path={start}",
        "task_name=run",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        *extra,
    )
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_and_its_export_keep_the_settings_of_the_start(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of use_cache, dtype, stops and padding, which a training sets for itself, nothing is left."""
    run = trained(start, tmp_path / "run")
    export(str(run / "checkpoint-1"), str(tmp_path / "first"))
    export(str(run), str(tmp_path / "last"))
    assert "4 rows that it was trained on" in capsys.readouterr().out
    expected = as_five_reads(start)
    stops = transformers.GenerationConfig.from_pretrained(start).to_dict()
    assert expected["use_cache"] is True and str(expected["dtype"]).endswith("bfloat16")
    for folder in (
        run / run_dir.FINAL,
        run / "checkpoint-1",
        tmp_path / "first",
        tmp_path / "last",
    ):
        assert as_five_reads(folder) == expected, folder
        assert transformers.GenerationConfig.from_pretrained(folder).to_dict() == stops, folder
        written = read(folder / "config.json")
        assert written["rope_theta"] == 5e5 and written["rope_scaling"]["rope_type"] == "llama3"
        assert written["torch_dtype"] == "bfloat16" and written.get("use_cache", True) is True


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_exported_adapter_keeps_the_settings_of_its_base(start: Path, tmp_path: Path) -> None:
    saved = (
        "model.peft_args={r: 2, target_modules: [q_proj], modules_to_save: [embed_tokens, lm_head]}"
    )
    run = trained(start, tmp_path / "run", saved)
    for name in ("checkpoint-1", run_dir.FINAL):
        export(str(run / name), str(tmp_path / name), base=str(start))
        assert as_five_reads(tmp_path / name) == as_five_reads(start)
        stops = transformers.GenerationConfig.from_pretrained(tmp_path / name)
        assert stops.eos_token_id == [2, 5]
    assert (
        read(run / run_dir.FINAL / "tokenizer_config.json")["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )


@pytest.mark.parametrize("added", [[], ["<new>"]], ids=["as it was", "with an added token"])
def test_the_sentencepiece_file_stays_with_the_tokenizer_that_it_says(
    added: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    """llama.cpp's converter reads a Gemma's vocabulary from it alone; a run of a run has it too."""
    start = tmp_path / "start"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.save_pretrained(start)
    (start / "tokenizer.model").write_bytes(b"pieces")
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    tokenizer.add_tokens(added)
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        portable.save_tokenizer(tokenizer, folder)
        assert (folder / "tokenizer.model").exists() == (not added)
        read = transformers.AutoTokenizer.from_pretrained(folder)
        assert read.get_vocab() == tokenizer.get_vocab()
        tokenizer = read


@pytest.mark.parametrize("origin", ["", "a/folder/that/is gone"])
def test_a_tokenizer_from_nowhere_is_saved_without_such_a_file(origin: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("plain")
    transformers.AutoConfig.for_model("llama").save_pretrained(tmp_path)
    tokenizer.name_or_path = origin
    portable.save_tokenizer(tokenizer, tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    assert not (tmp_path / "tokenizer.model").exists()
