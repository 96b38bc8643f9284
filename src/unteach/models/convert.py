"""From weights of any origin to a plain model, or to an adapter on its base; names and shapes are checked first.

An adapter is taken out of a whole state dict by the names that PEFT gives its weights. Its rank and its targets can be
read off the shapes and names, and are compared with what was said; its alpha is in no weight and is believed.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import console
from unteach.errors import UserError
from unteach.models import adapters
from unteach.models.hub import from_hub

if TYPE_CHECKING:
    from torch import Tensor

Weights = dict[str, "Tensor"]
OF_ADAPTER = r"(^|\.)(lora_\w+|modules_to_save|trainable_tokens_delta)(\.|$)"
BUFFERS = r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|position_ids)$"
"""Tensors that older libraries kept among the weights, and that are computed now."""
MERGED_CLOSE = 1e-3
"""How far logits may be from the unmerged ones, in units of their length: all is in fp32."""
SHOWN = 4


def adapted(weights: Weights) -> bool:
    """Whether there is an adapter among these weights."""
    return any(re.search(OF_ADAPTER, name) for name in weights)


def in_peft(name: str) -> str:
    """An adapter's weight under one name, whichever way it was saved: under the name of its adapter or without."""
    bare = re.sub(rf"\.({adapters.TRAINED}|{adapters.FIRST})(?=\.|$)", "", name)
    bare = re.sub(r"(lora_embedding_[AB]|trainable_tokens_delta)\.weight$", r"\1", bare)
    return bare if bare.startswith("base_model.model.") else f"base_model.model.{bare}"


def in_base(name: str) -> str:
    """A weight under an adapter by the name that it has in the model without one."""
    return re.sub(r"\.(base_layer|original_module|token_adapter)(?=\.)", "", name.removeprefix("base_model.model."))


def take_adapter(base: Any, weights: Weights, peft_args: dict[str, Any], named: str, added: Sequence[int] = ()) -> Any:
    """Puts the adapter that is in `weights` on its base; every other weight there is must be the base's own.

    named: what the base is called in messages; added: the ids of tokens that were added to it. Raises UserError where
    rank, targets or base are not those it had.
    """
    import torch

    found = {in_peft(name): tensor for name, tensor in weights.items() if re.search(OF_ADAPTER, name)}
    rest = {in_base(name): tensor for name, tensor in weights.items() if not re.search(OF_ADAPTER, name)}
    head = "score." if hasattr(base, "score") else ()  # a classifier's head is trained with the adapter
    _refuse_other_base({name: w for name, w in rest.items() if not name.startswith(head)}, base.state_dict(), named)
    model = adapters.attach(base, peft_args, added)
    slots, twins = _slots(model)
    found = {name: tensor for name, tensor in found.items() if name not in twins}
    for name in [name for name in slots if ".modules_to_save." in name and name not in found]:
        bare = in_base(name.replace(".modules_to_save.", "."))
        if bare in rest and not any(".modules_to_save." in other for other in found):  # an adapter's own file
            found[name] = rest[bare]
    _refuse_other_targets(found, slots)
    for name, slot in slots.items():
        if found[name].shape != slot.shape:
            raise UserError(_said_of_shapes(name, found[name].shape, slot.shape, named))
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(found[name])
    return model


def _slots(model: Any) -> tuple[Weights, set[str]]:
    """Where an adapter's weights go, by name; and the other names of those that are tied."""
    slots: Weights = {}
    first: dict[int, str] = {}
    twins = set()
    for name, tensor in model.state_dict().items():
        if re.search(OF_ADAPTER, name):
            if first.setdefault(tensor.data_ptr(), name) == name:
                slots[in_peft(name)] = tensor
            else:
                twins.add(in_peft(name))
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
            f"the adapter in these weights is on {', '.join(sorted(there))}, and model.peft_args puts one on "
            f"{', '.join(sorted(asked))}; set target_modules (and modules_to_save) to those that it is on"
        )
    raise UserError(
        f"the adapter in these weights is of another form than model.peft_args says: it has {_some(found - slots)} and "
        f"lacks {_some(slots - found)}; mend peft_args (layers_to_transform, use_dora, bias), or name another base"
    )


def _said_of_shapes(name: str, found: Any, slot: Any, named: str) -> str:
    side = 0 if ".lora_A" in name or "lora_embedding_A" in name else 1
    others = [i for i in range(len(slot)) if i != side]
    if "lora_" in name and len(found) == len(slot) and all(found[i] == slot[i] for i in others):
        return (
            f"{name} has rank {found[side]}, and model.peft_args gives rank {slot[side]}; set r to {found[side]} (and "
            "lora_alpha to what it was trained with: weights do not tell it)"
        )
    return (
        f"{name} is {_shape(found)}, and over {named} it would be {_shape(slot)}; this is the adapter of another base"
    )


