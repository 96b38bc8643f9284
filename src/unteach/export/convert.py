"""From weights of any origin to a plain model, or to an adapter on its base; names and shapes are
checked first.

An adapter is taken out of a whole state dict by the names that PEFT gives its weights. Its rank and
its targets can be read off the shapes and names, and are compared with the configuration; its alpha
is in no weight and is believed.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import torch, transformers
from unteach.models import adapters
from unteach.models.hub import from_hub

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import (
        GenerationConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

Weights = dict[str, "Tensor"]
ADAPTER_NAME = re.compile(r"(^|\.)(lora_\w+|modules_to_save|trainable_tokens_delta)(\.|$)")
"""What the name of a weight holds that is an adapter's."""
BUFFER_NAME = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|position_ids)$")
"""The names of tensors that older libraries kept among the weights, and that are computed now."""
WHOLE_MODULE = ".modules_to_save."
"""What the name of a weight holds whose module is trained whole along with the adapter."""
PREFIX = "base_model.model."
MAX_SHOWN = 4


def is_adapter_weight(name: str) -> bool:
    return ADAPTER_NAME.search(name) is not None


def has_adapter(weights: Weights) -> bool:
    """Say whether there is an adapter among these weights."""
    return any(map(is_adapter_weight, weights))


def to_peft_name(name: str) -> str:
    """Name an adapter's weight in one way, whether or not it was saved under its adapter's name."""
    bare = re.sub(rf"\.({adapters.TRAINED}|{adapters.FIRST})(?=\.|$)", "", name)
    bare = re.sub(
        r"(lora_embedding_[AB]|lora_magnitude_vector|trainable_tokens_delta)\.weight$", r"\1", bare
    )
    return bare if bare.startswith(PREFIX) else PREFIX + bare


def to_base_name(name: str) -> str:
    """Name a weight under an adapter as the model without one does."""
    bare = name.removeprefix(PREFIX)
    return re.sub(r"\.(base_layer|original_module|token_adapter)(?=\.)", "", bare)


def take_adapter(
    base: "PreTrainedModel",
    weights: Weights,
    peft_args: dict[str, Any],
    base_name: str,
    added: Sequence[int] = (),
) -> "PeftModel":
    """Put the adapter that is in `weights` on its base; every other weight there must be the base's
    own.

    Args:
        base_name: what the base is called in messages.
        added: the ids of tokens that were added to it.

    Raises:
        UserError: rank, targets or base are not those it had.
    """
    adapter_weights, base_weights = _separate(weights)

    # Where the weights of such an adapter go; one of two that are tied is enough.
    own_weights = base.state_dict()
    model = adapters.attach(base, peft_args, added)
    slots, tied_names = _find_slots(model)
    for name in tied_names:
        adapter_weights.pop(name, None)
    whole_modules = _find_whole_modules(slots)
    if not any(WHOLE_MODULE in name for name in adapter_weights):
        for name, base_weight_name in whole_modules.items():
            if base_weight_name in base_weights:
                adapter_weights[name] = base_weights[base_weight_name]

    # All that is left must not have moved: it is compared with the base.
    trained_in_base = _find_trained_in_base(model)
    moved = {*trained_in_base, *whole_modules.values()}
    unmoved = {name: tensor for name, tensor in base_weights.items() if name not in moved}
    if hasattr(base, "score"):
        # A classifier's head is trained with the adapter.
        unmoved = {name: unmoved[name] for name in unmoved if not name.startswith("score.")}
    refuse_other_base(unmoved, own_weights, base_name)
    _refuse_other_targets(set(adapter_weights), set(slots))
    absent = trained_in_base.keys() - base_weights.keys()
    if absent:
        raise UserError(
            f"these weights lack {_list_some(absent)}, which model.peft_args says were trained "
            "(bias)"
        )

    for name, slot in trained_in_base.items():
        slots[name] = slot
        adapter_weights[name] = base_weights[name]
    _fill(slots, adapter_weights, base_name)
    return model


