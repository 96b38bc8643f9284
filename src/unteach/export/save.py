"""What was trained, written as a plain model or as an adapter: built, checked against its weights,
then saved."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, run_dir
from unteach.errors import UserError, describe_unknown, require_extra
from unteach.export import (
    card,
    compare_models,
    convert,
    gguf_adapter,
    merge_adapter,
    trained,
    training_texts,
    weights,
)
from unteach.export.compare_models import Difference
from unteach.export.trained import Source
from unteach.lazy import peft, torch, transformers
from unteach.models import adapters, heads, integrity, portable
from unteach.models.dtypes import DTYPES

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

GGUF_ADAPTER = "gguf_adapter"
"""The form of an export that llama.cpp puts on a GGUF model."""
KEEP_APART = "as=adapter keeps base and adapter apart"


@dataclass
class ExportOptions:
    """Where an export goes to, in which form, and what no file says.

    Attributes:
        to: the folder; None where it is uploaded alone.
        form: `model`, `adapter` or `gguf_adapter`.
        dtype: of a plain model's weights.
        base: the model under an adapter.
        peft_args: LoraConfig's fields of the adapter.
    """

    to: Path | None = None
    form: str = "model"
    dtype: str | None = None
    base: str | None = None
    peft_args: dict[str, Any] | None = None


def write(source: Source, options: ExportOptions, folder: Path) -> None:
    """Write what was trained into a folder, with its tokenizer and template.

    The weights are checked against names and shapes before, and a plain model is read again after:
    a folder that says something else than what was trained is refused.
    """
    transformers.utils.logging.disable_progress_bar()
    if options.form == GGUF_ADAPTER:
        require_extra(gguf_adapter.EXTRA, f"as={GGUF_ADAPTER}")
    tensors = weights.read(source.location)
    base = None
    tokenizer: PreTrainedTokenizerBase | None
    model: Any
    if convert.has_adapter(tensors) or source.adapter_config:
        base = trained.find_base(source, options.base)
        tokenizer = trained.find_tokenizer(source, base)
        model, dtype = _build_adapted(source, options, tensors, base)
    else:
        _refuse_adapter_options(source, options)
        tokenizer = trained.find_tokenizer(source, options.base)
        model, dtype = _build_whole(source, options, tensors)
    if options.form == GGUF_ADAPTER:
        _refuse_unfit_for_gguf(model, source, tensors, str(base))
    # The model has them now: a large one is not held twice.
    del tensors

    if options.form == "adapter":
        _save_adapter(model, source, str(base), folder)
        details = f"of {base}"
    elif options.form == GGUF_ADAPTER:
        gguf_adapter.write(model, folder / gguf_adapter.FILE)
        details = f"of {base}"
    else:
        model = _save_compared(
            model, dtype, source, tokenizer, folder, has_adapter=base is not None
        )
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        details = f"({num_parameters:,} parameters)"
    if options.form != GGUF_ADAPTER:
        trained.save_tokenizer_and_template(source, base or options.base, tokenizer, folder)
    _write_card(folder, base, options.form)
    print(f"{options.form}: {type(model).__name__} {details}")


def _refuse_adapter_options(source: Source, options: ExportOptions) -> None:
    """Raise UserError where a whole model is exported with what is for an adapter."""
    if options.form != "model":
        raise UserError(
            f"{source.location}: there is no adapter in these weights, only a whole model; leave "
            f"out as={options.form}"
        )
    has_config = (source.location / "config.json").exists()
    if options.peft_args or (options.base and has_config):
        raise UserError(
            f"{source.location} holds a whole model and no adapter; leave out model.peft_args and "
            f"model.base_path"
        )


def _save_adapter(model: "PeftModel", source: Source, base: str, folder: Path) -> None:
    """Save an adapter with a note of its base and, of a classifier, the head."""
    model.save_pretrained(str(folder))
    added_ids = adapters.read_added_ids(source.folder)
    adapters.remember_base(folder, trained.identify_base(base), added_ids)
    head = heads.read_head(source.folder)
    if head:
        head.save(folder)


def _refuse_unfit_for_gguf(
    model: "PeftModel", source: Source, tensors: convert.Weights, base: str
) -> None:
    """Raise UserError where a GGUF adapter on a GGUF file of the base would say something else."""
    adapted: Any = model.get_base_model()
    names = peft.get_peft_model_state_dict(
        model, adapter_name=adapters.TRAINED, save_embedding_layers=False
    )
    gguf_adapter.refuse_unfit(
        model.peft_config[adapters.TRAINED].to_dict(),
        names,
        adapted.config,
        adapters.read_added_ids(source.folder),
        str(source.location),
    )
    # PEFT writes the weight of the head beside an adapter on it, and puts that on the base.
    whole_weights = convert.take_base_weights(tensors)
    if whole_weights:
        base_model, _ = trained.load_base(source, base)
        convert.refuse_other_base(whole_weights, base_model.state_dict(), base)


def _build_whole(
    source: Source, options: ExportOptions, tensors: convert.Weights
) -> "tuple[PreTrainedModel, torch.dtype]":
    """Build the whole model in the dtype of the options, with its generation settings.

    Returns:
        The model and its dtype.
    """
    if (Path(source.folder) / "config.json").exists():
        config_path = source.folder
    else:
        config_path = options.base or source.start_path or ""
    if not config_path:
        raise UserError(
            f"{source.location}: it has no config.json beside it; say model.base_path=MODEL, the "
            "model that was trained, for its configuration"
        )
    dtype = _find_dtype(options.dtype, otherwise="auto")
    model = convert.build_whole_model(run_dir.find_model_folder(config_path), tensors, dtype)
    for path in (config_path, source.start_path):
        if not path:
            continue
        settings = convert.read_generation_config(run_dir.find_model_folder(path))
        if settings:
            model.generation_config = settings
            break
    return model, next(model.parameters()).dtype


def _build_adapted(
    source: Source, options: ExportOptions, tensors: convert.Weights, base: str
) -> "tuple[PeftModel, torch.dtype]":
    """Build the adapter on its base, in fp32.

    Returns:
        The model, and the dtype in which the two are kept once merged.
    """
    if options.form == "model":
        convert.refuse_quantised(base)
    elif options.dtype:
        raise UserError("dtype is for as=model; an adapter is kept as it was trained")
    peft_args = options.peft_args or trained.read_peft_args(source)
    if not peft_args:
        raise UserError(
            f"{source.location} holds an adapter, and no file says its rank, alpha and targets; "
            "set model.peft_args as in training, for example model.peft_args='{r: 8, lora_alpha: "
            "16, target_modules: all-linear}'"
        )
    base_model, base_dtype = trained.load_base(source, base)
    adapters.refuse_another_base(source.folder, base, trained.identify_base(base))
    has_file = (source.location / adapters.WEIGHTS).exists()
    if source.adapter_config and not options.peft_args and has_file:
        # Its own files say all of it, and PEFT reads them as it does in every run.
        model = adapters.attach_saved(base_model, source.folder, trainable=False)
    else:
        added_ids = adapters.read_added_ids(source.folder)
        model = convert.take_adapter(base_model, tensors, peft_args, base, added_ids)
    model.peft_config[adapters.TRAINED].base_model_name_or_path = base
    integrity.refuse_not_finite(model, str(source.location))
    return model.to(torch.float32), _find_dtype(options.dtype, otherwise=base_dtype)


def _find_dtype(name: str | None, otherwise: object) -> Any:
    """Find the dtype of a name, or take `otherwise`."""
    if name in (None, "auto"):
        return otherwise
    if name not in DTYPES:
        raise UserError(describe_unknown("dtype", str(name), DTYPES))
    return getattr(torch, DTYPES[str(name)])


def _save_compared(
    model: Any,
    dtype: "torch.dtype",
    source: Source,
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: Path,
    has_adapter: bool,
) -> "PreTrainedModel":
    """Save a plain model, the adapter merged into it, and compare what was saved with what there
    was before.

    The comparison is of log-probs over a few rows, by the folder as anyone loads it, in the dtype
    that it is kept in.
    """
    texts = training_texts.read_texts(source.run, compare_models.ROWS)
    origin = "that it was trained on" if texts else "of built-in text"
    rows = compare_models.tokenize_rows(texts or compare_models.built_in_texts(), tokenizer, model)
    what = "the base with the adapter" if has_adapter else "what was trained"

    # What the model says before, with the adapter and without it.
    before = compare_models.measure(model, rows)
    effect = _measure_adapter(model, rows, before) if has_adapter and before is not None else None

    plain: Any = merge_adapter.merge(model) if has_adapter else model
    plain.to(dtype)
    integrity.refuse_not_finite(plain, f"{source.location} in {_name(dtype)}")
    plain.save_pretrained(folder)
    portable.add_old_names(folder)

    # What the folder says. A CPU may have no kernel of its dtype: then what the weights were
    # rounded to is read in fp32.
    written: Any = integrity.load_model(type(plain), str(folder), dtype=dtype)
    after = compare_models.measure(written, rows)
    if after is None:
        after = compare_models.measure(written.float(), rows)

    if before is None:
        logger.info(
            f"{type(plain).__name__} does not run here, so what is written is not compared "
            f"with {what}"
        )
        return plain
    if after is None:
        remedy = f"; {KEEP_APART}" if has_adapter else ""
        raise UserError(
            f"{source.location}: what was written cannot be run on this machine, where {what} "
            f"can{remedy}"
        )
    difference = compare_models.compare(before, after)
    tolerance = compare_models.TOLERANCE.get(_name(dtype), compare_models.COARSEST)
    if difference.is_more_than(tolerance):
        raise UserError(
            _describe_difference(plain, difference, tolerance, _name(dtype), what, has_adapter)
        )
    _print_difference(difference, effect, f"{len(rows)} rows {origin}", what, _name(dtype))
    return plain


def _measure_adapter(
    model: "PeftModel", rows: "Sequence[Tensor]", with_adapter: "Sequence[Tensor]"
) -> Difference | None:
    """Measure what the adapter changes; None where the base alone cannot be run."""
    plain: Any = model
    with model.disable_adapter():
        without = compare_models.measure(plain, rows)
    return None if without is None else compare_models.compare(with_adapter, without)


def _print_difference(
    difference: Difference, effect: Difference | None, rows: str, what: str, dtype: str
) -> None:
    """Print how far what was written is from what was trained, beside what the adapter changes.

    Args:
        effect: what the adapter changes.
        rows: which rows were compared, for the message.
    """
    beside = f"; the adapter changes them by {effect.nats:.2g}" if effect else ""
    print(f"compared with {what}: {difference.nats:.1e} nats a token apart on {rows}{beside}")
    if effect is None or effect.nats <= compare_models.TOLERANCE["float32"]:
        return
    if difference.nats > effect.nats / 2:
        logger.info(f"{dtype} rounds away much of what the adapter changed; dtype=float32 keeps it")


def _describe_difference(
    model: "PreTrainedModel",
    difference: Difference,
    tolerance: float,
    dtype: str,
    what: str,
    has_adapter: bool,
) -> str:
    """Say that a plain model says something else than what was trained."""
    finer = "" if dtype == "float32" else " With dtype=float32 nothing is rounded."
    remedy = f" {KEEP_APART}." if has_adapter else ""
    return (
        f"this {type(model).__name__} cannot be written as a plain model: what is read back "
        f"differs from {what} by {difference.nats:.2g} nats a token, and {tolerance:g} is allowed "
        f"in {dtype} (layers share weights, read them past the adapter, or are "
        f"rounded).{finer}{remedy}"
    )


def _name(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def _write_card(folder: Path, base: str | None, form: str) -> None:
    """Write a short model card where the library wrote none."""
    file = folder / card.CARD
    if not file.exists():
        library = "gguf" if form == GGUF_ADAPTER else "transformers"
        atomic.write_text(file, card.build_front_matter(library, base, ["unteach"]))
