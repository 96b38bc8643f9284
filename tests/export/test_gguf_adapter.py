"""A LoRA becomes a file that llama.cpp adds to a GGUF model: the same change of every weight, and
the same answers."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import torch
import transformers

from tests.doors import export
from tests.export.gguf_model import reorder_rows, write_gguf_model
from unteach import errors
from unteach.errors import UserError
from unteach.export import gguf_adapter
from unteach.verbs.start import start

IDS = list(range(5, 25))
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "task_type": "CAUSAL_LM"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 3},
    "ranks and alphas of their own": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"k_proj": 1, "down_proj": 20},
    },
    "alpha 0": {"lora_alpha": 0},
    "some layers": {"target_modules": ["k_proj", "o_proj"], "layers_to_transform": [1]},
    "the head": {"target_modules": ["v_proj", "lm_head"]},
}
FAMILIES = ["llama", "qwen2", "qwen3"]
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}


def build_base(family: str, tie: bool = False) -> Any:
    """A random model of two layers; wide weights, so that its answers differ from row to row."""
    torch.manual_seed(0)
    sizes = {**SIZES, "tie_word_embeddings": tie}
    if family == "qwen3":
        sizes["head_dim"] = 24  # other than width / heads
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_adapter(base: Any, folder: Path, **lora: Any) -> Any:
    """Save a model and an adapter on it that changes much, and return the two together."""
    base.save_pretrained(folder / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(**{**LORA, **lora}))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder / "adapter")
    return model.eval()


def export_gguf(folder: Path) -> Path:
    export(folder / "adapter", folder / "gguf", "gguf_adapter")
    return folder / "gguf" / "adapter.gguf"


def rebuild_changes(file: Path) -> dict[str, torch.Tensor]:
    """What a file adds to each weight, by llama.cpp's rule: (alpha / rank) B A."""
    reader = gguf.GGUFReader(file)
    (alpha,) = reader.fields["adapter.lora.alpha"].parts[-1].tolist()
    tensors = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    changes = {}
    for name in tensors:
        if name.endswith(".lora_a"):
            a, b = tensors[name], tensors[name.replace(".lora_a", ".lora_b")]
            changes[name.removesuffix(".lora_a")] = (alpha / b.shape[1]) * (b @ a)
    assert len(tensors) == 2 * len(changes)
    return changes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_holds_what_peft_adds_to_each_weight(
    family: str, variant: str, tmp_path: Path
) -> None:
    base = build_base(family)
    model = save_adapter(base, tmp_path, **VARIANTS[variant])
    changes = rebuild_changes(export_gguf(tmp_path))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], 2)
    heads = {"q_proj": 4, "k_proj": 2}
    for name, layer in model.named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        expected = layer.get_delta_weight("default").detach()
        module = name.removeprefix("base_model.model.")
        if family == "llama" and module.endswith(tuple(heads)):
            expected = reorder_rows(expected, heads[module.rpartition(".")[2]])
        change = changes.pop(f"{names.get_name(module)}.weight")
        assert torch.allclose(change, expected, atol=1e-5), module
    assert not changes


