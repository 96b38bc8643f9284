"""What is exported of an adapter says what the base says with the adapter, for every kind of
adapter, or is refused."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors import safe_open

from tests.architectures.tiny import save_tiny
from tests.doors import export
from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.export import compare_models, merge_adapter
from unteach.models.hub import PATH
from unteach.models.loading import load as load_config
from unteach.models.model_handlers import learn_tokenizer
from unteach.training.save import save_companions
from unteach.verbs.load import load

IDS = torch.arange(3, 40)[None]
Q = ["q_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "bias-all": {"bias": "all", "target_modules": Q},
    "bias-lora_only": {"bias": "lora_only", "target_modules": Q},
    "lora_bias": {"lora_bias": True, "target_modules": Q},
    "dora": {"use_dora": True, "target_modules": [*Q, "down_proj"]},
    "rslora": {"use_rslora": True, "target_modules": Q},
    "patterns": {
        "rank_pattern": {"q_proj": 3},
        "alpha_pattern": {"v_proj": 5},
        "target_modules": ["q_proj", "v_proj"],
    },
    "embeddings": {"target_modules": [*Q, "embed_tokens"]},
    "head": {"target_modules": [*Q, "lm_head"]},
    "both": {"target_modules": [*Q, "embed_tokens", "lm_head"]},
    "both-kept-tied": {
        "target_modules": [*Q, "embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
    "saved-embeddings": {"target_modules": Q, "modules_to_save": ["embed_tokens"]},
    "saved-head": {"target_modules": Q, "modules_to_save": ["lm_head"]},
    "saved-both": {"target_modules": Q, "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved-kept-tied": {
        "target_modules": Q,
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "rows": {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [5, 6]}},
}
OF_ENDS = (
    "embeddings",
    "head",
    "both",
    "both-kept-tied",
    "saved-embeddings",
    "saved-head",
    "saved-both",
    "saved-kept-tied",
    "rows",
)
STAY_TIED = ("both-kept-tied", "saved-kept-tied", "rows")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def save_qwen2(folder: Path, is_tied: bool) -> Path:
    """A Qwen2, whose attention has biases."""
    torch.manual_seed(0)
    tokenizer = learn_tokenizer(["Who writes? Ann writes. Where does she live? In Rome."], 300)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=is_tied,
        initializer_range=0.1,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen2(tmp_path_factory.mktemp("bases") / "tied", True)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen2(tmp_path_factory.mktemp("bases") / "untied", False)


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits.log_softmax(-1)


def plain(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapt(base: Path, **settings: Any) -> Any:
    """An adapter none of whose weights is at a value that changes nothing."""
    given = {"r": 4, "task_type": "CAUSAL_LM", **settings}
    model = peft.get_peft_model(plain(base), peft.LoraConfig(**given))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter(
    kind: str,
    is_tied: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base: Path = request.getfixturevalue("tied" if is_tied else "untied")
    model = adapt(base, **KINDS[kind])
    expected = logprobs(model)
    assert (expected - logprobs(plain(base))).abs().max() > 0.1
    model.save_pretrained(tmp_path / "adapter")
    export(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert "compared with the base with the adapter: " in capsys.readouterr().out
    assert torch.allclose(logprobs(plain(tmp_path / "merged")), expected, atol=1e-4)
    stays_tied = is_tied and (kind in STAY_TIED or kind not in OF_ENDS)
    assert (
        json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
        is stays_tied
    )
    with safe_open(tmp_path / "merged" / "model.safetensors", framework="pt") as weights:
        assert ("lm_head.weight" in weights.keys()) is not stays_tied  # noqa: SIM118


@pytest.mark.parametrize("kind", ["bias-all", "dora", "both", "saved-both", "saved-head", "rows"])
def test_every_kind_out_of_a_state_dict(kind: str, tied: Path, tmp_path: Path) -> None:
    """As FSDP and others keep it: the names of the module, with the base's own weights beside the
    adapter's."""
    model = adapt(tied, **KINDS[kind])
    expected = logprobs(model)
    torch.save(dict(model.state_dict()), tmp_path / "pytorch_model.bin")
    export(
        str(tmp_path), str(tmp_path / "merged"), base=str(tied), peft_args={"r": 4, **KINDS[kind]}
    )
    assert torch.allclose(logprobs(plain(tmp_path / "merged")), expected, atol=1e-4)
    export(
        str(tmp_path),
        str(tmp_path / "adapter"),
        "adapter",
        base=str(tied),
        peft_args={"r": 4, **KINDS[kind]},
    )
    back = peft.PeftModel.from_pretrained(plain(tied), tmp_path / "adapter")
    assert torch.allclose(logprobs(back), expected, atol=1e-4)