def _separate(weights: Weights) -> tuple[Weights, Weights]:
    """Separate an adapter's weights, by PEFT's names, from all others, by their names in the
    base."""
    adapter_weights: Weights = {}
    base_weights: Weights = {}
    for name, tensor in weights.items():
        if is_adapter_weight(name):
            adapter_weights[to_peft_name(name)] = tensor
        else:
            base_weights[to_base_name(name)] = tensor
    return adapter_weights, base_weights


def take_base_weights(weights: Weights) -> Weights:
    """Take all weights that are not an adapter's, by their names in the base."""
    return _separate(weights)[1]


def _find_whole_modules(slots: Weights) -> dict[str, str]:
    """Find the slots of modules that are trained whole, and their names in the base, under which an
    adapter's own file has them."""
    names = {}
    for name in slots:
        if WHOLE_MODULE in name:
            names[name] = to_base_name(name.replace(WHOLE_MODULE, "."))
    return names


def _fill(slots: Weights, weights: Weights, base_name: str) -> None:
    """Copy weights into their slots, all of which must have the right shape."""
    for name, slot in slots.items():
        shape = weights[name].shape
        if shape != slot.shape:
            raise UserError(_describe_other_shape(name, shape, slot.shape, base_name))
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(weights[name])


def _find_trained_in_base(model: "PeftModel") -> Weights:
    """Find the base's own weights that train along with an adapter, by their names in the base:
    `bias` of LoraConfig."""
    trained: Weights = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not is_adapter_weight(name):
            trained[to_base_name(name)] = parameter
    return trained


def _find_slots(model: "PeftModel") -> tuple[Weights, set[str]]:
    """Find where an adapter's weights go, by name, and the second names of those that are tied."""
    slots: Weights = {}
    tied_names = set()
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        if not is_adapter_weight(name):
            continue
        if first_names.setdefault(tensor.data_ptr(), name) == name:
            slots[to_peft_name(name)] = tensor
        else:
            tied_names.add(to_peft_name(name))
    return slots, tied_names


def _list_targets(names: Iterable[str]) -> list[str]:
    """List the modules that an adapter's weights belong to, by the last part of their names."""
    targets = set()
    for name in names:
        owner = ADAPTER_NAME.split(name)[0].removesuffix(".token_adapter")
        targets.add(owner.rpartition(".")[2])
    return sorted(targets)


def _refuse_other_targets(names: set[str], slot_names: set[str]) -> None:
    """Raise UserError where an adapter is on other modules than the configuration says."""
    if names == slot_names:
        return
    targets, slot_targets = _list_targets(names), _list_targets(slot_names)
    if targets != slot_targets:
        raise UserError(
            f"the adapter in these weights is on {', '.join(targets)}, and model.peft_args "
            f"puts one on {', '.join(slot_targets)}; set target_modules (and modules_to_save) to "
            "those that it is on"
        )
    raise UserError(
        "the adapter in these weights is of another form than model.peft_args says: it has "
        f"{_list_some(names - slot_names)} and lacks {_list_some(slot_names - names)}; mend "
        "peft_args (layers_to_transform, use_dora, bias), or name another base"
    )


def _describe_other_shape(
    name: str, shape: Sequence[int], expected: Sequence[int], base_name: str
) -> str:
    """Say what is wrong where a weight of an adapter has another shape than over this base."""
    rank_dim = 0 if ".lora_A" in name or "lora_embedding_A" in name else 1
    if "lora_" in name and _differ_in(shape, expected) <= {rank_dim}:
        return (
            f"{name} has rank {shape[rank_dim]}, and model.peft_args gives rank "
            f"{expected[rank_dim]}; set r to {shape[rank_dim]} (and lora_alpha to what it was "
            "trained with: weights do not tell it)"
        )
    return (
        f"{name} is {_format_shape(shape)}, and over {base_name} it would be "
        f"{_format_shape(expected)}; this is the adapter of another base"
    )


def _differ_in(shape: Sequence[int], other: Sequence[int]) -> set[int]:
    """Return the dimensions in which two shapes differ; -1 stands for another number of them."""
    if len(shape) != len(other):
        return {-1}
    return {i for i, size in enumerate(shape) if size != other[i]}


