"""From a checked Config to what a Trainer is made of: datasets, streams, TrainingArguments, the
reference."""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from unteach import console, run_dir
from unteach.config import compose, schema, training_args
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.handlers.labelled import labels_of_rows
from unteach.data.io import sources
from unteach.data.stream_overlap import note_overlap
from unteach.data.streams import ALTERNATE, Steps, Stream
from unteach.data.tokenized import token_files
from unteach.distributed import launch_environment
from unteach.distributed.process_context import DistContext
from unteach.distributed.process_limits import refuse_too_many
from unteach.errors import UserError
from unteach.methods.base import Method
from unteach.models import adapters, heads, portable, probing
from unteach.models.heads import Head
from unteach.models.hub import PATH
from unteach.models.loading import Loaded, load_frozen, memory
from unteach.models.placement import place, settle
from unteach.models.reference import Draw, Reference, Table, compute_table, needs_copy, trimmed
from unteach.training import checkpoint
from unteach.training.alternates import invent
from unteach.training.foreign_trainers import their_trainer
from unteach.training.guard_rows import build_guard
from unteach.training.parallelism import step_size
from unteach.training.parts import build_part
from unteach.training.resumable import Keeping, Resumable
from unteach.training.rows import (
    context_of,
    fingerprints,
    fingerprints_of_files,
    note_idle_optimizer,
    notes_of,
    refuse_other_data,
    refuse_too_long,
)
from unteach.training.trainer import Trainer

REFERENCE = "reference"
"""The folder of a run with the log-probs of the policy that it began from, a file a stream."""
HOLDOUT = "holdout"
"""The stream of rows that the model never sees: measured, and never trained on."""


def head_of(config: schema.Config) -> Head | None:
    """The head of the classifier that the run's method trains; its labels are the method's, those
    that the model was saved with, or those of the rows of data.train. None for a language model."""
    assert config.data is not None and config.trainer is not None
    kind = getattr(config.trainer.method, "ROWS", "answers")
    if kind not in ("classes", "numbers"):
        return None
    if kind == "numbers":
        return Head()
    path = config.model.model_args.get(PATH)
    kept = heads.saved(run_dir.model_folder(str(path)) if path else None)
    given = config.trainer.method.labels or (kept.labels if kept else None)
    parts = config.data.streams["train"].values()
    return Head(tuple(given or labels_of_rows([(part.cls, part.args) for part in parts])))


def build_streams(
    config: schema.Config, loaded: Loaded, dist: DistContext | None = None
) -> tuple[dict[str, Stream], list[str]]:
    """The streams that the run trains on, and what there is to say about rows dropped and answers
    cut.

    dist: the processes that share the work where the model itself invents answers; None: it must
    not, and the stream is left out.
    """
    assert config.data is not None and config.trainer is not None
    method = config.trainer.method
    streams: dict[str, Stream] = {}
    rows: dict[str, list[Any]] = {}
    said: list[str] = []
    for name in method.streams() or [name for name in config.data.streams if name != HOLDOUT]:
        home = home_of(config.data, name)
        if home not in rows:
            rows[home], notes = build_rows(config, loaded, home)
            said += notes
        built = rows[home]
        if name == ALTERNATE != home and method.ask("", "") is not None:
            if dist is None:
                said.append(
                    f"data.{name}: the model invents these answers itself when the run starts"
                )
                continue
            asked = Stream("forget", built)
            built = [invent(method, loaded, asked, config.seed, Path(config.paths.cache_dir), dist)]
        follows = next((other for other in streams if home_of(config.data, other) == home), None)
        streams[name] = Stream(name, built, follows)
    refuse_too_long(streams, context_of(loaded.model))
    if {"forget", "retain"} <= rows.keys():
        said += note_overlap(rows["forget"], rows["retain"])
    return streams, said


def home_of(data: schema.DataConfig, name: str) -> str:
    """The stream of the configuration whose rows a method's stream is read from: its own, or one it
    stands beside."""
    return name if name in data.streams else schema.BESIDE.get(name, name)