def _refuse_other_base(rest: Weights, base: Weights, named: str) -> None:
    """The weights beside an adapter are its base's, and did not move; other values are another base's."""
    for name, tensor in rest.items():
        if name not in base:
            continue
        if tensor.shape != base[name].shape:
            raise UserError(
                f"{name} is {_shape(tensor.shape)} in these weights and {_shape(base[name].shape)} in {named}; set "
                "model.base_path to the model that this was trained on (resized, if tokens were added to it)"
            )
        if not _same(tensor, base[name]):
            raise UserError(f"{name} has other values in these weights than in {named}; set model.base_path to the "
                            "model that this was trained on")  # fmt: skip
    strange = [name for name in rest if name not in base and not re.search(BUFFERS, name)]
    if strange:
        raise UserError(f"{named} has no {_some(strange)}; set model.base_path to the model that this was trained on")


def _same(one: "Tensor", other: "Tensor") -> bool:
    """Equal up to the rounding of the coarser of two dtypes, as one of them may have been half a precision."""
    import torch

    coarse = min((one, other), key=lambda t: torch.finfo(t.dtype).bits if t.is_floating_point() else 64).dtype
    if not coarse.is_floating_point:
        return torch.equal(one, other)
    spread = other.float().abs().max().item() if other.numel() else 0.0
    return torch.allclose(one.float(), other.float(), rtol=2 * torch.finfo(coarse).eps, atol=1e-5 * spread)


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape))


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return (", ".join(ordered[:SHOWN]) or "nothing") + more


def whole(place: str, weights: Weights, dtype: Any) -> Any:
    """The model whose configuration is in `place`, with these weights and no others."""
    import transformers

    config = from_hub(transformers.AutoConfig, place)
    cls = class_of(config)
    kept = {name: tensor for name, tensor in weights.items() if not re.search(BUFFERS, name)}
    try:
        model, told = cls.from_pretrained(
            None, config=config, state_dict=kept, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"these weights do not fit {place}: {str(error).splitlines()[0]}") from None
    if told["mismatched_keys"]:
        name, found, slot = sorted(told["mismatched_keys"])[0]
        raise UserError(
            f"{name} is {_shape(found)} in these weights and {_shape(slot)} in {place}; it is another model"
        )
    for kind, said in (("missing_keys", "lack"), ("unexpected_keys", "have more than it has:")):
        if told[kind]:
            raise UserError(f"these weights are not of {place}: they {said} {_some(told[kind])}")
    return model


def class_of(config: Any) -> Any:
    """The class of transformers that a configuration was made by; a causal language model where it does not say."""
    import transformers

    named = (getattr(config, "architectures", None) or ["AutoModelForCausalLM"])[0]
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def merged(model: Any, dtype: Any) -> Any:
    """The base with its adapter in it: added in fp32, then rounded to `dtype`.

    Raises UserError where what comes out says something else than the two did: PEFT adds an adapter on weights that
    several layers share as often as it finds them.
    """
    before = _sample_logits(model.float())
    try:
        plain = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"the adapter cannot be merged: {error}") from None
    after = _sample_logits(plain)
    if before is None or after is None:
        console.say(
            f"note: {type(plain).__name__} does not run here, so the merged model is not compared with the adapter"
        )
    elif (after - before).norm() > MERGED_CLOSE * before.norm():
        raise UserError(
            f"the adapter cannot be merged into this {type(plain).__name__}: the merged model says something else than "
            "the base with the adapter (layers share weights, or read them past the adapter). as=adapter keeps the two "
            "apart"
        )
    return plain.to(dtype)


def _sample_logits(model: Any) -> Any:
    """The logits of one short row; None where the model cannot be run here."""
    import torch

    ids = torch.arange(1, 5, device=next(model.parameters()).device)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(input_ids=ids).logits
    except Exception:  # a forward of others may fail in any way, and then nothing is compared
        return None
    finally:
        model.train(was_training)


def refuse_quantised(path: str) -> None:
    """An adapter is merged into full precision alone: rounding a sum to four bits again changes every answer."""
    import transformers

    if getattr(from_hub(transformers.AutoConfig, path), "quantization_config", None):
        raise UserError(
            f"{path} is quantised, and an adapter is not merged into rounded weights; set model.base_path to the model "
            "in full precision that it was made from, or take as=adapter"
        )


def tokenizer_in(places: Iterable[str | None]) -> Any:
    """The tokenizer of the first of these places that has one; None where none has."""
    import transformers

    for place in places:
        if place and (not Path(place).is_dir() or (Path(place) / "tokenizer_config.json").exists()):
            return from_hub(transformers.AutoTokenizer, place)
    return None
