"""The library's cache of keys and values [rows, heads, tokens, size], with rows put beside it and
padding taken off."""

from typing import Any

from unteach.lazy import F, torch


def grows(cache: Any) -> bool:
    """Whether a cache holds every token of every row in every layer, and nothing else: such rows
    may be joined."""
    return type(cache).__name__ == "DynamicCache" and all(
        type(one).__name__ == "DynamicLayer" for one in cache.layers
    )


def join(cache: Any, other: Any) -> None:
    """Puts the rows of another cache under those of `cache`; the shorter one is padded on the
    left."""
    for one, two in zip(cache.layers, other.layers, strict=True):
        most = max(one.keys.shape[-2], two.keys.shape[-2])
        one.keys = torch.cat([_padded(one.keys, most), _padded(two.keys, most)])
        one.values = torch.cat([_padded(one.values, most), _padded(two.values, most)])


def trim(cache: Any, tokens: int) -> None:
    """Takes the first tokens of every row off."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., tokens:, :], layer.values[..., tokens:, :]


def _padded(held: Any, most: int) -> Any:
    return F.pad(held, (0, 0, most - held.shape[-2], 0))
