"""`unteach check [train|unlearn|eval] [key=value …] [--print]`: everything about a run but the run.

Composes and validates the configuration, reads the data, shows the first batch of each stream with
what is learned of it, and says what is trained, how many steps there are and how much memory to
expect. Weights of at most 2 GB that are on this machine are loaded and tried as the run would; of
others only names and shapes are read.
--print shows the resolved configuration with where each value came from.
"""

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from unteach import console, fingerprints, owner, run_dir
from unteach.config import provenance, schema
from unteach.config.verb_configs import CheckConfig
from unteach.data.streams import Stream
from unteach.data.user_files import resolve_files
from unteach.distributed import accelerate_launch
from unteach.models import loading
from unteach.models.forward import IGNORED
from unteach.models.loading import LoadedModel
from unteach.run_dir import RunState
from unteach.seeds import permutation
from unteach.training import forecast, header, suites, tracking
from unteach.training.build_args import build_training_args
from unteach.training.build_model import build_head, read_training_texts
from unteach.training.build_streams import build_rows, build_streams, choose_anchor
from unteach.training.step import setup_method
from unteach.wording import format_count

TOKENIZED_ROWS = 2000
"""Rows of each file that are tokenised. Of the others all is read and tried but their tokens, which
take most time."""
SHOWN_ROWS = 2
"""Rows of each stream that are shown token by token."""


def run(config: CheckConfig) -> None:
    """Say all that can be known of a run before it starts, or print its configuration."""
    if config.origins is not None:
        print_tree(config.run.tree, config.origins)
        return
    if config.run.launch:
        accelerate_launch.find_launch_file(config.run.launch, config.config_dirs)
    check(config.run)


def print_tree(tree: dict[str, Any], origins: dict[str, str]) -> None:
    """The resolved configuration as YAML, each value with the file or command line that it came
    from."""
    lines = provenance.annotate(tree, origins)
    width = min(72, max(len(line) for line, _ in lines))
    terminal = Console(soft_wrap=True, highlight=False)
    for line, origin in lines:
        line = console.neutralize(line)
        terminal.print(
            f"{escape(f'{line:<{width}}')}  [dim]# {escape(origin)}[/dim]"
            if origin
            else escape(line)
        )


def check(config: schema.RunConfig) -> None:
    """Say all that can be known of a run before it starts; raise what the run itself would
    raise."""
    folder = Path(config.paths.output_dir)
    owner.refuse_unwritable(run_dir.find_owned_folder(folder))
    print(f"run         {folder} ({standing(config, folder)})")
    config = limit_tokenizing(resolve_files(config))
    for note in config.data.notes if config.data else ():
        console.say(f"file        {note}")
    streams: dict[str, Stream] = {}
    if isinstance(config, schema.TrainConfig):
        loaded, streams = check_training(config, folder)
    else:
        loaded = loading.load_for_check(config.model)
        print(f"model       {header.describe_model(loaded)}")
    if config.eval:
        check_suites(config, loaded, streams)
    print("nothing was trained, and nothing was written")


def limit_tokenizing(config: schema.RunConfig) -> schema.RunConfig:
    """Have only the first rows of each file tokenised at once."""
    if config.data is None:
        return config
    streams, measured = _limit(config.data.streams), _limit(config.data.measured)
    return replace(config, data=replace(config.data, streams=streams, measured=measured))


def _limit(
    streams: dict[str, dict[str, schema.ComponentConfig]],
) -> dict[str, dict[str, schema.ComponentConfig]]:
    limited: dict[str, dict[str, schema.ComponentConfig]] = {}
    for stream, datasets in streams.items():
        limited[stream] = {}
        for name, dataset in datasets.items():
            hf_args = dataset.args.get("hf_args") or {}
            if "choice" in hf_args:
                choice = replace(hf_args["choice"], tokenized=TOKENIZED_ROWS)
                dataset = copy.copy(dataset)
                dataset.args = {**dataset.args, "hf_args": {**hf_args, "choice": choice}}
            limited[stream][name] = dataset
    return limited


def standing(config: schema.RunConfig, folder: Path) -> str:
    """How the run's folder stands, as the run itself would find it."""
    if config.resume == "never":
        run_dir.refuse_foreign(folder)
        return "new; an old folder would be moved aside" if folder.exists() else "new"
    state = run_dir.open_run(folder, config.tree, config.resume)
    if state is RunState.DONE:
        run_dir.refuse_changed_inputs(
            folder,
            Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE,
        )
    return {
        RunState.NEW: "new",
        RunState.BEGUN: "begun; would go on",
        RunState.DONE: "finished",
        RunState.SENT_BACK: "would go back",
    }[state]