def build_rows(
    config: schema.Config, loaded: Loaded, name: str, parts: dict[str, schema.Part] | None = None
) -> tuple[list[Any], list[str]]:
    """The datasets of a stream of the configuration (or these parts), and what there is to say
    about their rows."""
    assert config.data is not None
    parts, said = parts or config.data.streams[name], []
    labels = list(loaded.head.labels) if loaded.head else None
    built = [build_part(part, loaded, seed=config.seed, labels=labels) for part in parts.values()]
    notes = [sources.note(part.args.get("hf_args") or {}) for part in parts.values()]
    said += [note for note in notes if note]
    if any(getattr(part, "packing", None) == "best_fit" for part in built):
        said += [
            f"data.{name}: {slower}"
            for slower in [probing.describe_packing(loaded.model)]
            if slower
        ]
    for label, part in zip(parts, built, strict=True):
        said += [f"data.{name}.{label}: {note}" for note in notes_of(part)]
    return built, said


def anchor_of(config: schema.Config, streams: dict[str, Stream]) -> str:
    """The stream whose length is an epoch: the one that data.anchor names, or the first that is
    read from its rows."""
    assert config.data is not None and config.trainer is not None
    anchor = config.data.anchor
    for name in streams:
        if name == anchor or home_of(config.data, name) == anchor:
            return name
    raise UserError(
        f"data.anchor={anchor}: {config.trainer.handler} with these method_args does not train on "
        "that stream; it trains on "
        f"{', '.join(dict.fromkeys(home_of(config.data, name) for name in streams))}"
    )


