"""`unteach check [train|unlearn|eval|audit] [key=value …] [--print]`: all about a run but the run.

Composes and validates the configuration, reads the data, shows the first batch of each stream with
what is learned of it, and says what is trained, how many steps there are and how much memory to
expect. Weights of at most 2 GB that are on this machine are loaded and tried as the run would; of
others only names and shapes are read.
--print shows the resolved configuration with where each value came from.
"""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from unteach import console, fingerprints, owner, run_dir
from unteach.audits import session, table
from unteach.audits.endpoint import build_stand_in
from unteach.config import provenance, schema
from unteach.config.verb_configs import CheckConfig
from unteach.data.streams import Stream
from unteach.data.user_files import resolve_files
from unteach.distributed import accelerate_launch, launch_environment
from unteach.methods.edit.base import Edit
from unteach.methods.wrap.perturb import LAT
from unteach.models import decoding_folder, loading
from unteach.models.forward import IGNORED
from unteach.models.loading import LoadedModel
from unteach.run_dir import RunState
from unteach.seeds import permutation
from unteach.training import forecast, header, latent_attack, memory, suites, tracking
from unteach.training.build_args import build_training_args
from unteach.training.build_model import (
    build_head,
    describe_trained_model,
    read_training_texts,
)
from unteach.training.build_streams import build_rows, build_streams, choose_anchor
from unteach.training.build_trainer import refuse_launch
from unteach.training.edit_model import setup_edit
from unteach.training.fila import setup_fila
from unteach.training.step import setup_method
from unteach.wording import format_count

if TYPE_CHECKING:
    from transformers import TrainingArguments

TOKENIZED_ROWS = 2000
"""Rows of each file that are tokenised. Of the others all is read and tried but their tokens, which
take most time."""
LEARNED_STYLE = "black on green"
SHOWN_ROWS = 2
"""Rows of each stream that are shown token by token."""
STANDINGS = {
    RunState.NEW: "new",
    RunState.BEGUN: "begun; would go on",
    RunState.DONE: "finished",
    RunState.SENT_BACK: "would go back",
}

DatasetsByStream = dict[str, dict[str, schema.DatasetConfig]]


def run(config: CheckConfig) -> None:
    """Say all that can be known of a run before it starts, or print its configuration."""
    if config.origins is not None:
        print_tree(config.run.tree, config.origins)
        return
    if config.run.launch:
        accelerate_launch.find_launch_file(config.run.launch, config.config_dirs)
    check(config.run)


def print_tree(tree: dict[str, Any], origins: dict[str, str]) -> None:
    """Print the resolved configuration as YAML, each value with the file or command line that it
    came from."""
    lines = provenance.annotate(tree, origins)
    longest = max(len(line) for line, _ in lines)
    width = min(72, longest)
    terminal = Console(soft_wrap=True, highlight=False)
    for line, origin in lines:
        line = console.neutralize(line)
        if not origin:
            terminal.print(escape(line))
            continue
        padded = f"{line:<{width}}"
        terminal.print(f"{escape(padded)}  [dim]# {escape(origin)}[/dim]")


def check(config: schema.RunConfig) -> None:
    """Say all that can be known of a run before it starts; raise what the run itself would
    raise."""
    folder = Path(config.paths.output_dir)
    owner.refuse_unwritable(run_dir.find_owned_folder(folder))
    print(f"run         {folder} ({standing(config, folder)})")
    config = limit_tokenizing(resolve_files(config))
    if config.data:
        for note in config.data.notes:
            console.say(f"file        {note}")
    streams: dict[str, Stream] = {}
    if isinstance(config, schema.AuditConfig) and config.backend is not None:
        config.backend.check()
        loaded = build_stand_in()
    elif isinstance(config, schema.AuditConfig) and config.engine is not None:
        config.engine.check()
        loaded = loading.load_empty(config.model)
    elif isinstance(config, schema.TrainConfig):
        loaded, streams = check_training(config, folder)
    else:
        loaded = loading.load_for_check(config.model)
        if loaded.decoding:
            decoding_folder.refuse_sharded(config.launch, str(loaded.decoding.path))
        print(f"model       {header.describe_model(loaded)}")
    if isinstance(config, schema.AuditConfig):
        check_audit(config, loaded)
    if config.eval:
        check_suites(config, loaded, streams)
    print("nothing was trained, and nothing was written")


