"""From weights of any origin to a plain model, or to an adapter on its base; names and shapes are
checked first.

An adapter is taken out of a whole state dict by the names that PEFT gives its weights. Its rank and
its targets can be read off the shapes and names, and are compared with what was said; its alpha is
in no weight and is believed.
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
    from torch import Tensor
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

Weights = dict[str, "Tensor"]
OF_ADAPTER = r"(^|\.)(lora_\w+|modules_to_save|trainable_tokens_delta)(\.|$)"
BUFFERS = r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|position_ids)$"
"""Tensors that older libraries kept among the weights, and that are computed now."""
SHOWN = 4


def has_adapter(weights: Weights) -> bool:
    """Whether there is an adapter among these weights."""
    return any(re.search(OF_ADAPTER, name) for name in weights)


def to_peft_name(name: str) -> str:
    """An adapter's weight under one name, whichever way it was saved: under the name of its adapter
    or without."""
    bare = re.sub(rf"\.({adapters.TRAINED}|{adapters.FIRST})(?=\.|$)", "", name)
    bare = re.sub(
        r"(lora_embedding_[AB]|lora_magnitude_vector|trainable_tokens_delta)\.weight$", r"\1", bare
    )
    return bare if bare.startswith("base_model.model.") else f"base_model.model.{bare}"


def to_base_name(name: str) -> str:
    """A weight under an adapter by the name that it has in the model without one."""
    return re.sub(
        r"\.(base_layer|original_module|token_adapter)(?=\.)",
        "",
        name.removeprefix("base_model.model."),
    )


def take_adapter(
    base: Any, weights: Weights, peft_args: dict[str, Any], named: str, added: Sequence[int] = ()
) -> Any:
    """Puts the adapter that is in `weights` on its base; every other weight there is must be the
    base's own.

    named: what the base is called in messages; added: the ids of tokens that were added to it.
    Raises UserError where rank, targets or base are not those it had.
    """
    found = {
        to_peft_name(name): tensor
        for name, tensor in weights.items()
        if re.search(OF_ADAPTER, name)
    }
    rest = {
        to_base_name(name): tensor
        for name, tensor in weights.items()
        if not re.search(OF_ADAPTER, name)
    }
    held = base.state_dict()
    model = adapters.attach(base, peft_args, added)
    slots, twins = _slots(model)
    found = {name: tensor for name, tensor in found.items() if name not in twins}
    copies = {
        name: to_base_name(name.replace(".modules_to_save.", "."))
        for name in slots
        if ".modules_to_save." in name
    }
    for name, bare in copies.items():
        # an adapter's own file
        if bare in rest and not any(".modules_to_save." in other for other in found):
            found[name] = rest[bare]
    moved = _trained_in_base(model)
    left_alone = {
        name: tensor for name, tensor in rest.items() if name not in {*moved, *copies.values()}
    }
    # a classifier's head is trained with the adapter
    head = "score." if hasattr(base, "score") else ()
    left_alone = {name: tensor for name, tensor in left_alone.items() if not name.startswith(head)}
    _refuse_other_base(left_alone, held, named)
    _refuse_other_targets(found, slots)
    if absent := moved.keys() - rest.keys():
        raise UserError(
            f"these weights lack {_some(absent)}, which model.peft_args says were trained (bias)"
        )
    slots |= moved
    found |= {name: rest[name] for name in moved}
    for name, slot in slots.items():
        if found[name].shape != slot.shape:
            raise UserError(_said_of_shapes(name, found[name].shape, slot.shape, named))
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(found[name])
    return model


def _trained_in_base(model: "PreTrainedModel") -> Weights:
    """The base's own weights that train along with an adapter, by their names in the base: `bias`
    of LoraConfig."""
    return {
        to_base_name(name): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not re.search(OF_ADAPTER, name)
    }


def _slots(model: "PreTrainedModel") -> tuple[Weights, set[str]]:
    """Where an adapter's weights go, by name; and the other names of those that are tied."""
    slots: Weights = {}
    first: dict[int, str] = {}
    twins = set()
    for name, tensor in model.state_dict().items():
        if re.search(OF_ADAPTER, name):
            if first.setdefault(tensor.data_ptr(), name) == name:
                slots[to_peft_name(name)] = tensor
            else:
                twins.add(to_peft_name(name))
    return slots, twins


def _targets(names: Iterable[str]) -> set[str]:
    """The modules that an adapter's weights belong to, by the last part of their names."""
    owners = (re.split(OF_ADAPTER, name)[0].removesuffix(".token_adapter") for name in names)
    return {owner.rpartition(".")[2] for owner in owners}