@pytest.mark.parametrize(
    "targets", [["q_proj"], ["q_proj", "embed_tokens", "lm_head"]], ids=["rows", "tables"]
)
def test_added_tokens(targets: list[str], tied: Path, tmp_path: Path) -> None:
    """The vocabulary of the base grows for the adapter, with rows of their own or within LoRA on
    the tables."""
    config = ModelConfig(
        {PATH: str(tied)},
        peft_args={"r": 2, "target_modules": targets, "init_lora_weights": False},
        added_tokens=["<|user|>", "<|end|>"],
    )
    loaded = load_config(config, training=True)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "trainable_tokens" in name:
                parameter += 0.1
    adapter = tmp_path / "adapter"
    loaded.model.save_pretrained(adapter)
    save_companions(loaded, adapter)
    assert torch.allclose(logprobs(load(str(adapter)).model), logprobs(loaded.model), atol=1e-5)
    export(str(adapter), str(tmp_path / "merged"))
    merged = plain(tmp_path / "merged")
    assert torch.allclose(logprobs(merged), logprobs(loaded.model), atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert (
        tokenizer("a<|end|>").input_ids[-1]
        == loaded.added[1]
        < merged.get_input_embeddings().weight.shape[0]
    )


def test_blocks_that_layers_share_are_refused_by_name(tmp_path: Path) -> None:
    save_tiny("zamba", tmp_path / "zamba")
    model = adapt(tmp_path / "zamba", r=2, target_modules=["q_proj"])
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        UserError, match=r"share one block of weights.*model\.layers\.\d\.shared_transf.*q_proj"
    ):
        export(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()
    export(str(tmp_path / "adapter"), str(tmp_path / "kept"), "adapter")


@pytest.mark.parametrize("family", ["laguna", "qwen2_moe", "zamba2"])
def test_names_that_differ_between_file_and_module(family: str, tmp_path: Path) -> None:
    """laguna's shared_experts are shared_expert in its files; experts are one tensor in the module,
    many in files."""
    save_tiny(family, tmp_path / "base")
    model = adapt(tmp_path / "base", r=2, target_modules="all-linear")
    expected = logprobs(model)
    model.save_pretrained(tmp_path / "adapter")
    export(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert torch.allclose(logprobs(plain(tmp_path / "merged")), expected, atol=2e-3)
    torch.save(dict(plain(tmp_path / "merged").state_dict()), tmp_path / "whole.pt")
    export(str(tmp_path / "whole.pt"), str(tmp_path / "whole"), base=str(tmp_path / "base"))
    assert torch.allclose(logprobs(plain(tmp_path / "whole")), expected, atol=2e-3)


def test_an_adapter_over_an_adapter_is_refused(untied: Path, tmp_path: Path) -> None:
    adapt(untied, target_modules=Q).save_pretrained(tmp_path / "first")
    transformers.AutoTokenizer.from_pretrained(untied).save_pretrained(tmp_path / "first")
    second = adapt(untied, target_modules=["v_proj"])
    second.peft_config["default"].base_model_name_or_path = str(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    transformers.AutoTokenizer.from_pretrained(untied).save_pretrained(tmp_path / "second")
    with pytest.raises(UserError, match=r"is an adapter itself\. Merge that one first"):
        export(str(tmp_path / "second"), str(tmp_path / "merged"))
    with pytest.raises(UserError, match="is an adapter itself"):
        load_config(ModelConfig({PATH: str(tmp_path / "second")}), training=False)


def test_a_merge_of_the_base_in_place_is_of_no_use_to_the_other_end(tied: Path) -> None:
    """Without untying, what is on the embeddings would be in the head too."""
    model = adapt(tied, **KINDS["embeddings"])
    merged = merge_adapter.merge(model)
    assert not torch.equal(
        merged.get_input_embeddings().weight, merged.get_output_embeddings().weight
    )
    assert torch.equal(
        merged.get_output_embeddings().weight, plain(tied).get_output_embeddings().weight
    )


@pytest.fixture
def adapter(untied: Path, tmp_path: Path) -> Path:
    adapt(untied, target_modules=Q).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_merge_that_says_something_else_is_refused(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is read past its adapter makes such a one."""
    from peft.tuners.lora.layer import Linear

    once = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, adapter: 2 * once(self, adapter))
    message = (
        r"differs from the base with the adapter by [\d.]+ nats a token, and 0\.001 is "
        r"allowed in float32.*as=adapter"
    )
    with pytest.raises(UserError, match=message):
        export(str(adapter), str(tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_what_is_read_back_is_compared(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that is right in memory, and damaged on its way to the file."""
    save = transformers.PreTrainedModel.save_pretrained

    def damage(model: Any, folder: Any, **given: Any) -> None:
        layer = model.model.layers[1].mlp.up_proj.weight
        kept = layer.detach().clone()
        layer.data.zero_()
        save(model, folder, **given)
        layer.data.copy_(kept)

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", damage)
    with pytest.raises(UserError, match=r"what is read back differs"):
        export(str(adapter), str(tmp_path / "merged"))


def test_a_machine_without_half_kernels_compares_what_it_rounded(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And a written model that no dtype runs is refused."""
    measure = compare_models.measure

    def measure_in_fp32(model: Any, rows: Any) -> Any:
        return measure(model, rows) if model.dtype == torch.float32 else None

    monkeypatch.setattr(compare_models, "measure", measure_in_fp32)
    export(str(adapter), str(tmp_path / "half"), dtype="bfloat16")
    told = float(re.search(r": (\S+) nats a token apart", capsys.readouterr().out)[1])  # type: ignore[index]
    assert 1e-5 < told < 0.1
    monkeypatch.setattr(
        compare_models,
        "measure",
        lambda model, rows: measure(model, rows) if hasattr(model, "peft_config") else None,
    )
    with pytest.raises(
        UserError,
        match="cannot be run on this machine, where the base with the adapter can; as=adapter",
    ):
        export(str(adapter), str(tmp_path / "broken"))
    assert not (tmp_path / "broken").exists()


def test_rounding_is_told_in_nats(
    adapter: Path, untied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(str(adapter), str(tmp_path / "half"), dtype="bfloat16")
    told = "".join(capsys.readouterr())
    apart, effect = (
        float(number)
        for number in re.search(r": (\S+) nats .* changes them by (\S+)", told).groups()
    )  # type: ignore[union-attr]
    assert 1e-5 < apart < 0.1 < effect and "note" not in told
    faint = peft.PeftModel.from_pretrained(plain(untied), adapter)
    with torch.no_grad():
        for name, parameter in faint.named_parameters():
            if "lora_B" in name:
                parameter *= 0.02
    faint.save_pretrained(tmp_path / "faint")
    export(str(tmp_path / "faint"), str(tmp_path / "lost"), dtype="bfloat16")
    assert "bfloat16 rounds away much of what the adapter changed" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_not_written(untied: Path, tmp_path: Path) -> None:
    large = adapt(untied, target_modules=Q)
    with torch.no_grad():
        large.get_base_model().model.norm.weight.fill_(1e5)  # which float16 cannot hold
    base = large.unload()
    base.save_pretrained(tmp_path / "base")
    transformers.AutoTokenizer.from_pretrained(untied).save_pretrained(tmp_path / "base")
    adapted = adapt(tmp_path / "base", target_modules=Q)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        UserError, match=r"in float16: model\.norm\.weight holds numbers that are infinite"
    ):
        export(str(tmp_path / "adapter"), str(tmp_path / "merged"), dtype="float16")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(float("nan"))
    adapted.save_pretrained(tmp_path / "broken")
    for form in ("model", "adapter"):
        with pytest.raises(UserError, match="numbers that are infinite or not a number"):
            export(str(tmp_path / "broken"), str(tmp_path / f"as-{form}"), form)
        assert not (tmp_path / f"as-{form}").exists()
