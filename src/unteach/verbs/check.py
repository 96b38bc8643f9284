"""`unteach check [train|unlearn|eval] [key=value …] [--print]`: everything about a run but the run.

Composes and validates the configuration, reads the data, shows the first batch of each stream with what is learned of
it, and says what is trained, how many steps there are and how much memory to expect. No weight is loaded.
--print shows the resolved configuration with where each value came from.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach import runs
from unteach.config import compose, provenance, schema
from unteach.config.environment import environment
from unteach.config.runfile import is_run_file
from unteach.errors import UserError, unknown
from unteach.launch import accelerated

VERBS = {"train": "train", "unlearn": "unlearn", "eval": "eval"}
SHOWN_ROWS = 2
"""Rows of each stream that are shown token by token."""


def command(
    words: list[str], config_name: str | None = None, config_dirs: Iterable[str] = (), printed: bool = False
) -> None:
    named = [word for word in words if "=" not in word and not word.startswith("~") and not is_run_file(word)]
    if len(named) > 1 or (named and named[0] not in VERBS):
        raise UserError(unknown("verb to check", " ".join(named), VERBS))
    overrides = [word for word in words if word not in named]
    name = config_name or VERBS[named[0] if named else "train"]
    environment()
    config = compose.compose(name, overrides, config_dirs, starting=True)
    if printed:
        print_tree(config.tree, provenance.origins(name, overrides, config_dirs))
        return
    if config.launch:
        accelerated.find(config.launch, config_dirs)
    check(config)


def print_tree(tree: dict[str, Any], origins: dict[str, str]) -> None:
    """The resolved configuration as YAML, each value with the file or command line that it came from."""
    from rich.console import Console
    from rich.markup import escape

    lines = provenance.annotated(tree, origins)
    width = min(72, max(len(line) for line, _ in lines))
    console = Console(soft_wrap=True, highlight=False)
    for line, origin in lines:
        console.print(f"{escape(f'{line:<{width}}')}  [dim]# {escape(origin)}[/dim]" if origin else escape(line))


def check(config: schema.Config) -> None:
    """Says all that can be known of a run before it starts; raises what the run itself would raise."""
    from unteach.data import files
    from unteach.models import loading

    folder = Path(config.paths.output_dir)
    print(f"run         {folder} ({standing(config, folder)})")
    config, said = files.settle(config)
    for sentence in said:
        print(f"file        {sentence}")
    if config.trainer is None or config.data is None:
        loaded = loading.load_empty(config.model)
        print(f"model       {said_of_model(loaded.model)}")
    else:
        check_training(config, folder)
        loaded = None
    if config.eval:
        check_suites(config, loaded)
    print("nothing was trained, and nothing was written")


def standing(config: schema.Config, folder: Path) -> str:
    """How the run's folder stands, as the run itself would find it."""
    if config.resume == "never":
        return "new; an old folder would be moved aside" if folder.exists() else "new"
    state = runs.open_run(folder, config.tree, config.resume)
    return {"new": "new", "again": "begun; would go on", "done": "finished", "back": "would go back"}[state]


def check_training(config: schema.Config, folder: Path) -> None:
    """Model, method, streams, steps, memory, and the first rows of each stream."""
    from unteach.data.streams import Steps
    from unteach.models import loading
    from unteach.training import build, forecast
    from unteach.training.step import make_ready

    assert config.trainer is not None and config.data is not None
    head = build.head_of(config)
    loaded = loading.load_empty(config.model, lambda: build.training_texts(config), head)
    streams, said = build.build_streams(config, loaded)
    anchor = build.anchor_of(config, streams)
    args = build.training_arguments(config, loaded.compute, len(streams[anchor]), folder)
    if not isinstance(config.trainer.method, schema.TheirTrainer):
        make_ready(loaded.model, config.trainer.method, config.seed, streams)
    print(f"model       {said_of_model(loaded.model)}; passes in {loaded.compute}")
    print(f"method      {config.trainer.handler}: {said_of_method(config.trainer.method)}")
    for name, stream in streams.items():
        print(f"stream      {name}: {forecast.said_of_stream(stream)}{' (sets the epoch)' if name == anchor else ''}")
    if config.data.streams.get("validation"):
        rows, told = build.build_rows(config, loaded, "validation")
        print(f"validation  {sum(map(len, rows)):,} rows")
        said += told
    for sentence in said:
        print(f"note        {sentence}")
    processes = config.nproc or args.world_size
    if config.launch:
        print(f"launch      {config.launch}, {processes} processes")
    steps = Steps(streams, anchor, build.step_size(args) // args.world_size * processes, config.seed)
    print(f"steps       {forecast.said_of_steps(args, len(steps), processes)}")
    print(f"memory      {forecast.said_of_memory(loaded, args, config.trainer.method, streams)}")
    for name, stream in streams.items():
        show_rows(loaded, name, stream, config.seed)


def said_of_model(model: Any) -> str:
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return f"{type(model).__name__}, {sum(p.numel() for p in parameters):,} parameters, {trained:,} of them trained"


def said_of_method(method: Any) -> str:
    if isinstance(method, schema.TheirTrainer):
        return "a transformers.Trainer of a plugin, with a loss and a data order of its own"
    kept = {kind if isinstance(kind, str) else "a frozen copy" for kind in method.reference().values()}
    compared = " and ".join(sorted(kept)).replace("logprobs", "answer log-probs, computed once") or "nothing"
    return f"{(type(method).__doc__ or '').strip().splitlines()[0]} Compares with: {compared}"


def show_rows(loaded: Any, name: str, stream: Any, seed: int) -> None:
    """The first rows that a step would draw of a stream: what is learned in green, what is only read dim."""
    from rich.console import Console
    from rich.text import Text

    from unteach.models.forward import IGNORED
    from unteach.seeds import permutation

    console = Console(soft_wrap=True, highlight=False)
    open_mark, close_mark = ("", "") if console.is_terminal else ("⟦", "⟧")
    print(
        f"first of {name}; what is learned is {'green' if console.is_terminal else f'between {open_mark}{close_mark}'}:"
    )
    for number in permutation(len(stream), seed, "data", name, 0)[:SHOWN_ROWS]:
        example = stream.example(number)
        shown = Text(f"  row {number}: ")
        if loaded.head:
            told = example.get("target") if not loaded.head.labels else loaded.head.labels[example["labels"][-1]]
            console.print(
                f"{shown}{loaded.tokenizer.decode(example['input_ids'])} {open_mark}{told}{close_mark}", markup=False
            )
            continue
        tokens = zip(example["input_ids"], example["labels"], strict=True)
        for learned, run in itertools.groupby(tokens, key=lambda pair: pair[1] != IGNORED):
            text = loaded.tokenizer.decode([token for token, _ in run]).replace("\n", "⏎\n    ")
            shown.append(f"{open_mark}{text}{close_mark}" if learned else text, "black on green" if learned else "dim")
        console.print(shown)


def check_suites(config: schema.Config, loaded: Any) -> None:
    """Plans every suite as the run would: which metrics, on how many rows, and which are absent and why."""
    from unteach.evals import suites
    from unteach.models import loading

    template = (loaded or loading.load_empty(config.model, None)).template
    for name, suite in config.eval.items():
        plan = suites.plan(suite, template)
        print(f"suite       {name}: {', '.join(metric for metric in plan.asked if metric in plan.metrics)}")
        for metric, reason in plan.absent.items():
            print(f"absent      {metric}: {reason}")
