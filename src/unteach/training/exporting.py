"""What was trained, written as a plain model or as an adapter: built, checked against its weights, then saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import runs
from unteach.errors import UserError, unknown
from unteach.models import adapters, convert, heads, weights
from unteach.models.loading import DTYPES
from unteach.training import trained
from unteach.training.trained import Source


@dataclass
class Asked:
    """What of an export was said: where to, in which form, and what no file tells."""

    to: Path | None = None
    form: str = "model"
    dtype: str | None = None
    base: str | None = None
    peft_args: dict[str, Any] | None = None


def write(source: Source, asked: Asked, folder: Path) -> None:
    """Builds what was asked for, checks that the weights fit, and writes it with its tokenizer and template."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    found = weights.read(source.place)
    base = None
    if convert.adapted(found) or source.adapter:
        base = trained.base_of(source, asked.base)
        model = _adapted(source, asked, found, base)
    elif asked.form == "adapter":
        raise UserError(
            f"{source.place}: there is no adapter in these weights, only a whole model; leave out as=adapter"
        )
    elif asked.peft_args or (asked.base and (source.place / "config.json").exists()):
        raise UserError(
            f"{source.place} holds a whole model and no adapter; leave out model.peft_args and model.base_path"
        )
    else:
        place = source.folder if (Path(source.folder) / "config.json").exists() else asked.base or source.path
        if not place:
            raise UserError(f"{source.place}: it has no config.json beside it; say model.base_path=MODEL, the model "
                            "that was trained, for its configuration")  # fmt: skip
        model = convert.whole(runs.model_folder(place), found, _dtype(asked.dtype, "auto"))
    model.save_pretrained(folder)
    if asked.form == "adapter":
        adapters.remember_base(folder, trained.identity_of(str(base)), adapters.added_of(source.folder))
        if head := heads.saved(source.folder):
            head.save(folder)
    trained.save_words(source, base or asked.base, folder)
    _card(folder, base)
    told = f" ({sum(p.numel() for p in model.parameters()):,} parameters)" if asked.form == "model" else f" of {base}"
    print(f"{asked.form}: {type(model).__name__}{told}")


def _card(folder: Path, base: str | None) -> None:
    """A short model card where the library wrote none."""
    if not (folder / "README.md").exists():
        of = f"base_model: {base}\n" if base and not Path(base).exists() else ""
        runs.write_text(folder / "README.md", f"---\nlibrary_name: transformers\n{of}tags: [unteach]\n---\n")


def _adapted(source: Source, asked: Asked, found: Any, base: str) -> Any:
    """The adapter on its base or, where a model is asked for, merged into it."""
    import torch

    if asked.form == "model":
        convert.refuse_quantised(base)
    peft_args = asked.peft_args or trained.peft_args_of(source)
    if not peft_args:
        raise UserError(
            f"{source.place} holds an adapter, and no file says its rank, alpha and targets; set model.peft_args as in "
            "training, for example model.peft_args='{r: 8, lora_alpha: 16, target_modules: all-linear}'"
        )
    under, held = trained.load_base(source, base)
    adapters.refuse_another_base(source.folder, base, trained.identity_of(base))
    model = convert.take_adapter(under, found, peft_args, base, adapters.added_of(source.folder))
    model.peft_config[adapters.TRAINED].base_model_name_or_path = base
    if asked.form == "model":
        return convert.merged(model, _dtype(asked.dtype, held))
    if asked.dtype:
        raise UserError("dtype is for as=model; an adapter is kept as it was trained")
    return model.to(torch.float32)


def _dtype(asked: str | None, otherwise: Any) -> Any:
    import torch

    if asked in (None, "auto"):
        return otherwise
    if asked not in DTYPES:
        raise UserError(unknown("dtype", str(asked), DTYPES))
    return getattr(torch, DTYPES[str(asked)])