def refuse_other_base(weights: Weights, base: Weights, base_name: str) -> None:
    """Raise UserError where weights beside an adapter are not its base's, which did not move."""
    strange = []
    for name, tensor in weights.items():
        if name not in base:
            if not BUFFER_NAME.search(name):
                strange.append(name)
            continue
        if tensor.shape != base[name].shape:
            raise UserError(
                f"{name} is {_format_shape(tensor.shape)} in these weights and "
                f"{_format_shape(base[name].shape)} in {base_name}; set model.base_path to the "
                "model that this was trained on (resized, if tokens were added to it)"
            )
        if not _is_same(tensor, base[name]):
            raise UserError(
                f"{name} has other values in these weights than in {base_name}; set "
                "model.base_path to the model that this was trained on"
            )
    if strange:
        raise UserError(
            f"{base_name} has no {_list_some(strange)}; set model.base_path to the model that this "
            "was trained on"
        )


def _is_same(one: "Tensor", other: "Tensor") -> bool:
    """Say whether tensors are equal up to the rounding of the coarser dtype, as one of them may
    have been in half precision."""
    coarse = min(one.dtype, other.dtype, key=_count_bits)
    if not coarse.is_floating_point:
        return torch.equal(one, other)
    largest = other.float().abs().max().item() if other.numel() else 0.0
    eps = torch.finfo(coarse).eps
    return torch.allclose(one.float(), other.float(), rtol=2 * eps, atol=1e-5 * largest)


def _count_bits(dtype: "torch.dtype") -> int:
    """Count the bits of a floating-point dtype; others are as exact as any."""
    return torch.finfo(dtype).bits if dtype.is_floating_point else 64


def _format_shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _list_some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - MAX_SHOWN} more" if len(ordered) > MAX_SHOWN else ""
    return (", ".join(ordered[:MAX_SHOWN]) or "nothing") + more


def build_whole_model(path: str, weights: Weights, dtype: "torch.dtype | str") -> Any:
    """Build the model whose configuration is in `path`, with these weights and no others."""
    config = from_hub(transformers.AutoConfig, path)
    kept = {name: tensor for name, tensor in weights.items() if not BUFFER_NAME.search(name)}
    try:
        model, report = find_model_class(config).from_pretrained(
            None,
            config=config,
            state_dict=kept,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"these weights do not fit {path}: {str(error).splitlines()[0]}") from None
    for name, shape, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{name} is {_format_shape(shape)} in these weights and {_format_shape(expected)} in "
            f"{path}; it is another model"
        )
    problems = {"missing_keys": "lack", "unexpected_keys": "have more than it has:"}
    for key, problem in problems.items():
        if report[key]:
            raise UserError(
                f"these weights are not of {path}: they {problem} {_list_some(report[key])}"
            )
    return model


def find_model_class(config: "PretrainedConfig") -> Any:
    """Find the class of transformers that a configuration was made by; a causal language model
    where it does not say."""
    architectures = getattr(config, "architectures", None) or ["AutoModelForCausalLM"]
    return getattr(transformers, architectures[0], transformers.AutoModelForCausalLM)


def refuse_quantised(path: str) -> None:
    """Raise UserError where an adapter would be merged into rounded weights: rounding a sum to four
    bits again changes every answer."""
    if getattr(from_hub(transformers.AutoConfig, path), "quantization_config", None):
        raise UserError(
            f"{path} is quantised, and an adapter is not merged into rounded weights; set "
            "model.base_path to the model in full precision that it was made from, or take "
            "as=adapter"
        )


def read_generation_config(path: str) -> "GenerationConfig | None":
    """Read the generation settings in a folder or repository; None where there are none."""
    try:
        return transformers.GenerationConfig.from_pretrained(path)
    except OSError:
        return None


def load_first_tokenizer(paths: Iterable[str | None]) -> "PreTrainedTokenizerBase | None":
    """Load the tokenizer of the first of these folders and repositories that has one."""
    for path in paths:
        if not path:
            continue
        if not Path(path).is_dir() or (Path(path) / "tokenizer_config.json").exists():
            tokenizer: PreTrainedTokenizerBase = from_hub(transformers.AutoTokenizer, path)
            return tokenizer
    return None
