"""What the model says while it trains: continuations of some rows' prompts, beside the answers they
have."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import json_files
from unteach.config import watching
from unteach.data.streams import Stream
from unteach.engines.hf import HFEngine
from unteach.errors import name_file
from unteach.lazy import torch
from unteach.models.forward import IGNORED
from unteach.models.loading import LoadedModel
from unteach.training.callbacks import Watcher
from unteach.training.guard import Unasked

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FILE = "samples.jsonl"


class SampleFile(Watcher):
    """Generates at each look and appends a line a row to `samples.jsonl`: step, row, prompt,
    answer, said.

    Every process generates all rows, so that sharded weights are gathered by all at once; the first
    one writes. Random numbers of training are left as they were.
    """

    def __init__(
        self,
        samples: watching.Samples,
        loaded: LoadedModel,
        stream: Stream,
        folder: Path,
        seed: int,
    ):
        self.samples, self.loaded, self.path, self.seed = samples, loaded, folder / FILE, seed
        alone = Unasked(0, 1, None, None)
        self.engine = HFEngine(
            loaded.model, loaded.tokenizer, samples.rows, alone, stops=loaded.template.stops
        )
        self.pairs = [halves(stream.example(n)) for n in range(min(samples.rows, len(stream)))]
        self.newest: list[dict[str, Any]] = []

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
            self.look(args, state)

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if self.samples.every and state.global_step % self.samples.every == 0:
            self.look(args, state)

    def on_evaluate(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if not self.samples.every:
            self.look(args, state)

    def look(self, args: Any, state: Any) -> None:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices), self.loaded.autocast():
            said = self.engine.generate(
                [p for p, _ in self.pairs], self.samples.max_new_tokens, **self._drawing()
            )
        if not state.is_world_process_zero:
            return
        text = self.loaded.template.decode
        self.newest = [
            {
                "step": state.global_step,
                "row": row,
                "prompt": text(prompt),
                "answer": text(answer),
                "said": text(ids),
            }
            for row, ((prompt, answer), ids) in enumerate(zip(self.pairs, said, strict=True))
        ]
        with name_file(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.newest))
        show(self.newest, state.global_step, self.path.parent, args.report_to)

    def _drawing(self) -> dict[str, Any]:
        asked = self.samples
        if asked.temperature == 0:
            return {}
        given = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k}
        return {
            "do_sample": True,
            "seed": self.seed,
            **{k: v for k, v in given.items() if v is not None},
        }


def halves(example: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A row's prompt and answer; of a text that is learned from its beginning, the first half and
    the second."""
    ids, labels = [int(i) for i in example["input_ids"]], [int(i) for i in example["labels"]]
    start = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
    start = start if start > 1 else max(1, len(ids) // 2)
    return tuple(ids[:start]), tuple(ids[start:])


def show(lines: list[dict[str, Any]], step: int, folder: Path, trackers: list[str]) -> None:
    """The texts of one look in the trackers of a run."""
    if "wandb" in trackers:
        import wandb

        columns: list[Any] = ["step", "row", "prompt", "answer", "said"]
        table = wandb.Table(
            columns=columns, data=[[line[name] for name in columns] for line in lines]
        )
        if wandb.run:
            wandb.log({"samples": table, "train/global_step": step})
    if "tensorboard" in trackers:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder / "logs")) as writer:
            for line in lines:
                text = f"{line['prompt']}\n\n**{line['said']}**\n\n(true: {line['answer']})"
                writer.add_text(f"samples/{line['row']}", text, step)
