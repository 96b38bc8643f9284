"""Show what the model says while it trains: continuations of some rows' prompts, with the answers
that the rows have."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from unteach import json_files
from unteach.config import watching
from unteach.data.examples import Example
from unteach.data.streams import Stream
from unteach.engines.base import Ids
from unteach.engines.hf import HFEngine
from unteach.errors import name_file
from unteach.lazy import torch
from unteach.models.forward import IGNORED
from unteach.models.loading import LoadedModel
from unteach.training.callbacks import Watcher
from unteach.training.guard import NeverPreempted

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FILE = "samples.jsonl"


class SampleLine(TypedDict):
    """One line of `samples.jsonl`."""

    step: int
    row: int
    prompt: str
    answer: str
    said: str


class SampleFile(Watcher):
    """Generate continuations every few steps, and append a line for each row to `samples.jsonl`.

    Every process generates all rows, so that sharded weights are gathered by all at once; the main
    one writes. The random numbers of training are left as they were.

    Args:
        samples: which rows, how often, and how they are sampled.
        loaded: the model that is trained.
        stream: whose first rows are shown.
        run_folder: in which the file is.
        seed: of the sampling.
    """

    def __init__(
        self,
        samples: watching.Samples,
        loaded: LoadedModel,
        stream: Stream,
        run_folder: Path,
        seed: int,
    ):
        self.samples = samples
        self.loaded = loaded
        self.path = run_folder / FILE
        self.seed = seed
        dist = NeverPreempted(0, 1, None, None)
        self.engine = HFEngine(
            loaded.model, loaded.tokenizer, samples.rows, dist, stops=loaded.template.stops
        )
        num_rows = min(samples.rows, len(stream))
        self.pairs = [split_example(stream.example(row)) for row in range(num_rows)]
        self.newest: list[SampleLine] = []

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if state.is_world_process_zero:
            json_files.truncate_after_step(self.path, state.global_step or -1)
        if self.samples.every and not state.global_step:
            self.write_samples(args, state)

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if self.samples.every and state.global_step % self.samples.every == 0:
            self.write_samples(args, state)

    def on_evaluate(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if not self.samples.every:
            self.write_samples(args, state)

    def write_samples(self, args: "TrainingArguments", state: "TrainerState") -> None:
        """Generate a continuation of each prompt, append them to the file, and log them to the
        trackers."""
        prompts = [prompt for prompt, _ in self.pairs]
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices), self.loaded.autocast():
            continuations = self.engine.generate(
                prompts, self.samples.max_new_tokens, **self._build_sampling()
            )
        if not state.is_world_process_zero:
            return
        decode = self.loaded.template.decode
        self.newest = []
        pairs = zip(self.pairs, continuations, strict=True)
        for row, ((prompt, answer), continuation) in enumerate(pairs):
            line = SampleLine(
                step=state.global_step,
                row=row,
                prompt=decode(prompt),
                answer=decode(answer),
                said=decode(continuation),
            )
            self.newest.append(line)
        with name_file(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in self.newest)
        # Whatever the user set, the library makes it a list.
        trackers = cast("list[str]", args.report_to)
        log_samples(self.newest, state.global_step, self.path.parent, trackers)

    def _build_sampling(self) -> dict[str, Any]:
        """Build the engine's arguments for sampling; none for greedy continuations."""
        samples = self.samples
        if samples.temperature == 0:
            return {}
        sampling: dict[str, Any] = {"do_sample": True, "seed": self.seed}
        for name in ("temperature", "top_p", "top_k"):
            value = getattr(samples, name)
            if value is not None:
                sampling[name] = value
        return sampling


def split_example(example: Example) -> tuple[Ids, Ids]:
    """Split an example into prompt and answer; a text that is learned from its beginning, into two
    halves."""
    token_ids = tuple(int(token_id) for token_id in example["input_ids"])
    label_columns = [
        column for column, label in enumerate(example["labels"]) if int(label) != IGNORED
    ]
    start = label_columns[0] if label_columns else 0
    if start <= 1:
        start = max(1, len(token_ids) // 2)
    return token_ids[:start], token_ids[start:]


def log_samples(lines: list[SampleLine], step: int, run_folder: Path, trackers: list[str]) -> None:
    """Log the texts of one step to the trackers of a run."""
    if "wandb" in trackers:
        import wandb

        columns: list[Any] = ["step", "row", "prompt", "answer", "said"]
        rows = []
        for line in lines:
            rows.append([line["step"], line["row"], line["prompt"], line["answer"], line["said"]])
        table = wandb.Table(columns=columns, data=rows)
        if wandb.run:
            wandb.log({"samples": table, "train/global_step": step})
    if "tensorboard" in trackers:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run_folder / "logs")) as writer:
            for line in lines:
                text = f"{line['prompt']}\n\n**{line['said']}**\n\n(true: {line['answer']})"
                writer.add_text(f"samples/{line['row']}", text, step)
