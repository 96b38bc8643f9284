"""The library's cache of keys and values [rows, heads, tokens, size]: rows are put beside it, and
padding is taken off.
"""

from collections.abc import Sequence
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
        layer.keys = _concatenate(layer.keys, other_layer.keys)
        layer.values = _concatenate(layer.values, other_layer.values)


def trim(cache: PlainCache, num_tokens: int) -> None:
    """Take the first tokens of every row off."""
    for layer in cache.layers:
        layer.keys = layer.keys[..., num_tokens:, :]
        layer.values = layer.values[..., num_tokens:, :]


def spread(cache: PlainCache, lengths: Sequence[int]) -> None:
    """Make of a cache's one row one for each length: so many of its first tokens, at the right end
    of as many places as it has tokens. What stands on their left is padding."""
    num_tokens = cache.layers[0].keys.shape[-2]
    device = cache.layers[0].keys.device
    num_padding = num_tokens - torch.tensor(lengths, device=device)  # [rows]
    places = torch.arange(num_tokens, device=device) - num_padding[:, None]  # [rows, tokens]
    places = places.clamp(min=0)
    for layer in cache.layers:
        # [heads, rows, tokens, size] -> [rows, heads, tokens, size]
        layer.keys = layer.keys[0][:, places].transpose(0, 1).contiguous()
        layer.values = layer.values[0][:, places].transpose(0, 1).contiguous()


def _concatenate(numbers: "Tensor", others: "Tensor") -> "Tensor":
    """Put rows under rows, padding the shorter ones on the left: two [rows, heads, tokens, size]
    give one."""
    num_tokens = max(numbers.shape[-2], others.shape[-2])
    padded = []
    for part in (numbers, others):
        num_padding = num_tokens - part.shape[-2]
        # Nothing is added to the last axis.
        padded.append(F.pad(part, (0, 0, num_padding, 0)))
    return torch.cat(padded)
