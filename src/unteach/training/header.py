"""What a training run is, in a few lines: said by `unteach check`, and by the run itself before its
first step."""

import shlex
from collections.abc import Callable
from pathlib import Path

from unteach import console
from unteach.config import schema
from unteach.data.streams import Steps, Stream
from unteach.lazy import transformers
from unteach.methods.base import Method
from unteach.models.hub import PATH
from unteach.models.loading import LoadedModel
from unteach.training import checkpoint, forecast
from unteach.training.parallelism import step_size
from unteach.wording import counted

Line = tuple[str, str]
"""What a line is about, and what it says."""


def print_lines(lines: list[Line]) -> None:
    for label, text in lines:
        console.say(f"{label:<12}{text}")


def describe_training(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    args: "transformers.TrainingArguments",
    num_processes: int,
    num_validation_rows: int = 0,
    describe_stream: Callable[[Stream], str] = lambda stream: counted(len(stream), "row"),
) -> list[Line]:
    """Describe the model, the method, each stream, the steps, and how fast is learned.

    Args:
        describe_stream: what is said of a stream's rows; to count their tokens too is a pass over
            all of them.
    """
    path = config.model.model_args.get(PATH)
    lines = [
        ("model", f"{f'{path}: ' if path else ''}{describe_model(loaded)}"),
        ("method", f"{config.trainer.handler}: {describe_method(config.trainer.method)}"),
    ]
    for name, stream in streams.items():
        lines.append(
            (
                "stream",
                f"{name}: {describe_stream(stream)}{' (sets the epoch)' if name == anchor else ''}",
            )
        )
    if num_validation_rows:
        lines.append(("validation", counted(num_validation_rows, "row")))
    if config.launch:
        lines.append(("launch", f"{config.launch}, {num_processes} processes"))
    rows_per_process = step_size(args) // args.world_size
    steps = Steps(streams, anchor, rows_per_process * num_processes, config.seed)
    lines.append(("steps", forecast.said_of_steps(args, len(steps), num_processes)))
    lines.append(("learning", forecast.describe_learning(args, len(steps))))
    return lines


def describe_model(loaded: LoadedModel) -> str:
    """Name the class of the model, its size, how much of it trains, and its precisions."""
    parameters = list(loaded.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    weights = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters}))
    return (
        f"{type(loaded.model).__name__}, {sum(p.numel() for p in parameters):,} parameters, "
        f"{trained:,} of them trained; weights in {weights}, passes in {loaded.compute}"
    )


def describe_method(method: Method | schema.TheirTrainer) -> str:
    """Give the first line of a method's documentation, and what it compares the model with."""
    if isinstance(method, schema.TheirTrainer):
        return "a transformers.Trainer of a plugin, with a loss and a data order of its own"
    kept = {
        kind if isinstance(kind, str) else "a frozen copy" for kind in method.reference().values()
    }
    compared = (
        " and ".join(sorted(kept)).replace("logprobs", "answer log-probs, computed once")
        or "nothing"
    )
    return f"{(type(method).__doc__ or '').strip().splitlines()[0]} Compares with: {compared}"


def print_header(
    config: schema.TrainConfig,
    folder: Path,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    args: "transformers.TrainingArguments",
    num_validation_rows: int,
    start: Path | None,
) -> None:
    """Say what a run is that is about to train, and from which checkpoint it goes on.

    Where no bar is drawn, it also says how the run's log is read meanwhile.
    """
    lines = [("run", f"{config.mode} {folder}")]
    lines += describe_training(
        config, loaded, streams, anchor, args, args.world_size, num_validation_rows
    )
    if start:
        steps = forecast.num_steps(args, len(Steps(streams, anchor, step_size(args), config.seed)))
        lines.append(("goes on", f"from step {checkpoint.step_of(start):,} of {steps:,} ({start})"))
    if not console.is_live():
        lines.append(("meanwhile", shlex.join(["unteach", "history", str(folder)])))
    print_lines(lines)