def check_audit(config: schema.AuditConfig, loaded: LoadedModel) -> None:
    """Say which attacks an audit makes, what they ask, and which it cannot make and why."""
    plan = session.plan_audit(config, loaded)
    for note in plan.notes:
        console.say(f"rows        {note}")
    for line in table.describe_plan(plan):
        console.say(line)
    for line in session.describe_endpoint(plan, config):
        console.say(f"endpoint    {line}")


def limit_tokenizing(config: schema.RunConfig) -> schema.RunConfig:
    """Have only the first rows of each file tokenised at once."""
    if config.data is None:
        return config
    data = replace(
        config.data,
        streams=_limit_streams(config.data.streams),
        measured=_limit_streams(config.data.measured),
    )
    return replace(config, data=data)


def _limit_streams(streams: DatasetsByStream) -> DatasetsByStream:
    limited: DatasetsByStream = {}
    for stream, datasets in streams.items():
        limited[stream] = {}
        for name, dataset in datasets.items():
            limited[stream][name] = _limit_dataset(dataset)
    return limited


def _limit_dataset(dataset: schema.DatasetConfig) -> schema.DatasetConfig:
    """Copy a dataset of which only the first rows are tokenised; one that is no file is as it
    was."""
    hf_args = dataset.args.get("hf_args") or {}
    if "choice" not in hf_args:
        return dataset
    choice = replace(hf_args["choice"], tokenized=TOKENIZED_ROWS)
    return replace(dataset, args={**dataset.args, "hf_args": {**hf_args, "choice": choice}})


def standing(config: schema.RunConfig, folder: Path) -> str:
    """Say how the run's folder stands, as the run itself would find it.

    Raises:
        UserError: the run would refuse the folder.
    """
    if config.resume == "never":
        run_dir.refuse_foreign(folder)
        return "new; an old folder would be moved aside" if folder.exists() else "new"
    state = run_dir.open_run(folder, config.tree, config.resume)
    if state is RunState.DONE:
        memory_file = Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE
        run_dir.refuse_changed_inputs(folder, memory_file)
    return STANDINGS[state]


def check_training(
    config: schema.TrainConfig,
    folder: Path,
) -> tuple[LoadedModel, dict[str, Stream]]:
    """Print model, method, streams, steps, learning rate, memory and first rows, and give the model
    and the streams."""
    # Model, streams and method, as the run itself builds them.
    tracking.refuse_missing(config.trainer.args)
    model, num_layers = describe_trained_model(config)
    head = build_head(config)
    loaded = loading.load_for_check(
        model,
        lambda: read_training_texts(config),
        head,
        num_layers,
    )
    streams, notes = build_streams(config, loaded)
    anchor = choose_anchor(config, streams)
    args = build_training_args(config, loaded.compute, streams[anchor], folder)
    notes += memory.note_lost_updates(loaded.model, args)
    notes += _set_up_method(config, loaded, streams, args)
    num_validation_rows = 0
    validation = config.data.streams.get("validation")
    if validation:
        rows, row_notes = build_rows(loaded, "validation", validation, config.seed)
        num_validation_rows = sum(map(len, rows))
        notes += row_notes

    # The run's own header, then what only a check says.
    if isinstance(config.trainer.method, Edit):
        lines = header.describe_edit_run(config, loaded, streams, forecast.describe_stream)
    else:
        lines = header.describe_training(
            config,
            loaded,
            streams,
            anchor,
            args,
            config.nproc or args.world_size,
            num_validation_rows,
            forecast.describe_stream,
        )
    if not all(map(_is_tokenized, streams.values())):
        notes.append(
            f"of each file the first {TOKENIZED_ROWS:,} rows are tokenised. Which of the others "
            "are too long, cut, or refused by the template is said when the run starts"
        )
    lines += [("note", sentence) for sentence in notes]
    header.print_lines(lines)
    footprint = memory.read_footprint(loaded, args, config.trainer, streams)
    print(f"memory      {memory.describe_memory(footprint)}")
    print(f"fits        {memory.describe_fit(footprint, config.gpu_bytes)}")
    for name, stream in streams.items():
        show_rows(loaded, name, stream, config.seed)
    return loaded, streams