def check_training(
    config: schema.TrainConfig,
    folder: Path,
) -> tuple[LoadedModel, dict[str, Stream]]:
    """Model, method, streams, steps, learning rate, memory, first rows; returns the model and the
    streams."""

    tracking.refuse_missing(config.trainer.args)
    head = build_head(config)
    loaded = loading.load_for_check(config.model, lambda: read_training_texts(config), head)
    streams, said = build_streams(config, loaded)
    anchor = choose_anchor(config, streams)
    args = build_training_args(config, loaded.compute, len(streams[anchor]), folder)
    if not isinstance(config.trainer.method, schema.TheirTrainer):
        method = config.trainer.method
        setup_method(loaded.model, method, config.seed, streams, loaded.template)
    num_validation_rows = 0
    if config.data.streams.get("validation"):
        rows, told = build_rows(
            loaded,
            "validation",
            config.data.streams["validation"],
            config.seed,
        )
        num_validation_rows = sum(map(len, rows))
        said += told
    processes = config.nproc or args.world_size
    lines = header.describe_training(
        config,
        loaded,
        streams,
        anchor,
        args,
        processes,
        num_validation_rows,
        forecast.describe_stream,
    )
    if any(len(stream.list_tokenized_rows()) < len(stream) for stream in streams.values()):
        said.append(
            f"of each file the first {TOKENIZED_ROWS:,} rows are tokenised. Which of the others "
            "are too long, cut, or refused by the template is said when the run starts"
        )
    header.print_lines([*lines, *(("note", sentence) for sentence in said)])
    print(f"memory      {forecast.describe_memory(loaded, args, config.trainer.method, streams)}")
    for name, stream in streams.items():
        show_rows(loaded, name, stream, config.seed)
    return loaded, streams


def show_rows(loaded: LoadedModel, name: str, stream: Stream, seed: int) -> None:
    """The first rows that a step would draw of a stream: what is learned in green, what is only
    read dim."""

    terminal = Console(soft_wrap=True, highlight=False)
    is_coloured = terminal.is_terminal
    open_mark, close_mark = ("", "") if is_coloured else ("⟦", "⟧")
    print(
        f"first of {name}; what is learned is "
        f"{'green' if is_coloured else f'between {open_mark}{close_mark}'}:"
    )
    for number in permutation(len(stream), seed, "data", name, 0)[:SHOWN_ROWS]:
        example = stream.example(number)
        shown = Text(f"  {stream.locate(number)}: ")
        if loaded.head:
            is_class = bool(loaded.head.labels)
            learned = (
                loaded.head.labels[example["labels"][-1]] if is_class else example.get("target")
            )
            shown.append(console.neutralize(f"{loaded.tokenizer.decode(example['input_ids'])} "))
            shown.append(console.neutralize(f"{open_mark}{learned}{close_mark}"), "black on green")
            terminal.print(shown)
            continue
        tokens = zip(example["input_ids"], example["labels"], strict=True)
        for is_learned, run in itertools.groupby(tokens, key=lambda pair: pair[1] != IGNORED):
            text = console.neutralize(loaded.tokenizer.decode([token for token, _ in run])).replace(
                "\n",
                "⏎\n    ",
            )
            if is_learned:
                shown.append(f"{open_mark}{text}{close_mark}", "black on green")
            else:
                shown.append(text, "dim")
        terminal.print(shown)


def check_suites(config: schema.RunConfig, loaded: LoadedModel, streams: dict[str, Stream]) -> None:
    """Plans every suite as the run would: which metrics, on how many rows, and which are absent and
    why."""

    planned, notes = suites.plan_suites(config, loaded, streams)
    for sentence in notes:
        console.say(f"note        {sentence}")
    for name, plan in planned.items():
        print(
            f"suite       {name}: "
            f"{', '.join(metric for metric in plan.metric_names if metric in plan.metrics)}"
        )
        for role, rows in plan.rows.own.items():
            measured, count = plan.rows.subset_sizes.get(role, (len(rows.row_numbers),) * 2)
            num_rows = (
                f"{measured:,} of {format_count(count, 'row')}"
                if measured < count
                else format_count(count, "row")
            )
            console.say(f"measured    {role}: {num_rows} of {rows.where}")
        for metric, reason in plan.absent.items():
            console.say(f"absent      {metric}: {reason}")
