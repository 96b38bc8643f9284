"""Special tokens that a tokenizer does not have yet, and the rows of a model's embeddings that
stand for them.

Embeddings only ever grow: where a model's vocabulary is padded beyond its tokenizer, the new ids
take padded rows and nothing is resized. The rows of the new ids, and no others, become the mean of
those before them, in and out: the distribution over the old tokens hardly moves, and a new one
starts as a plausible token (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
Models").
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import tokenizers, torch
from unteach.models.layers import num_embeddings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add(tokenizer: "PreTrainedTokenizerBase", names: Iterable[str]) -> list[int]:
    """Add special tokens; return the ids of those that were not there before, in order."""
    known = tokenizer.get_vocab()
    new_names = [name for name in dict.fromkeys(names) if name not in known]
    for name in new_names:
        if not name.strip():
            raise UserError(
                f"model.added_tokens: {name!r} is no token; it must have a letter or sign"
            )
    tokens = [tokenizers.AddedToken(name, special=True, normalized=False) for name in new_names]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": tokens}, replace_extra_special_tokens=False
    )
    ids: Any = tokenizer.convert_tokens_to_ids(new_names)
    return list(ids)


def grow(model: "PreTrainedModel", ids: Sequence[int]) -> None:
    """Give a model rows for new ids, each the mean of the rows of all ids before them."""
    if not ids:
        return
    num_rows = num_embeddings(model)
    # A tokenizer may leave ids unused between the last row and its first new id: those rows are
    # new, too.
    new_rows = sorted({*ids, *range(num_rows, max(ids) + 1)})
    if max(ids) >= num_rows:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        for table in _list_tables(model):
            mean = table[: new_rows[0]].float().mean(0)
            table[new_rows] = mean.to(table.dtype)


def _list_tables(model: "PreTrainedModel") -> "list[Tensor]":
    """List the input embeddings and, where it is not the same tensor, the head, with its bias."""
    head = model.get_output_embeddings()
    tables: list[Any] = [model.get_input_embeddings().weight]
    for table in (getattr(head, "weight", None), getattr(head, "bias", None)):
        if table is not None and table is not tables[0]:
            tables.append(table)
    return tables


def list_trained_rows(
    model: "PreTrainedModel", ids: Sequence[int], peft_args: dict[str, Any]
) -> dict[str, list[int]]:
    """Build PEFT's `trainable_token_indices`: the new rows of each embedding that the adapter does
    not train anyway, by the last part of its name."""
    embeddings = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    # PEFT ties the rows as the model ties the tables.
    if head is not None and head.weight is not embeddings[0].weight:
        embeddings.append(head)

    trained: set[str] = set()
    for key in ("target_modules", "modules_to_save"):
        names = peft_args.get(key) or []
        if isinstance(names, str):
            names = names.split(",")
        trained.update(name.strip() for name in names)

    full_names = {module: name for name, module in model.named_modules()}
    rows = {}
    for module in embeddings:
        name = full_names[module].rpartition(".")[2]
        if name not in trained:
            rows[name] = list(ids)
    return rows