def training_arguments(
    config: schema.Config, compute: str, anchor_rows: int, folder: Path
) -> transformers.TrainingArguments:
    """TrainingArguments of the run: the user's, and what the run's folder, dtype and the rule of
    normalisation set."""
    assert config.trainer is not None
    args = dict(config.trainer.args)
    refuse_too_many("trainer.args.dataloader_num_workers", args.get("dataloader_num_workers") or 0)
    warmup_epochs = args.get("warmup_epochs")
    for consumed in (*training_args.OWN, "do_train", "do_eval", "save_total_limit"):
        args.pop(consumed, None)
    args["run_name"] = args.get("run_name") or config.task_name
    if not torch.cuda.is_available():
        args.setdefault("use_cpu", True)
    # joined and verified before: the library would join by a rule of its own
    if launch_environment.by_launcher():
        args["accelerator_config"] = {"use_configured_state": True}
    # the first process speaks for all; the library's default is to warn
    args.setdefault("log_level_replica", "error")
    mixed = not config.model.pure_bf16 and "bf16" not in args and "fp16" not in args
    if mixed and compute in ("bfloat16", "float16"):
        args["bf16" if compute == "bfloat16" else "fp16"] = True
    if args.get("ddp_find_unused_parameters") is None:
        args["ddp_find_unused_parameters"] = False
    # of this run, whichever ran before in this process
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "logs")
    if str(args.get("metric_for_best_model")).removeprefix("eval_") in LESS_IS_BETTER:
        args.setdefault("greater_is_better", False)
    try:
        built = transformers.TrainingArguments(
            output_dir=str(folder),
            seed=config.seed,
            remove_unused_columns=False,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            **args,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"trainer.args: {error}") from None
    if built.fp16 and built.device.type == "cpu":  # accelerate would take float32 and say nothing
        raise UserError(
            "float16 (model.model_args.dtype, trainer.args.fp16) needs a GPU; take bfloat16 or "
            "float32"
        )
    if built.n_gpu > 1:
        if not config.model.model_args.get("device_map"):
            console.say(
                f"note: {built.n_gpu} GPUs are visible and one process uses one: launch=ddp (or "
                "fsdp2, zero2, zero3) uses all, model.model_args.device_map=auto spreads one "
                "model over them"
            )
        built._n_gpu = 1  # nn.DataParallel would split a step by a rule of its own
    _agree_with_launch(config, compute, built)
    for note in note_idle_optimizer(built):
        console.say(f"note: {note}")
    if warmup_epochs is not None:
        size = (
            built.per_device_train_batch_size * built.gradient_accumulation_steps * built.world_size
        )
        built.warmup_steps = int(warmup_epochs * -(-anchor_rows // size))
    return built


DDP = (
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
)


def _agree_with_launch(
    config: schema.Config, compute: str, built: transformers.TrainingArguments
) -> None:
    """What the launch's file says must be what the run says; what it leaves open is the run's."""
    assert config.trainer is not None
    mode, given = launch_environment.mode(), config.trainer.args
    if mode not in ("one", "ddp"):
        for name in (name for name in DDP if given.get(name) is not None):
            raise UserError(
                f"trainer.args.{name} is for data parallelism, and this run is {mode}; leave it out"
            )
    if mode.startswith("zero") and config.model.pure_bf16:
        raise UserError(
            "model.pure_bf16: DeepSpeed keeps fp32 masters beside weights in bfloat16; leave it out"
        )
    precision = {"bf16": "bfloat16", "fp16": "float16"}.get(
        os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    )
    if precision and precision != compute:
        raise UserError(
            f"the launch file says mixed_precision in {precision}, and this run computes in "
            f"{compute}: set model.model_args.dtype={precision}, or mixed_precision: no in the file"
        )
    if built.deepspeed_plugin is not None:
        built.deepspeed_plugin.hf_ds_config.config.setdefault("gradient_clipping", "auto")


LESS_IS_BETTER = ("perplexity", "mae", "mse", "kl")
"""Values of held-out rows of which the library, that knows only `loss`, would keep the largest."""


def build_trainer(
    config: schema.Config,
    loaded: Loaded,
    streams: dict[str, Stream],
    anchor: str,
    folder: Path,
    dist: Any,
    args: transformers.TrainingArguments,
    **given: Any,
) -> Resumable:
    """The trainer of the run's method, or a plugin's own subclass of transformers.Trainer."""
    assert config.trainer is not None
    collator, method = build_collator(config, loaded), config.trainer.method
    watching = build_guard(config, loaded, streams)
    common = {
        "model": loaded.model,
        "args": args,
        "dist": dist,
        "keeping": keeping(config),
        "guard": watching,
        "accompany": functools.partial(accompany, loaded),
        **given,
    }
    if isinstance(method, schema.TheirTrainer):
        if dist.is_main:
            console.say(
                f"note: {config.trainer.handler} is a transformers.Trainer with a loss of its own: "
                "our rule of normalisation does not hold for it, and its steps change with how a "
                "batch is split"
            )
        tokenizer = loaded.tokenizer
        return their_trainer(
            method, streams, anchor, data_collator=collator, processing_class=tokenizer, **common
        )
    reference = build_reference(config, method, loaded, dist)
    draws = functools.partial(drawn, streams, anchor, args)
    kept = folder / REFERENCE
    tables = functools.partial(
        build_tables, method, loaded, streams, draws, collator, args, kept, dist
    )
    return Trainer(
        method=method,
        streams=streams,
        anchor=anchor,
        collator=collator,
        reference=reference,
        tables=tables,
        packed=config.model.packed,
        **common,
    )


def build_reference(
    config: schema.Config, method: Method, loaded: Loaded, dist: DistContext
) -> Reference:
    """What a method compares with, but for its tables: a frozen copy only where nothing else is
    exact, and where an adapter trains, the model as it was without it."""
    needed = method.reference()
    if not needs_copy(needed):
        return Reference(needed)
    if loaded.adapter is not None:
        return Reference(needed, frozen=adapters.AsItBegan(loaded.model, loaded.adapter))
    return Reference(needed, frozen=place(trimmed(load_frozen(config.model), needed), dist))


def build_tables(
    method: Method,
    loaded: Loaded,
    streams: dict[str, Stream],
    draws: Callable[[], dict[str, list[Draw]]],
    collator: Any,
    args: transformers.TrainingArguments,
    folder: Path,
    dist: DistContext,
) -> dict[str, Table]:
    """Tables of log-probs, computed by the policy itself before it is trained and kept in a folder
    of the run.

    A table has the rows that `draws` names, and no others. Called once the policy is spread as the
    run is.
    """
    tables = {}
    for stream in (stream for stream, kind in method.reference().items() if kind == "logprobs"):
        path = folder / f"{stream}.safetensors"
        if path.exists():  # the policy is no longer what it was compared with
            tables[stream] = Table.load(path)
            continue
        with loaded.autocast():
            tables[stream] = compute_table(
                loaded.model,
                streams[stream],
                draws()[stream],
                collator,
                args.per_device_train_batch_size,
                dist.rank,
                dist.world_size,
                dist.gather,
                dist.device if dist.is_sharded else None,
            )
        settle(loaded.model)
        dist.barrier()  # for all have looked whether the file is there
        if dist.is_main:
            tables[stream].save(path)
    return tables


def drawn(
    streams: dict[str, Stream], anchor: str, args: transformers.TrainingArguments
) -> dict[str, list[Draw]]:
    """The rows that the run will draw, a stream."""
    steps = Steps(streams, anchor, step_size(args), args.seed)
    return steps.seen(
        args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * len(steps))
    )


def build_collator(config: schema.Config, loaded: Loaded) -> Any:
    if config.collator is None:
        return DataCollatorForSupervisedDataset(loaded.tokenizer)
    return build_part(config.collator, loaded)


def training_texts(config: schema.Config) -> list[str]:
    """The words of the training data, for a tokenizer that is learned from them."""
    assert config.data is not None
    texts = []
    for stream, parts in config.data.streams.items():
        for part in parts.values() if stream != HOLDOUT else ():
            if token_files.is_tokenized(part.args.get("hf_args", {}).get("path")):
                raise UserError(
                    "a tokenizer cannot be learned from tokens; name the model whose tokenizer "
                    "made them"
                )
            for row in sources.load_rows(part.args.get("hf_args", {})):
                words = [value for value in row.values() if isinstance(value, str)]
                texts.append("\n".join(words))
    return texts


def open_folder(
    config: schema.Config,
    folder: Path,
    loaded: Loaded,
    streams: dict[str, Stream],
    dist: Any,
    step: int,
) -> None:
    """Makes the run's folder ready to start, or to go on after `step`."""
    memory = Path(config.paths.cache_dir) / run_dir.FINGERPRINTS
    models = run_dir.fingerprints_of_models([loaded.path, loaded.adapter], memory)
    data = {"data": fingerprints(streams), "files": fingerprints_of_files(config), "models": models}
    if step and (folder / run_dir.MANIFEST).exists():
        refuse_other_data(
            folder, run_dir.read_mapping(folder / run_dir.MANIFEST, "the run's manifest"), data
        )
    # The configuration comes first: it makes the folder a run's, into which all else may be
    # written.
    run_dir.write_text(folder / run_dir.CONFIG, compose.to_yaml(config.tree))
    if step == 0:
        for table in (folder / REFERENCE).glob("*.safetensors"):
            if table.stem in streams:
                table.unlink()
    run_dir.keep_lines(folder / run_dir.METRICS, step if step else -1)
    weights = loaded.identity(memory)
    facts = {
        **data,
        "weights": weights,
        "world": dist.world_size,
        "mode": dist.mode,
        "resumed_at": step,
    }
    made_by = run_dir.manifest(config.seed, command=config.command, **facts)
    run_dir.write_json(folder / run_dir.MANIFEST, made_by)


def keeping(config: schema.Config) -> Keeping:
    """How many checkpoints are kept, and after how many evaluations without a better one the run
    stops."""
    assert config.trainer is not None
    args = config.trainer.args
    least = args.get("early_stopping_threshold") or 0.0
    return Keeping(args.get("save_total_limit") or 1, args.get("early_stopping_patience"), least)


METHOD = "unteach_method.json"


def save_final(
    model: Any, loaded: Loaded, target: Path, method: Any, state_dict: dict[str, Any] | None = None
) -> None:
    """Writes the model, or its adapter, with tokenizer, template and the method's state into the
    folder `target`, whole or not at all. state_dict: the weights, where the model in this process
    does not hold them all."""
    with run_dir.replacing_folder(target) as temporary:
        if loaded.adapter is None:
            model.save_pretrained(temporary, state_dict=state_dict)
        else:
            model.save_pretrained(
                temporary, selected_adapters=[adapters.TRAINED], state_dict=state_dict
            )
        accompany(loaded, temporary)
        if isinstance(method, Method) and (state := method.state()):
            run_dir.write_json(temporary / METHOD, state)
        checkpoint.complete(temporary)


def accompany(loaded: Loaded, folder: Path) -> None:
    """Writes beside weights what makes them a model that can be asked: tokenizer, template, what an
    adapter is of."""
    if loaded.adapter is not None:
        adapters.remember_base(folder, loaded.base_weights(memory()), loaded.added)
        if loaded.head:
            loaded.head.save(folder)
    if loaded.start is not None:
        loaded.start.restore(folder)
        portable.add_old_names(folder)
    portable.save_tokenizer(loaded.tokenizer, folder)
    loaded.template.save(folder)