def _refuse_other_targets(found: Iterable[str], slots: Iterable[str]) -> None:
    found, slots = set(found), set(slots)
    if found == slots:
        return
    there, asked = _targets(found), _targets(slots)
    if there != asked:
        raise UserError(
            f"the adapter in these weights is on {', '.join(sorted(there))}, and model.peft_args "
            f"puts one on {', '.join(sorted(asked))}; set target_modules (and modules_to_save) to "
            "those that it is on"
        )
    raise UserError(
        "the adapter in these weights is of another form than model.peft_args says: it has "
        f"{_some(found - slots)} and lacks {_some(slots - found)}; mend peft_args "
        "(layers_to_transform, use_dora, bias), or name another base"
    )


def _said_of_shapes(name: str, found: Any, slot: Any, named: str) -> str:
    side = 0 if ".lora_A" in name or "lora_embedding_A" in name else 1
    others = [i for i in range(len(slot)) if i != side]
    if "lora_" in name and len(found) == len(slot) and all(found[i] == slot[i] for i in others):
        return (
            f"{name} has rank {found[side]}, and model.peft_args gives rank {slot[side]}; set r to "
            f"{found[side]} (and lora_alpha to what it was trained with: weights do not tell it)"
        )
    return (
        f"{name} is {_shape(found)}, and over {named} it would be {_shape(slot)}; this is the "
        f"adapter of another base"
    )


def _refuse_other_base(rest: Weights, base: Weights, named: str) -> None:
    """The weights beside an adapter are its base's, and did not move; other values are another
    base's."""
    for name, tensor in rest.items():
        if name not in base:
            continue
        if tensor.shape != base[name].shape:
            raise UserError(
                f"{name} is {_shape(tensor.shape)} in these weights and {_shape(base[name].shape)} "
                f"in {named}; set model.base_path to the model that this was trained on (resized, "
                "if tokens were added to it)"
            )
        if not _same(tensor, base[name]):
            raise UserError(
                f"{name} has other values in these weights than in {named}; set model.base_path to "
                "the model that this was trained on"
            )
    strange = [name for name in rest if name not in base and not re.search(BUFFERS, name)]
    if strange:
        raise UserError(
            f"{named} has no {_some(strange)}; set model.base_path to the model that this was "
            f"trained on"
        )


def _same(one: "Tensor", other: "Tensor") -> bool:
    """Equal up to the rounding of the coarser of two dtypes, as one of them may have been half a
    precision."""
    coarse = min(
        (one, other), key=lambda t: torch.finfo(t.dtype).bits if t.is_floating_point() else 64
    ).dtype
    if not coarse.is_floating_point:
        return torch.equal(one, other)
    spread = other.float().abs().max().item() if other.numel() else 0.0
    return torch.allclose(
        one.float(), other.float(), rtol=2 * torch.finfo(coarse).eps, atol=1e-5 * spread
    )


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape))


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return (", ".join(ordered[:SHOWN]) or "nothing") + more


def build_whole_model(place: str, weights: Weights, dtype: Any) -> Any:
    """The model whose configuration is in `place`, with these weights and no others."""
    config = from_hub(transformers.AutoConfig, place)
    cls = find_model_class(config)
    kept = {name: tensor for name, tensor in weights.items() if not re.search(BUFFERS, name)}
    try:
        model, told = cls.from_pretrained(
            None,
            config=config,
            state_dict=kept,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"these weights do not fit {place}: {str(error).splitlines()[0]}") from None
    if told["mismatched_keys"]:
        name, found, slot = sorted(told["mismatched_keys"])[0]
        raise UserError(
            f"{name} is {_shape(found)} in these weights and {_shape(slot)} in {place}; it is "
            f"another model"
        )
    for kind, said in (("missing_keys", "lack"), ("unexpected_keys", "have more than it has:")):
        if told[kind]:
            raise UserError(f"these weights are not of {place}: they {said} {_some(told[kind])}")
    return model


def find_model_class(config: "PretrainedConfig") -> Any:
    """The class of transformers that a configuration was made by; a causal language model where it
    does not say."""
    named = (getattr(config, "architectures", None) or ["AutoModelForCausalLM"])[0]
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def refuse_quantised(path: str) -> None:
    """An adapter is merged into full precision alone: rounding a sum to four bits again changes
    every answer."""
    if getattr(from_hub(transformers.AutoConfig, path), "quantization_config", None):
        raise UserError(
            f"{path} is quantised, and an adapter is not merged into rounded weights; set "
            "model.base_path to the model in full precision that it was made from, or take "
            "as=adapter"
        )


def read_generation_config(place: str) -> "GenerationConfig | None":
    """The generation settings in a folder or repository; None where there are none."""
    try:
        return transformers.GenerationConfig.from_pretrained(place)
    except OSError:
        return None


def find_tokenizer(places: Iterable[str | None]) -> Any:
    """The tokenizer of the first of these places that has one; None where none has."""
    for place in places:
        if place and (not Path(place).is_dir() or (Path(place) / "tokenizer_config.json").exists()):
            return from_hub(transformers.AutoTokenizer, place)
    return None
