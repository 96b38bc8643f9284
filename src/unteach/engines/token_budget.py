"""How many tokens a batch of generation may come to, by what their keys and values take."""

from typing import TYPE_CHECKING

from unteach.models.decoding import list_models

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_TOKENS = {"cuda": 65536, "cpu": 32768}
"""Tokens of a batch, prompts included: a step makes one token a row, so rows are cheap."""
MAX_CACHE_BYTES = {"cuda": 8 << 30, "cpu": 1 << 30}
"""Bytes that the keys and values of so many tokens may take."""


def compute_token_budget(model: "PreTrainedModel", device: str) -> int | None:
    """Compute how many tokens a batch may come to, prompts included.

    Returns:
        None where the cache is not of keys and values alone, so that its size is not known.
    """
    bytes_per_token = 0
    for part in list_models(model):
        num_bytes = _count_bytes_per_token(part)
        if num_bytes is None:
            return None
        bytes_per_token += num_bytes
    max_cached = MAX_CACHE_BYTES[device] // bytes_per_token
    return min(MAX_TOKENS[device], max_cached)


def _count_bytes_per_token(model: "PreTrainedModel") -> int | None:
    """Count the bytes that the keys and values of a token take; None where it is not known."""
    config = model.config.get_text_config()
    # Where layers differ in a setting, the configuration has no one value and refuses to give any
    # as an attribute.
    settings = {}
    for name, value in config.to_dict().items():
        if isinstance(value, int):
            settings[name] = value
    for name, alias in config.attribute_map.items():
        settings.setdefault(name, settings.get(alias, 0))

    num_heads = settings.get("num_attention_heads")
    if getattr(model, "_is_stateful", False) or not num_heads:
        return None
    head_dim = settings.get("head_dim") or config.hidden_size // num_heads
    num_kv_heads = settings.get("num_key_value_heads") or num_heads
    bytes_per_number = next(model.parameters()).element_size()
    # A key and a value of each layer.
    numbers_per_token = 2 * config.num_hidden_layers * num_kv_heads * head_dim
    num_bytes: int = numbers_per_token * bytes_per_number
    return num_bytes
