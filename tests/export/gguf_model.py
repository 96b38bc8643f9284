"""A tiny model of transformers as a GGUF file of float32, for tests that ask llama.cpp.

Names come from the gguf package's own map, and the rows of Llama's queries and keys are reordered as
llama.cpp's converter does: a rotary pair is two neighbours there, and two halves in transformers.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

PERMUTED = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}


def write_gguf_model(model: Any, path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_vocabulary(writer, config)

    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers
    )
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.float().numpy()
        for module, count in PERMUTED.items():
            if config.model_type == "llama" and module in name:
                weight = reorder_rows(weight, getattr(config, count))
        to = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert to is not None, name
        writer.add_tensor(to, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def reorder_rows(weight: Any, num_heads: int) -> Any:
    """Row 2j+k of a head is what was row j of its half k."""
    size = weight.shape[0] // num_heads
    rows = []
    for head in range(num_heads):
        for pair in range(size // 2):
            rows += [head * size + pair, head * size + size // 2 + pair]
    return weight[rows]


def _add_vocabulary(writer: gguf.GGUFWriter, config: Any) -> None:
    """Tokens that no text has: the tests ask by ids."""
    count = config.vocab_size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{index}>" for index in range(count)])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * count)
    writer.add_token_merges(["< 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
