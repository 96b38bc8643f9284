"""A LoRA adapter as one GGUF file, which llama.cpp puts on a GGUF model: `--lora FILE`.

llama.cpp adds (alpha / rank) B A to a weight, with one alpha for the whole file and the rank of
each B. What a module's LoRA is scaled by otherwise (use_rslora, alpha_pattern) goes into its B.

Source: llama.cpp, convert_lora_to_gguf.py (what is written) and src/llama-adapter.cpp (what is
read).
"""

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.export.convert import PREFIX
from unteach.lazy import gguf, peft
from unteach.models.adapters import TRAINED

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PretrainedConfig

EXTRA = "gguf"
FILE = "adapter.gguf"
FAMILIES = ("llama", "qwen2", "qwen3")
"""`model_type` of transformers, and the name of the same architecture in GGUF. SmolLM2 is a
llama."""
BLOCK_TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""The linear layers of a block, and their names in GGUF."""
HEAD, HEAD_TENSOR = "lm_head", "output.weight"
NO_LORA = (
    "alora_invocation_tokens",
    "arrow_config",
    "bias",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
"""Fields of LoraConfig under which the result is more, or other, than (alpha / rank) B A on linear
layers."""
KEPT_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights under which the base stays as it was. Others (pissa, olora…) take
something out of it, which a GGUF file of the base still holds."""
REMEDY = (
    "Merge it (unteach export, as=model), and use llama.cpp's convert_hf_to_gguf.py on that model"
)
MAX_SHOWN = 3


def refuse_unfit(
    adapter_config: Mapping[str, object],
    names: Iterable[str],
    base: "PretrainedConfig",
    added: Iterable[int],
    where: str,
) -> None:
    """Raise UserError where no GGUF adapter says the same as an adapter, with all reasons.

    Args:
        adapter_config: LoraConfig's fields.
        names: of the adapter's weights, as PEFT saves them.
        base: the configuration of the model under it.
        added: ids of tokens that were added to that model.
        where: the adapter, for the message.
    """
    if base.model_type not in FAMILIES:
        raise UserError(
            f"{where}: its base is of the family {base.model_type}, and GGUF adapters are written "
            f"of {', '.join(FAMILIES)}. {REMEDY}"
        )
    problems = []
    peft_type = adapter_config.get("peft_type")
    if peft_type != "LORA":
        problems.append(f"peft_type={peft_type}")
    for field in NO_LORA:
        value = adapter_config.get(field)
        if value and value != "none":
            problems.append(f"{field}={value}")
    init = adapter_config.get("init_lora_weights")
    if init not in KEPT_BASE:
        problems.append(f"init_lora_weights={init}, which changes the base too")
    if list(added):
        problems.append("tokens were added for it, which a GGUF file of the base lacks")
    problems += _find_unknown_weights(names, is_tied=bool(base.tie_word_embeddings))
    if problems:
        raise UserError(f"{where}: no GGUF adapter says the same ({'; '.join(problems)}). {REMEDY}")


def _find_unknown_weights(names: Iterable[str], is_tied: bool) -> list[str]:
    """Find weights that are not a LoRA's on a linear layer that llama.cpp adapts."""
    problems = []
    strange = []
    for name in sorted(names):
        match = re.fullmatch(r"(.+)\.lora_[AB]\.weight", name.removeprefix(PREFIX))
        if match is None or name_tensor(match[1]) is None:
            strange.append(name)
        elif match[1] == HEAD and is_tied:
            problems.append(f"{name} is on a head that is one tensor with the embeddings")
    if strange:
        shown = ", ".join(strange[:MAX_SHOWN])
        more = f" and {len(strange) - MAX_SHOWN} more" if len(strange) > MAX_SHOWN else ""
        problems.append(f"llama.cpp adapts no {shown}{more}")
    return problems


def name_tensor(module: str) -> str | None:
    """Name the weight of a linear layer as llama.cpp does: `model.layers.3.mlp.up_proj` is
    `blk.3.ffn_up.weight`. None for a layer that it does not adapt."""
    if module == HEAD:
        return HEAD_TENSOR
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    if match is None or match[2] not in BLOCK_TENSORS:
        return None
    return f"blk.{match[1]}.{BLOCK_TENSORS[match[2]]}.weight"


def write(model: "PeftModel", path: Path) -> None:
    """Write the adapter of a model, which `refuse_unfit` let pass, as a GGUF file of float32."""
    base: Any = model.get_base_model()
    # An alpha of 0 would mean to llama.cpp that nothing is scaled.
    alpha = float(model.peft_config[TRAINED].to_dict()["lora_alpha"]) or 1.0
    tensors = _build_tensors(model, base.config, alpha)
    with contextlib.closing(gguf.GGUFWriter(path, base.config.model_type)) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _build_tensors(
    model: "PeftModel", base: "PretrainedConfig", alpha: float
) -> "dict[str, Tensor]":
    """Build each module's A [r, in] and B [out, r], in float32 and by llama.cpp's names."""
    tensors = {}
    for name, wrapped in model.named_modules():
        if not isinstance(wrapped, peft.tuners.lora.LoraLayer):
            continue
        layer: Any = wrapped
        module = name.removeprefix(PREFIX)
        a = layer.lora_A[TRAINED].weight.detach().float().cpu()
        b = layer.lora_B[TRAINED].weight.detach().float().cpu()
        # (alpha / r) B' A is to be scaling B A; the factor is 1 in a plain LoRA.
        b = b * (layer.scaling[TRAINED] * layer.r[TRAINED] / alpha)
        tensor_name = name_tensor(module)
        assert tensor_name is not None, module
        tensors[f"{tensor_name}.lora_a"] = a
        tensors[f"{tensor_name}.lora_b"] = _reorder_rows(b, module, base)
    return tensors


def _reorder_rows(b: "Tensor", module: str, base: "PretrainedConfig") -> "Tensor":
    """Reorder the rows of B [out, r] as llama.cpp's converter reorders those of the weight.

    transformers rotates the two halves of a head against each other, llama.cpp in a llama its
    neighbours: rows [half, pair] of each head of queries and keys become [pair, half].
    """
    if base.model_type != "llama":
        return b
    if module.endswith("self_attn.q_proj"):
        num_heads = base.num_attention_heads
    elif module.endswith("self_attn.k_proj"):
        num_heads = base.num_key_value_heads
    else:
        return b
    pairs = b.reshape(num_heads, 2, -1, b.shape[1]).transpose(1, 2)
    return pairs.reshape(b.shape)