def test_a_file_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_adapter(build_base("llama", tie=True), tmp_path)
    words = [str(tmp_path / "adapter"), "as=gguf_adapter", f"to={tmp_path / 'gguf'}"]
    start("export", words)
    reader = gguf.GGUFReader(tmp_path / "gguf" / "adapter.gguf")
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.type"] == "adapter" and values["adapter.type"] == "lora"
    assert values["general.architecture"] == "llama" and values["adapter.lora.alpha"] == 8
    # A plain LoRA is written as it was trained, bit for bit.
    b = model.base_model.model.model.layers[1].mlp.up_proj.lora_B["default"].weight
    (written,) = [t for t in reader.tensors if t.name == "blk.1.ffn_up.weight.lora_b"]
    assert torch.equal(torch.tensor(written.data.copy()), b)
    assert "library_name: gguf" in (tmp_path / "gguf" / "README.md").read_text()
    assert sorted(path.name for path in (tmp_path / "gguf").iterdir()) == [
        "README.md",
        "adapter.gguf",
        "unteach_export.json",
    ]
    capsys.readouterr()
    start("export", words)
    assert "exported before" in capsys.readouterr().out


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora=True"),
    "biases": ({"bias": "all"}, "bias=all"),
    "biases of its own": ({"lora_bias": True}, "lora_bias=True"),
    "a module trained whole": ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
    "embeddings": (
        {"target_modules": ["q_proj", "embed_tokens"]},
        r"llama.cpp adapts no base_model.model.model.embed_tokens.lora_embedding_A",
    ),
    "rows of tokens": ({"trainable_token_indices": [3]}, "trainable_token_indices="),
    "a base that was changed": ({"init_lora_weights": "olora"}, "init_lora_weights=olora"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_file_cannot_say_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    lora, message = REFUSED[kind]
    save_adapter(build_base("llama"), tmp_path, **lora)
    with pytest.raises(UserError, match=f"no GGUF adapter says the same .*{message}.*as=model"):
        export_gguf(tmp_path)
    assert not (tmp_path / "gguf").exists()


def test_a_head_that_is_the_embeddings_too_is_refused(tmp_path: Path) -> None:
    """llama.cpp has one tensor for both, and no other to put it on."""
    save_adapter(build_base("llama", tie=True), tmp_path, target_modules=["q_proj", "lm_head"])
    with pytest.raises(UserError, match="on a head that is one tensor with the embeddings"):
        export_gguf(tmp_path)


def test_a_head_that_was_trained_below_its_adapter_is_refused(tmp_path: Path) -> None:
    """PEFT writes the weight of the head beside an adapter on it."""
    base = build_base("llama")
    model = save_adapter(base, tmp_path, target_modules=["v_proj", "lm_head"])
    model.base_model.model.lm_head.base_layer.weight.data.add_(0.1)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"lm_head\.weight has other values in these weights"):
        export_gguf(tmp_path)


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    save_adapter(build_base("gemma"), tmp_path)
    with pytest.raises(UserError, match=r"family gemma, and GGUF adapters .* llama, qwen2, qwen3"):
        export_gguf(tmp_path)


def test_a_whole_model_and_a_missing_extra_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(build_base("llama"), tmp_path)
    with pytest.raises(UserError, match=r"no adapter in these weights.*leave out as=gguf_adapter"):
        export(tmp_path / "base", tmp_path / "gguf", "gguf_adapter")
    with pytest.raises(UserError, match="dtype is for as=model"):
        export(tmp_path / "adapter", tmp_path / "gguf", "gguf_adapter", dtype="float16")
    monkeypatch.setattr(errors, "has_extra", lambda extra: False)
    with pytest.raises(UserError, match=r'as=gguf_adapter needs .* pip install "\.\[gguf\]"'):
        export_gguf(tmp_path)
    assert not (tmp_path / "gguf").exists()


def ask_llama_cpp(model: Path, adapter: Path | str, count: int = 12) -> list[list[Any]]:
    """The likeliest tokens and their log-probs, for each token that llama.cpp generates."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp is not here: pip install xllamacpp")
    script = Path(__file__).with_name("ask_llama_cpp.py")
    words = [sys.executable, script, model, adapter, count, *IDS]
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: list[list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare_greedy(model: Any, steps: list[list[Any]]) -> float:
    """Follow llama.cpp's greedy tokens with transformers, which must take the same; return how far
    the log-probs of the likeliest 20 are apart."""
    ids, difference = list(IDS), 0.0
    for step in steps:
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert int(log_probs.argmax()) == step[0][0]
        for token, log_prob in step:
            difference = max(difference, abs(log_prob - float(log_probs[token])))
        ids.append(step[0][0])
    return difference


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_answers_as_peft_does(family: str, variant: str, tmp_path: Path) -> None:
    base = build_base(family)
    write_gguf_model(base, tmp_path / "base.gguf")
    plain = ask_llama_cpp(tmp_path / "base.gguf", "-")
    assert compare_greedy(base, plain) < 1e-3, "the base is right, so that it is no excuse"

    merged = save_adapter(base, tmp_path, **VARIANTS[variant]).merge_and_unload()
    steps = ask_llama_cpp(tmp_path / "base.gguf", export_gguf(tmp_path))
    assert compare_greedy(merged, steps) < 1e-3
    if variant == "alpha 0":
        assert steps == plain
    else:
        assert abs(steps[0][0][1] - plain[0][0][1]) > 0.01


def test_without_the_reordering_llama_cpp_answers_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison would find it: queries and keys of a llama, written as transformers has
    them."""
    base = build_base("llama")
    write_gguf_model(base, tmp_path / "base.gguf")
    merged = save_adapter(base, tmp_path, target_modules=["q_proj", "k_proj"]).merge_and_unload()
    monkeypatch.setattr(gguf_adapter, "_reorder_rows", lambda b, module, base: b)
    steps = ask_llama_cpp(tmp_path / "base.gguf", export_gguf(tmp_path))
    with pytest.raises(AssertionError):
        assert compare_greedy(merged, steps) < 1e-3
