"""A tiny random model of any decoder family of the installed transformers, saved with a byte-level
tokenizer."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from unteach.models.model_handlers import learn_tokenizer

NO_DECODERS = {
    "read both ways, made for filling in words": (
        "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert "
        "rembert roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl "
        "xmod xlnet reformer"
    ),
    "one half of an encoder and decoder": (
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart "
        "prophetnet trocr whisper"
    ),
    "for images, sound or bytes, with inputs of their own": (
        "aria_text blt emu3 fuyu git got_ocr2 mllama moshi moss_transcribe_diarize musicgen "
        "musicgen_melody phi4_multimodal gemma4_assistant gemma4_unified_assistant"
    ),
}
"""Families that AutoModelForCausalLM knows and that are no language model to be asked for a text,
by the reason."""
SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.12,
    "max_position_embeddings": 256,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_num_experts": 4,
    "moe_k": 2,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
MAMBA = {
    "mamba_d_ssm": 128,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "state_size": 8,
    "n_groups": 1,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_heads": 4,
    "linear_head_dim": 16,
}
WINDOWS = {"sliding_window": 12, "attention_chunk_size": 12}
HYBRID = {"num_hidden_layers": 4}
"""Of families in which every fourth layer attends, and the others keep a state."""
PER_LAYER = {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 16}
OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {**HYBRID, "layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1], "layer_types": None},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {
            "ffn_hidden_size": 96,
            "hidden_size": 64,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
    },
    "falcon_h1": {"lm_head_multiplier": 0.04},
    "gemma3n_text": {
        **PER_LAYER,
        "num_kv_shared_layers": 0,
        "layer_types": ["full_attention"] * 3,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 3,
    },
    "gemma4": PER_LAYER,
    "gemma4_text": PER_LAYER,
    "gemma4_unified": PER_LAYER,
    "gemma4_unified_text": PER_LAYER,
    "gpt_neo": {
        "num_hidden_layers": None,
        "attention_types": [[["global", "local"], 2]],
        "num_layers": 4,
        "window_size": 12,
    },
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {
        **HYBRID,
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
        ],
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": {
        "head_dim": 8,
        "num_layers": 2,
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 32,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "qwen3_5": HYBRID,
    "qwen3_5_moe": HYBRID,
    "qwen3_5_moe_text": HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_next": HYBRID,
    "qwen4_exp": HYBRID,
    "qwen4_exp_text": HYBRID,
    "xlstm": {"num_heads": 4, "head_dim": None, "qk_dim_factor": 1.0},
    "zamba": {
        "num_hidden_layers": 6,
        "attn_layer_period": 3,
        "attn_layer_offset": 2,
        "layer_types": None,
    },
    "zamba2": {"layer_types": ["mamba", "hybrid", "mamba"], "hybrid_layer_ids": [1]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs beside the sizes, and values away from those that hide a part of it; None
leaves a size out."""


def decoders() -> list[str]:
    left_out = {name for names in NO_DECODERS.values() for name in names.split()}
    return sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in left_out)


def build_config(family: str) -> Any:
    """Take of all sizes those that the family's configuration knows, those of its text where it has
    several parts."""
    config = transformers.AutoConfig.for_model(family)
    inner = config.get_text_config()
    settings = inner.to_dict()
    known = set(settings) | set(inner.attribute_map)
    given = {**SIZES, **EXPERTS, **LATENT, **MAMBA, **LINEAR}
    given |= {name: value for name, value in WINDOWS.items() if settings.get(name) is not None}
    if "qk_rope_head_dim" in known:
        given.pop("head_dim")  # which is of the rotated part alone there
        given["num_key_value_heads"] = given["num_attention_heads"]
    chosen = {
        name: value for name, value in given.items() if name in known and has_one_value(inner, name)
    }
    chosen |= {
        name: 0.0 for name, value in settings.items() if is_noise(name) and isinstance(value, float)
    }
    chosen |= OWN.get(family, {})
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if inner is config:
        return type(config)(**chosen)
    parts = {"text_config": type(inner)(**chosen).to_dict()}
    for name, part in vars(config).items():
        if name in ("vision_config", "audio_config") and part is not None:
            small = {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            }
            parts[name] = {
                **part.to_dict(),
                **{key: value for key, value in small.items() if hasattr(part, key)},
            }
    return type(config)(**parts)


def has_one_value(config: Any, name: str) -> bool:
    """Whether all layers share a setting: where they do not, the configuration refuses to give
    any."""
    try:
        return hasattr(config, name)
    except Exception:  # of a kind that only the newest transformers know
        return False


def is_noise(name: str) -> bool:
    """Whether a setting makes two passes over the same rows differ in training."""
    return "drop" in name or "jitter" in name


def save_tiny(family: str, folder: Path, shift: float = 0.0) -> Any:
    """Save a model with no parameter at a value that hides its part; `shift` moves all of them a
    little."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(build_config(family)).float().eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (0.05 + shift) * torch.randn(parameter.shape, generator=noise)
    model.save_pretrained(folder)
    learn_tokenizer(["a b c"], 300).save_pretrained(folder)
    return model
