"""What was trained, written as a plain model or as an adapter: built, checked against its weights,
then saved."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, run_dir
from unteach.errors import UserError, unknown
from unteach.export import compare_models, convert, merge_adapter, trained, training_texts, weights
from unteach.export.trained import Source
from unteach.lazy import torch, transformers
from unteach.models import adapters, heads, integrity, portable
from unteach.models.loading import DTYPES

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

APART = "as=adapter keeps base and adapter apart"


@dataclass
class ExportOptions:
    """What of an export was said: where to, in which form, and what no file tells."""

    to: Path | None = None
    form: str = "model"
    dtype: str | None = None
    base: str | None = None
    peft_args: dict[str, Any] | None = None


def write(source: Source, asked: ExportOptions, folder: Path) -> None:
    """Builds what was asked for, checks that the weights fit, writes it with its tokenizer and
    template, and reads it
    again: a folder that says something else than what was trained is refused."""
    transformers.utils.logging.disable_progress_bar()
    found = weights.read(source.place)
    base = None
    if convert.has_adapter(found) or source.adapter:
        base = trained.find_base(source, asked.base)
        tokenizer = trained.find_tokenizer(source, base)
        model, held = _adapted(source, asked, found, base)
    elif asked.form == "adapter":
        raise UserError(
            f"{source.place}: there is no adapter in these weights, only a whole model; leave out "
            f"as=adapter"
        )
    elif asked.peft_args or (asked.base and (source.place / "config.json").exists()):
        raise UserError(
            f"{source.place} holds a whole model and no adapter; leave out model.peft_args and "
            f"model.base_path"
        )
    else:
        tokenizer = trained.find_tokenizer(source, asked.base)
        model, held = _whole(source, asked, found)
    del found
    if asked.form == "adapter":
        model.save_pretrained(folder)
        adapters.remember_base(
            folder, trained.identify_base(str(base)), adapters.read_added_ids(source.folder)
        )
        if head := heads.read_head(source.folder):
            head.save(folder)
        told = f" of {base}"
    else:
        model = _save_compared(model, held, source, tokenizer, folder, has_adapter=base is not None)
        told = f" ({sum(p.numel() for p in model.parameters()):,} parameters)"
    trained.save_tokenizer_and_template(source, base or asked.base, tokenizer, folder)
    _card(folder, base)
    print(f"{asked.form}: {type(model).__name__}{told}")


def _whole(source: Source, asked: ExportOptions, found: Any) -> tuple[Any, Any]:
    """The whole model in the dtype that is asked for, with the generation settings beside it; and
    the dtype."""
    place = (
        source.folder
        if (Path(source.folder) / "config.json").exists()
        else asked.base or source.path
    )
    if not place:
        raise UserError(
            f"{source.place}: it has no config.json beside it; say model.base_path=MODEL, the "
            "model that was trained, for its configuration"
        )
    model = convert.build_whole_model(
        run_dir.find_model_folder(place), found, _dtype(asked.dtype, "auto")
    )
    for beside in (place, source.path):
        if beside and (
            settings := convert.read_generation_config(run_dir.find_model_folder(str(beside)))
        ):
            model.generation_config = settings
            break
    return model, next(model.parameters()).dtype


def _save_compared(
    model: Any,
    dtype: Any,
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

    plain = (merge_adapter.merge(model) if has_adapter else model).to(dtype)
    integrity.refuse_not_finite(plain, f"{source.place} in {_name(dtype)}")
    plain.save_pretrained(folder)
    portable.add_old_names(folder)

    # What the folder says. A CPU may have no kernel of its dtype: then what the weights were
    # rounded to is read in fp32.
    written = integrity.load_model(type(plain), str(folder), dtype=dtype)
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
        remedy = f"; {APART}" if has_adapter else ""
        raise UserError(
            f"{source.place}: what was written cannot be run on this machine, where {what} "
            f"can{remedy}"
        )
    difference = compare_models.compare(before, after)
    tolerance = compare_models.TOLERANCE.get(_name(dtype), compare_models.COARSEST)
    if difference.is_more_than(tolerance):
        raise UserError(_say_other(plain, difference, tolerance, _name(dtype), what, has_adapter))
    _tell_difference(difference, effect, f"{len(rows)} rows {origin}", what, _name(dtype))
    return plain


def _measure_adapter(
    model: Any, rows: "Sequence[Tensor]", with_adapter: "Sequence[Tensor]"
) -> compare_models.Difference | None:
    """Measure what the adapter changes; None where the base alone cannot be run."""
    with model.disable_adapter():
        without = compare_models.measure(model, rows)
    return None if without is None else compare_models.compare(with_adapter, without)


def _tell_difference(
    difference: compare_models.Difference,
    effect: compare_models.Difference | None,
    of_rows: str,
    what: str,
    dtype: str,
) -> None:
    """Print how far what was written is from what was trained, beside what the adapter changes."""
    beside = f"; the adapter changes them by {effect.nats:.2g}" if effect else ""
    print(f"compared with {what}: {difference.nats:.1e} nats a token apart on {of_rows}{beside}")
    is_seen = effect is not None and effect.nats > compare_models.TOLERANCE["float32"]
    if effect is not None and is_seen and difference.nats > effect.nats / 2:
        logger.info(f"{dtype} rounds away much of what the adapter changed; dtype=float32 keeps it")


def _say_other(
    model: "PreTrainedModel",
    difference: compare_models.Difference,
    tolerance: float,
    dtype: str,
    what: str,
    has_adapter: bool,
) -> str:
    finer = "" if dtype == "float32" else " With dtype=float32 nothing is rounded."
    remedy = f" {APART}." if has_adapter else ""
    return (
        f"this {type(model).__name__} cannot be written as a plain model: what is read back "
        f"differs from {what} by {difference.nats:.2g} nats a token, and {tolerance:g} is allowed "
        f"in {dtype} (layers share weights, read them past the adapter, or are "
        f"rounded).{finer}{remedy}"
    )


def _name(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def _card(folder: Path, base: str | None) -> None:
    """A short model card where the library wrote none."""
    if not (folder / "README.md").exists():
        of = f"base_model: {base}\n" if base and not Path(base).exists() else ""
        atomic.write_text(
            folder / "README.md", f"---\nlibrary_name: transformers\n{of}tags: [unteach]\n---\n"
        )


def _adapted(source: Source, asked: ExportOptions, found: Any, base: str) -> tuple[Any, Any]:
    """The adapter on its base, in fp32, and the dtype in which the two are kept once merged."""
    if asked.form == "model":
        convert.refuse_quantised(base)
    elif asked.dtype:
        raise UserError("dtype is for as=model; an adapter is kept as it was trained")
    peft_args = asked.peft_args or trained.read_peft_args(source)
    if not peft_args:
        raise UserError(
            f"{source.place} holds an adapter, and no file says its rank, alpha and targets; set "
            f"model.peft_args as in "
            "training, for example model.peft_args='{r: 8, lora_alpha: 16, target_modules: "
            "all-linear}'"
        )
    under, held = trained.load_base(source, base)
    adapters.refuse_another_base(source.folder, base, trained.identify_base(base))
    if source.adapter and not asked.peft_args and (source.place / adapters.WEIGHTS).exists():
        # Its own files say all of it, and PEFT reads them as it does in every run.
        model = adapters.attach_saved(under, source.folder, trainable=False)
    else:
        model = convert.take_adapter(
            under, found, peft_args, base, adapters.read_added_ids(source.folder)
        )
    model.peft_config[adapters.TRAINED].base_model_name_or_path = base
    integrity.refuse_not_finite(model, str(source.place))
    return model.to(torch.float32), _dtype(asked.dtype, held)


def _dtype(asked: str | None, otherwise: Any) -> Any:
    if asked in (None, "auto"):
        return otherwise
    if asked not in DTYPES:
        raise UserError(unknown("dtype", str(asked), DTYPES))
    return getattr(torch, DTYPES[str(asked)])
