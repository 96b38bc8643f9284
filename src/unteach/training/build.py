"""From a checked Config to what a Trainer is made of: datasets, streams, TrainingArguments, the reference."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from unteach import compose, registry, runs, schema
from unteach.data import sources
from unteach.data.streams import Stream, in_batches
from unteach.errors import UserError
from unteach.methods.base import Method
from unteach.models.loading import Loaded, load_frozen
from unteach.models.reference import Reference, Table, compute_table
from unteach.training.trainer import Keeping


def build_part(kind: registry.Registry, part: schema.Part, loaded: Loaded, **given: Any) -> Any:
    """A dataset or collator with its arguments, and whichever of template, tokenizer, template_args, seed it takes."""
    import inspect

    cls = kind.get(part.handler)
    offered = {
        "template": loaded.template,
        "tokenizer": loaded.tokenizer,
        "template_args": loaded.template.args,
        **given,
    }
    taken = {name: value for name, value in offered.items() if name in inspect.signature(cls).parameters}
    return cls(**{**taken, **part.args})


def build_streams(config: schema.Config, method: Method, loaded: Loaded) -> tuple[dict[str, Stream], list[str]]:
    """The streams that the method trains on, and what there is to say about rows dropped and answers cut."""
    assert config.data is not None
    streams, said = {}, []
    for name in method.streams():
        parts = config.data.streams.get(name)
        if not parts:
            there = ", ".join(config.data.streams) or "none"
            raise UserError(
                f"trainer.handler={type(method).__name__} trains on the stream {name!r}; this run has {there}. "
                f"Set data.{name}=DATASET (see `unteach list datasets`)"
            )
        built = [build_part(registry.dataset, part, loaded, seed=config.seed) for part in parts.values()]
        notes = [sources.note(part.args.get("hf_args") or {}) for part in parts.values()]
        said += [note for note in notes if note]
        for label, part in zip(parts, built, strict=True):
            dropped, cut = getattr(part, "dropped", {}), getattr(part, "cut", 0)
            said += [f"data.{name}.{label}: {count} rows dropped, {why}" for why, count in dropped.items()]
            said += [f"data.{name}.{label}: {cut} answers cut at max_length"] if cut else []
        streams[name] = Stream(name, built)
    return streams, said


def training_arguments(
    config: schema.Config, compute: str, anchor_rows: int, folder: Path
) -> transformers.TrainingArguments:
    """TrainingArguments of the run: the user's, and what the run's folder, dtype and the rule of normalisation set."""
    assert config.trainer is not None
    args = dict(config.trainer.args)
    for consumed in ("do_train", "do_eval", "keep_checkpoints", "save_total_limit", "early_stopping_patience"):
        args.pop(consumed, None)
    warmup_epochs = args.pop("warmup_epochs", None)
    if not torch.cuda.is_available():
        args.setdefault("use_cpu", True)
    mixed = not config.model.pure_bf16 and "bf16" not in args and "fp16" not in args
    if mixed and compute in ("bfloat16", "float16"):
        args["bf16" if compute == "bfloat16" else "fp16"] = True
    if args.get("ddp_find_unused_parameters") is None:
        args["ddp_find_unused_parameters"] = False
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "logs")  # of this run, whichever ran before in this process
    try:
        built = transformers.TrainingArguments(
            output_dir=str(folder), seed=config.seed, remove_unused_columns=False, logging_nan_inf_filter=False,
            disable_tqdm=True, **args,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise UserError(f"trainer.args: {error}") from None
    if built.n_gpu > 1:
        built._n_gpu = 1  # nn.DataParallel would split a step by a rule of its own
    if warmup_epochs is not None:
        size = built.per_device_train_batch_size * built.gradient_accumulation_steps * built.world_size
        built.warmup_steps = int(warmup_epochs * -(-anchor_rows // size))
    return built


def build_reference(
    config: schema.Config, method: Method, loaded: Loaded, streams: dict[str, Stream], collator: Any,
    args: transformers.TrainingArguments, folder: Path, gather: Callable[[Any], Any] | None,
) -> Reference:  # fmt: skip
    """The cheapest exact reference for what the method compares with; tables are kept in the run's folder."""
    needed = method.reference()
    tables = {}
    for stream in (stream for stream, kind in needed.items() if kind == "logprobs"):
        path = folder / "reference" / f"{stream}.safetensors"
        if path.exists():  # the policy is no longer what it was compared with
            tables[stream] = Table.load(path)
            continue
        batches = in_batches(
            streams[stream], args.per_device_train_batch_size, collator, args.process_index, args.world_size
        )
        moved = ({k: v.to(args.device) if hasattr(v, "to") else v for k, v in batch.items()} for batch in batches)
        loaded.model.to(args.device)
        with loaded.autocast():
            tables[stream] = compute_table(loaded.model, moved, stream, len(streams[stream]), gather)
        if args.process_index == 0:
            tables[stream].save(path)
    compares_passes = any(kind != "logprobs" for kind in needed.values())
    frozen = load_frozen(config.model).to(args.device) if compares_passes else None
    return Reference(needed, tables, frozen)


def build_collator(config: schema.Config, loaded: Loaded) -> Any:
    part = config.collator or schema.Part("DataCollatorForSupervisedDataset")
    return build_part(registry.collator, part, loaded)


def training_texts(config: schema.Config) -> list[str]:
    """The words of the training data, for a tokenizer that is learned from them."""
    assert config.data is not None
    texts = []
    for parts in config.data.streams.values():
        for part in parts.values():
            for row in sources.load_rows(part.args.get("hf_args", {})):
                words = [value for value in row.values() if isinstance(value, str)]
                texts.append("\n".join(words))
    return texts


def fingerprints(streams: dict[str, Stream]) -> dict[str, str]:
    """sha256 of the token ids and labels of each stream, in order."""
    found = {}
    for name, stream in streams.items():
        digest = hashlib.sha256()
        for number in range(len(stream)):
            example = stream.example(number)
            digest.update(repr((list(example["input_ids"]), list(example["labels"]))).encode())
        found[name] = digest.hexdigest()
    return found


def open_folder(
    config: schema.Config, folder: Path, loaded: Loaded, streams: dict[str, Stream], here: Any, step: int
) -> None:
    """Makes the run's folder ready to start, or to go on after `step`."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.sweep(folder)
    if step == 0:
        shutil.rmtree(folder / "reference", ignore_errors=True)
    runs.keep_lines(folder / runs.METRICS, step if step else -1)
    runs.write_text(folder / runs.CONFIG, compose.to_yaml(config.tree))
    weights = loaded.identity(Path(config.paths.cache_dir) / runs.FINGERPRINTS)
    facts = {"data": fingerprints(streams), "weights": weights, "world": here.world, "resumed_at": step}
    runs.write_json(folder / runs.MANIFEST, runs.manifest(config.seed, **facts))


def keeping(config: schema.Config) -> Keeping:
    """How many checkpoints are kept, and after how many evaluations without a better one the run stops."""
    assert config.trainer is not None
    args = config.trainer.args
    return Keeping(args.get("save_total_limit") or 1, args.get("early_stopping_patience"))


def save_final(model: Any, loaded: Loaded, folder: Path) -> None:
    """Writes the model, its tokenizer and its template as `final_checkpoint`, whole or not at all."""
    with runs.replacing_folder(folder / runs.FINAL) as temporary:
        model.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        loaded.template.save(temporary)
