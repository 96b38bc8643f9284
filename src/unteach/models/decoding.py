"""Two models as one: the logits of a model, changed by those of a second one, wherever they are
read.

The second model hangs on the first. Last hidden states of the two travel side by side
(`compute_hidden_states`), and the head makes two logits of them and combines these (`head_logits`):
so every score does. The first model's own forward, which the library's `generate()` calls, combines
them too, and one cache holds the layers of both: rows that leave it, join it or are trimmed do so
in both.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from unteach.errors import UserError
from unteach.lazy import torch, transformers
from unteach.models.capabilities import get_capabilities, set_capabilities
from unteach.models.layers import unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTRIBUTE = "_unteach_decoding"
MODULE = "unteach_second"
"""The name of the second model inside the first, so that it is moved with it."""
SPLIT = "_unteach_num_base_layers"
"""What a cache of both models notes: how many of its layers are the first one's."""


class Decoding:
    """A rule that changes a model's logits by those of a second model.

    Subclasses are dataclasses, registered by `@decoding("NAME")`; their fields are its arguments,
    which are saved with the model.

    Attributes:
        SECOND: what the second model is, and its folder's name.
    """

    SECOND: ClassVar[str] = "second"

    def combine(self, base: "Tensor", second: "Tensor") -> "Tensor":
        """Combine logits of the same tokens, in fp32: [..., V], [..., V] -> logits [..., V].

        Each position by itself. -inf where a token is never said, and never for all tokens.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class AttachedDecoding:
    """What hangs on a model.

    Attributes:
        width: of the first model's last hidden states; those of the second follow them.
        plain_forward: the first model's own, without the second.
    """

    rule: Decoding
    width: int
    plain_forward: Callable[..., Any]


def attach_decoding(model: "PreTrainedModel", second: "PreTrainedModel", rule: Decoding) -> None:
    """Have a model's logits be combined with a second model's from now on.

    Both must be loaded and probed; call it before anything wraps the model.
    """
    base = unwrap_model(model)
    _refuse_other_vocabulary(base, unwrap_model(second))
    for part in (base, unwrap_model(second)):
        if getattr(part, "_is_stateful", False):
            raise UserError(
                f"{type(part).__name__}: keeps a state and no cache of keys and values, and a "
                "decoding goes on from a cache that holds the layers of both models"
            )
    second.requires_grad_(False).eval()
    width = base.get_output_embeddings().weight.shape[1]
    setattr(base, MODULE, second)
    setattr(base, ATTRIBUTE, AttachedDecoding(rule, width, base.forward))
    set_capabilities(base, _combine_capabilities(base, second))
    base.forward = _build_forward(base)
    base.save_pretrained = _refuse_saving


def get_decoding(model: object) -> AttachedDecoding | None:
    """Return what hangs on a model; None where nothing does."""
    attached: AttachedDecoding | None = getattr(unwrap_model(model), ATTRIBUTE, None)
    return attached


@contextlib.contextmanager
def switch_off_decoding(model: object) -> Iterator[None]:
    """Have a model give its own logits within the context, without those of a second one."""
    base = unwrap_model(model)
    attached = get_decoding(base)
    setattr(base, ATTRIBUTE, None)
    try:
        yield
    finally:
        setattr(base, ATTRIBUTE, attached)


def get_second(model: object) -> Any:
    """Return the second model of one that has a decoding."""
    return getattr(unwrap_model(model), MODULE)


def list_models(model: object) -> "list[PreTrainedModel]":
    """List the models whose passes make one of this model."""
    models = [unwrap_model(model)]
    if get_decoding(model):
        models.append(unwrap_model(get_second(model)))
    return models


def combine_logits(attached: AttachedDecoding, base: "Tensor", second: "Tensor") -> "Tensor":
    """Combine the logits of both models: [..., V], [..., V] -> [..., V], in fp32."""
    return attached.rule.combine(base.float(), second.float())


def refuse_other_tokens(
    tokenizer: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase", path: str
) -> None:
    """Raise UserError where two tokenizers spell the same ids otherwise."""
    if tokenizer.get_vocab() != other.get_vocab():
        raise UserError(
            f"{path}: the tokenizer of its second model is another than the first one's, and their "
            "logits are of other tokens; the folder is damaged"
        )


def _refuse_other_vocabulary(base: "PreTrainedModel", second: "PreTrainedModel") -> None:
    sizes = [part.config.get_text_config().vocab_size for part in (base, second)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"a decoding combines the logits of two models token by token, and they have "
            f"{sizes[0]:,} and {sizes[1]:,} of them; the two must share a base"
        )


def _combine_capabilities(base: "PreTrainedModel", second: "PreTrainedModel") -> Any:
    """Say what holds of both models; each keeps its own way from hidden states to logits."""
    able, other = get_capabilities(base), get_capabilities(second)
    return replace(
        able,
        head="none" if other.head == "none" else able.head,
        right_padding=able.right_padding and other.right_padding,
        left_padding=able.left_padding and other.left_padding,
        packing=able.packing and other.packing,
        continuing=able.continuing and other.continuing,
    )


def _refuse_saving(*args: object, **kwargs: object) -> None:
    raise UserError(
        "this model forgets in its decoding, and its own weights have forgotten nothing: they are "
        "not saved alone. Copy the folder that it was loaded from: it is whole"
    )


def _build_forward(base: "PreTrainedModel") -> Callable[..., Any]:
    """Build the forward that gives combined logits."""
    attached = get_decoding(base)
    assert attached is not None
    plain = attached.plain_forward

    @functools.wraps(plain)
    def forward(input_ids: "Tensor | None" = None, **kwargs: Any) -> Any:
        if get_decoding(base) is None:  # it is switched off
            return plain(input_ids=input_ids, **kwargs)
        for name in ("labels", "inputs_embeds"):
            if kwargs.pop(name, None) is not None:
                raise UserError(
                    f"{name}: a model with a decoding takes token ids and gives logits; for a loss "
                    "of them ask for log-probs"
                )
        kwargs["return_dict"] = True
        cache = kwargs.pop("past_key_values", None)
        second_cache = _take_second_layers(cache)
        second = unwrap_model(get_second(base))

        output = plain(input_ids=input_ids, past_key_values=cache, **kwargs)
        if output.get("past_key_values") is not None and second_cache is None:
            # The library made a cache of its own; the second model's layers join it.
            cache = output.past_key_values
            _refuse_other_cache(cache)
        if cache is not None and second_cache is None:
            second_cache = transformers.DynamicCache(config=second.config)
        second_output = second(input_ids=input_ids, past_key_values=second_cache, **kwargs)

        if cache is not None:
            setattr(cache, SPLIT, len(cache.layers))
            cache.layers = [*cache.layers, *second_cache.layers]
        output.logits = combine_logits(attached, output.logits, second_output.logits)
        return output

    return forward


def _refuse_other_cache(cache: object) -> None:
    if type(cache).__name__ != "DynamicCache":
        raise UserError(
            f"a model with a decoding is continued on the library's DynamicCache, which holds the "
            f"layers of both models, and was given {type(cache).__name__}; leave out "
            "cache_implementation"
        )


def _take_second_layers(cache: Any) -> Any:
    """Take the second model's layers out of a cache of both, as a cache of their own.

    Returns:
        None where there are none yet.
    """
    if cache is None:
        return None
    _refuse_other_cache(cache)
    num_base_layers: int | None = getattr(cache, SPLIT, None)
    if num_base_layers is None:
        if cache.get_seq_length():
            raise UserError(
                "a cache that one model filled alone is given to a model with a decoding, which "
                "goes on from both; begin without it"
            )
        return None
    second_cache = transformers.DynamicCache()
    second_cache.layers = cache.layers[num_base_layers:]
    cache.layers = cache.layers[:num_base_layers]
    return second_cache


def join_hidden_states(base: "Tensor", second: "Tensor") -> "Tensor":
    """Put the hidden states of both models side by side: [..., d], [..., e] -> [..., d + e]."""
    return torch.cat([base, second.to(base.dtype)], dim=-1)
