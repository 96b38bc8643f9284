"""Refuse a model that is not what its folder says: all weights, in their shapes, finite, with a row
for each token."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from unteach.config.schema import PATH
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.lazy import peft, torch
from unteach.models.hub import from_hub
from unteach.models.layers import is_partitioned, num_embeddings
from unteach.wording import quote_value

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SHOWN = 3
"""Names that a message lists."""
NEW_HEAD = "score."
"""How the weights of a classifier's head begin, which a language model has not."""


def load_model(
    auto: object, path: str, has_new_head: bool = False, **arguments: object
) -> "PreTrainedModel":
    """Load a model with all its weights. On torch's meta device their names and shapes are
    compared, and none is read.

    Args:
        auto: the class of transformers whose `from_pretrained` is called.
        path: folder or hub id.
        has_new_head: a language model is loaded as a classifier, whose head is drawn at random.
        arguments: what `from_pretrained` takes.

    Raises:
        UserError: weights are missing, or are of another shape than the configuration says.
    """
    default_device: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if torch.get_default_device().type == "meta":
        # from_pretrained refuses to run within another default.
        arguments["device_map"] = "meta"
        default_device = torch.device("cpu")
    # transformers would draw the weights that are missing at random, and say so in a table on
    # stderr.
    with default_device, _without_load_report():
        model, report = from_hub(
            auto, path, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
        )
    _refuse_other_weights(report, path, has_new_head)
    loaded: PreTrainedModel = model
    return loaded


@contextlib.contextmanager
def _without_load_report() -> Iterator[None]:
    """Keep transformers' table of missing weights off the screen: an error or a note of ours stands
    for it."""

    def is_other_message(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    library_logger = logging.getLogger("transformers.modeling_utils")
    library_logger.addFilter(is_other_message)
    try:
        yield
    finally:
        library_logger.removeFilter(is_other_message)


def _refuse_other_weights(report: dict[str, Any], path: str, has_new_head: bool) -> None:
    """Raise UserError where from_pretrained found other weights than the configuration says."""
    remedy = (
        "the folder is damaged, or its config.json is of another model. Put the right files "
        f"there, or set model.model_args.{PATH} to another"
    )
    for name, shape, expected in sorted(report["mismatched_keys"]):
        sizes = (
            f"{' x '.join(map(str, shape))} in its weights and "
            f"{' x '.join(map(str, expected))} by its config.json"
        )
        raise UserError(f"cannot load {path}: {name} is {sizes}; {remedy}")
    missing = set(report["missing_keys"])
    if has_new_head:
        missing = {name for name in missing if not name.startswith(NEW_HEAD)}
    if missing:
        raise UserError(f"cannot load {path}: it holds no weights for {_some(missing)}; {remedy}")
    if report["unexpected_keys"] and not has_new_head and launch_environment.rank() == 0:
        unused = report["unexpected_keys"]
        logger.info(
            f"{path} holds weights that this model has no place for, and they are left out: "
            f"{_some(unused)}"
        )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(ordered[:SHOWN]) + more


def refuse_not_finite(model: "nn.Module", path: str | None) -> None:
    """Raise UserError where a weight is infinite or not a number: whatever such a model says means
    nothing."""
    for name, parameter in model.named_parameters():
        weight: Any = parameter
        if is_partitioned(parameter):
            weight = weight.ds_tensor
        if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2:
            continue
        # A sum makes no tensor of their size; only one that is not finite needs a closer look.
        total = weight.detach().sum(dtype=torch.promote_types(weight.dtype, torch.float32))
        if not torch.isfinite(total) and not torch.isfinite(weight).all():
            raise UserError(
                f"{path or 'the model'}: {name} holds numbers that are infinite or not a number; "
                "the training that made it diverged, or the file is damaged. Take an earlier "
                "checkpoint, or other weights"
            )


def refuse_odd_stops(model: "PreTrainedModel", path: str | None) -> None:
    """Raise UserError where generation_config.json names ends of a text that are no token ids."""
    stops = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    for stop in stops if isinstance(stops, list) else [stops]:
        if stop is not None and not isinstance(stop, int):
            raise UserError(
                f"cannot load {path}: eos_token_id in its generation_config.json holds "
                f"{quote_value(stop)}, and it takes the id of a token, or a list of ids; mend "
                "that file"
            )


def refuse_small_embedding(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", path: str | None
) -> None:
    """Raise UserError where the tokenizer gives ids that the embedding has no row for.

    Special tokens beyond it that the tokenizer never puts by itself are left alone: published text
    models share the tokenizer of a larger one that reads images.
    """
    num_rows = num_embeddings(model)
    beyond = {name: number for name, number in tokenizer.get_vocab().items() if number >= num_rows}
    if not beyond:
        return
    put_by_itself = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unused = set()
    for number, token in tokenizer.added_tokens_decoder.items():
        if number not in put_by_itself:
            unused.add(str(token))
    used = {name: number for name, number in beyond.items() if name not in unused}
    if not used:
        return
    name = max(used, key=lambda name: used[name])
    number = used[name]
    only_padding = ""
    if len(used) == 1:
        only_padding = " An added padding token: model.tokenizer_args.pad_token may name another."
    raise UserError(
        f"the tokenizer and the model {path or ''} do not fit: the token {name!r} has the id "
        f"{number}, and the model's embedding {num_rows} rows. Set model.tokenizer_args.{PATH} to "
        f"the tokenizer that the model was trained with.{only_padding}"
    )


def refuse_incomplete_adapter(model: "PeftModel", folder: str) -> None:
    """Raise UserError where the file of an adapter lacks weights that it has by its configuration.

    PEFT would leave those at their first values, which change nothing: an adapter that is silently
    switched off.
    """
    file = Path(folder) / "adapter_model.safetensors"
    if not file.exists():
        return
    with safe_open(file, framework="pt") as weights:
        held = set(weights.keys())
    expected = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    missing = expected - held
    if missing:
        raise UserError(
            f"the adapter {folder} holds no weights for {_some(missing)}; it is damaged"
        )