def _set_up_method(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    args: "TrainingArguments",
) -> list[str]:
    """Set a method up, and what stands round it, as the run does: what cannot be is refused.

    Returns:
        Notes about it.
    """
    notes: list[str] = []
    method = config.trainer.method
    if isinstance(method, Edit):
        num_processes = config.nproc or args.world_size
        setup_edit(loaded, method, config.trainer.handler, streams, num_processes)
    elif not isinstance(method, schema.TheirTrainer):
        setup_method(loaded.model, method, config.seed, streams, loaded.template)
        notes += filter(None, [setup_fila(config, loaded)])
    refuse_launch(config.trainer, args, launch_environment.parallel_mode())
    if isinstance(config.trainer.perturb, LAT):
        latent_attack.find_module(loaded.model, config.trainer.perturb.module)
    return notes


def _is_tokenized(stream: Stream) -> bool:
    """Whether all rows of a stream were tokenised, or only the first of each file."""
    return len(stream.list_tokenized_rows()) >= len(stream)


def show_rows(
    loaded: LoadedModel,
    name: str,
    stream: Stream,
    seed: int,
) -> None:
    """Print the first rows that a step would draw of a stream: what is learned in green, what is
    only read dim.

    Args:
        name: the stream's, which its order is drawn by.
        seed: the run's.
    """
    terminal = Console(soft_wrap=True, highlight=False)
    marks = ("", "") if terminal.is_terminal else ("⟦", "⟧")
    where = "green" if terminal.is_terminal else f"between {''.join(marks)}"
    print(f"first of {name}; what is learned is {where}:")
    order = permutation(len(stream), seed, "data", name, 0)
    for number in order[:SHOWN_ROWS]:
        example = stream.example(number)
        line = Text(f"  {stream.locate(number)}: ")
        if loaded.head:
            _append_text_and_label(line, loaded, example, marks)
        else:
            _append_tokens(line, loaded, example, marks)
        terminal.print(line)


def _append_text_and_label(
    line: Text,
    loaded: LoadedModel,
    example: Mapping[str, Any],
    marks: tuple[str, str],
) -> None:
    """Append a text, and the class or the number that a head learns of it."""
    learned = example.get("target")
    if loaded.head and loaded.head.labels:
        class_index = example["labels"][-1]
        learned = loaded.head.labels[class_index]
    open_mark, close_mark = marks
    text = loaded.tokenizer.decode(example["input_ids"])
    line.append(console.neutralize(f"{text} "))
    line.append(console.neutralize(f"{open_mark}{learned}{close_mark}"), LEARNED_STYLE)


def _append_tokens(
    line: Text,
    loaded: LoadedModel,
    example: Mapping[str, Any],
    marks: tuple[str, str],
) -> None:
    """Append an example's tokens, those that are learned between the marks."""
    open_mark, close_mark = marks
    pairs = zip(example["input_ids"], example["labels"], strict=True)
    for is_learned, stretch in itertools.groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        tokens = [token for token, _ in stretch]
        text = console.neutralize(loaded.tokenizer.decode(tokens))
        text = text.replace("\n", "⏎\n    ")
        if is_learned:
            line.append(f"{open_mark}{text}{close_mark}", LEARNED_STYLE)
        else:
            line.append(text, "dim")


def check_suites(
    config: schema.RunConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
) -> None:
    """Plan every suite as the run would, and print which metrics it has, on how many rows, and
    which are absent and why."""
    planned, notes = suites.plan_suites(config, loaded, streams)
    for sentence in notes:
        console.say(f"note        {sentence}")
    for name, plan in planned.items():
        metrics = [metric for metric in plan.metric_names if metric in plan.metrics]
        print(f"suite       {name}: {', '.join(metrics)}")
        for role, rows in plan.rows.own.items():
            num_measured = count = len(rows.row_numbers)
            if role in plan.rows.subset_sizes:
                num_measured, count = plan.rows.subset_sizes[role]
            num_rows = format_count(count, "row")
            if num_measured < count:
                num_rows = f"{num_measured:,} of {num_rows}"
            console.say(f"measured    {role}: {num_rows} of {rows.where}")
        for metric, reason in plan.absent.items():
            console.say(f"absent      {metric}: {reason}")
