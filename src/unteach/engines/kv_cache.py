"""The library's cache of keys and values [rows, heads, tokens, size]: rows are put beside it, and
padding is taken off.
"""

from typing import TYPE_CHECKING, Protocol, TypeGuard

from unteach.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class CacheLayer(Protocol):
    """The keys and values of one layer."""

    keys: "Tensor"
    values: "Tensor"


class PlainCache(Protocol):
    """What is used of the library's DynamicCache."""

    layers: list[CacheLayer]

    def batch_select_indices(self, indices: "Tensor") -> None: ...


def is_plain_cache(cache: object) -> TypeGuard[PlainCache]:
    """Say whether a cache holds every token of every row in every layer, and nothing else.

    The rows of such caches may be joined.
    """
    if type(cache).__name__ != "DynamicCache":
        return False
    layers = getattr(cache, "layers", ())
    return all(type(layer).__name__ == "DynamicLayer" for layer in layers)


def join(cache: PlainCache, other: PlainCache) -> None:
    """Put another cache's rows under those of `cache`; the shorter one is padded on the left."""
    for layer, other_layer in zip(cache.layers, other.layers, strict=True):
        num_tokens = max(layer.keys.shape[-2], other_layer.keys.shape[-2])
        keys = [_pad(layer.keys, num_tokens), _pad(other_layer.keys, num_tokens)]
        values = [_pad(layer.values, num_tokens), _pad(other_layer.values, num_tokens)]
        layer.keys = torch.cat(keys)
        layer.values = torch.cat(values)


def trim(cache: PlainCache, num_tokens: int) -> None:
    """Take the first tokens of every row off."""
    for layer in cache.layers:
        layer.keys = layer.keys[..., num_tokens:, :]
        layer.values = layer.values[..., num_tokens:, :]


def _pad(numbers: "Tensor", num_tokens: int) -> "Tensor":
    return F.pad(numbers, (0, 0, num_tokens - numbers.shape[-2], 0))
