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
    from transformers import PreTrainedModel


def add(tokenizer: Any, names: Iterable[str]) -> list[int]:
    """Adds special tokens; gives the ids of those that were not there before, in order."""
    known = tokenizer.get_vocab()
    new = [name for name in dict.fromkeys(names) if name not in known]
    if empty := [name for name in new if not name.strip()]:
        raise UserError(
            f"model.added_tokens: {empty[0]!r} is no token; it must have a letter or sign"
        )
    made = [tokenizers.AddedToken(name, special=True, normalized=False) for name in new]
    tokenizer.add_special_tokens({"extra_special_tokens": made}, replace_extra_special_tokens=False)
    return [int(tokenizer.convert_tokens_to_ids(name)) for name in new]


def grow(model: "PreTrainedModel", ids: Sequence[int]) -> None:
    """Gives a model rows for new ids, each the mean of the rows of all ids before them."""
    if not ids:
        return
    rows = num_embeddings(model)
    # A tokenizer may leave ids unused between the last row and its first new id: those rows are
    # new, too.
    new = sorted({*ids, *range(rows, max(ids) + 1)})
    if max(ids) >= rows:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        for weight in _tables(model):
            weight[new] = weight[: new[0]].float().mean(0).to(weight.dtype)


def _tables(model: "PreTrainedModel") -> list[Any]:
    """The input embeddings and, where it is not the same tensor, the head, with its bias."""
    head = model.get_output_embeddings()
    found = [
        model.get_input_embeddings().weight,
        getattr(head, "weight", None),
        getattr(head, "bias", None),
    ]
    return list({id(table): table for table in found if table is not None}.values())


def trained_rows(
    model: "PreTrainedModel", ids: Sequence[int], peft_args: dict[str, Any]
) -> dict[str, list[int]]:
    """PEFT's `trainable_token_indices`: the new rows of each embedding that the adapter does not
    train anyway."""
    names = {id(module): name for name, module in model.named_modules()}
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    # PEFT ties the rows as the model ties the tables
    if ends[1] is None or ends[1].weight is ends[0].weight:
        ends = ends[:1]
    given = (peft_args.get(name) or [] for name in ("target_modules", "modules_to_save"))
    trained = {
        name.strip()
        for value in given
        for name in (value.split(",") if isinstance(value, str) else value)
    }
    leaves = [names[id(module)].rpartition(".")[2] for module in ends]
    return {leaf: list(ids) for leaf in leaves if leaf not in trained}
