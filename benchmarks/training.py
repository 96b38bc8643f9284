"""Supervised fine-tuning: unteach, against a plain transformers.Trainer and TRL's SFTTrainer.

    python benchmarks/training.py [tofu_path=FOLDER] [model=FOLDER] [batch=4] [accumulation=4]
    [steps=8] [dtype=float32]

All ways start from the same weights, take the same optimiser steps on the same tokenised rows (a
question, an answer that is learned), with the same AdamW, clipping and schedule. Each has a process
of its own, and they take a step in turn, so that a change of the machine's load falls on all of
them. The losses of each step are compared. Without `model` it is a random Llama (8 layers of width
256, a tokenizer of 8,192 learned from the rows).
"""

import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unteach.config.compose import compose
from unteach.config.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
import transformers  # noqa: E402

from unteach.config.schema import ModelConfig  # noqa: E402
from unteach.data.handlers.qa import QADataset  # noqa: E402
from unteach.data.io.sources import load_rows  # noqa: E402
from unteach.data.steps import Steps  # noqa: E402
from unteach.data.streams import Stream  # noqa: E402
from unteach.models.loading import load  # noqa: E402
from unteach.models.model_handlers import learn_tokenizer  # noqa: E402
from unteach.training.callbacks import Watcher  # noqa: E402

TOLERANCE = {"float32": 2e-4, "bfloat16": 3e-2}


@dataclasses.dataclass
class Settings:
    tofu_path: str = "authors"
    model: str = ""
    batch: int = 4
    accumulation: int = 4
    steps: int = 8
    dtype: str = "float32"
    layers: int = 8
    width: int = 256
    vocab: int = 8192
    ways: str = "transformers,trl,ours,ours packed"

    @property
    def size(self) -> int:
        return self.batch * self.accumulation


@dataclasses.dataclass
class Step:
    """One optimiser step: seconds on the clock and of the processor, bytes at its peak above those
    before, its loss."""

    wall: float
    cpu: float
    peak: int
    loss: float


class Turns(Watcher):
    """Waits for its turn before each step, and tells what the step took."""

    def __init__(self, pipe: Any, before: int):
        self.pipe, self.before, self.told = pipe, before, None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        # the first step of a turn; what came before was making the trainer ready
        if self.told is None:
            self.pipe.recv()
            self._start()

    def _start(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.told = (time.perf_counter(), time.process_time())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.told is None or "loss" not in (logs or {}):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - self.told[0], time.process_time() - self.told[1]
        held = (
            torch.cuda.max_memory_allocated()
            if torch.cuda.is_available()
            else resident("VmHWM") - self.before
        )
        self.pipe.send(Step(wall, cpu, held, float(logs["loss"])))
        self.told = None
        if state.global_step < state.max_steps:
            self.pipe.recv()
            self._start()


def resident(line: str) -> int:
    """Bytes that Linux counts for this process: VmRSS now, VmHWM at the peak."""
    said = next(
        said for said in Path("/proc/self/status").read_text().splitlines() if said.startswith(line)
    )
    return int(said.split()[1]) * 1024


def random_model(folder: Path, settings: Settings) -> None:
    rows = load_rows({"path": settings.tofu_path, "name": "full", "split": "train"})
    tokenizer = learn_tokenizer(
        [f"{row['question']} {row['answer']}" for row in rows], settings.vocab
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.width * 11 // 4,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // 64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def words(settings: Settings, folder: str, out: Path, packed: bool) -> list[str]:
    return [
        "experiment=finetune/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={folder}",
        f"tofu_path={settings.tofu_path}",
        "task_name=b",
        f"paths.output_dir={out}",
        f"paths.cache_dir={out}/cache",
        "eval=null",
        f"trainer.args.max_steps={settings.steps}",
        "trainer.args.save_strategy=no",
        "template=qa",
        f"trainer.args.per_device_train_batch_size={settings.batch}",
        "trainer.args.logging_steps=1",
        f"trainer.args.gradient_accumulation_steps={settings.accumulation}",
        f"model.packed={str(packed).lower()}",
        f"model.model_args.dtype={settings.dtype}",
        "trainer.args.learning_rate=1e-4",
        "trainer.args.lr_scheduler_type=constant",
        "trainer.args.warmup_epochs=0",
        "trainer.args.weight_decay=0",
    ]


def drawn(settings: Settings, folder: str) -> list[dict[str, list[int]]]:
    """The rows of all steps, tokenised, in the order in which unteach draws them."""
    loaded = load(ModelConfig({"pretrained_model_name_or_path": folder}), training=False)
    loaded.template.kind = "qa"
    made = QADataset(
        loaded.template, {"path": settings.tofu_path, "name": "full", "split": "train"}
    )
    steps = Steps({"train": Stream("train", [made])}, "train", settings.size, 0)
    rows = [
        row
        for step in range(settings.steps)
        for row, _ in steps.draw(*divmod(step, len(steps)))["train"]
    ]
    return [
        {"input_ids": list(made[row]["input_ids"]), "labels": list(made[row]["labels"])}
        for row in rows
    ]


def ours(settings: Settings, folder: str, rows: Any, turns: Turns, packed: bool = False) -> None:
    from unteach.training import watching
    from unteach.verbs import train

    real = watching.build_watchers
    watching.build_watchers = lambda *given: [*real(*given), turns]
    with tempfile.TemporaryDirectory() as out:
        train.run(compose("train", words(settings, folder, Path(out) / "run", packed)))


def theirs(settings: Settings, folder: str, out: str) -> dict[str, Any]:
    """Training arguments of the two others: the same run, and nothing that we do not do either."""
    return {
        "output_dir": out,
        "max_steps": settings.steps,
        "logging_steps": 1,
        "per_device_train_batch_size": settings.batch,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "train_sampling_strategy": "sequential",
        "disable_tqdm": True,
        "optim": "adamw_torch_fused",
        "max_grad_norm": 1.0,
        "use_cpu": not torch.cuda.is_available(),
        "seed": 0,
        "bf16": settings.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def plain(settings: Settings, folder: str, rows: Any, turns: Turns) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    collator = transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
    with tempfile.TemporaryDirectory() as out:
        args = transformers.TrainingArguments(**theirs(settings, folder, out))
        transformers.Trainer(
            model, args, data_collator=collator, train_dataset=rows, callbacks=[turns]
        ).train()


def trl_way(settings: Settings, folder: str, rows: Any, turns: Turns) -> None:
    import datasets
    import trl

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    table = datasets.Dataset.from_list(rows)
    with tempfile.TemporaryDirectory() as out:
        args = trl.SFTConfig(**theirs(settings, folder, out), max_length=None, packing=False)
        trl.SFTTrainer(
            model, args, train_dataset=table, processing_class=tokenizer, callbacks=[turns]
        ).train()


WAYS: dict[str, Callable[..., None]] = {
    "transformers": plain,
    "trl": trl_way,
    "ours": ours,
    "ours packed": lambda *given: ours(*given, packed=True),
}


def apart(settings: Settings, folder: str, rows: Any, way: str) -> Iterator[Step]:
    """The steps of one way, from a process forked for it alone, each made when it is asked for."""
    context = torch.multiprocessing.get_context("fork")
    dist, there = context.Pipe()

    def work() -> None:
        dist.close()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        WAYS[way](settings, folder, rows, Turns(there, resident("VmRSS")))

    child = context.Process(target=work, daemon=True)
    child.start()
    there.close()
    try:
        for _ in range(settings.steps):
            dist.send("go")
            yield dist.recv()
    finally:
        child.kill()
        child.join()


def padded_share(rows: list[dict[str, list[int]]], settings: Settings) -> float:
    """The share of positions that are padding where micro-batches are taken in the order of the
    rows."""
    batches = [rows[i : i + settings.batch] for i in range(0, len(rows), settings.batch)]
    wide = sum(len(batch) * max(len(row["input_ids"]) for row in batch) for batch in batches)
    return 1 - sum(len(row["input_ids"]) for row in rows) / wide


def main(given: dict[str, str]) -> None:
    kinds = {field.name: field.type for field in dataclasses.fields(Settings)}
    settings = Settings(
        **{name: int(value) if kinds[name] is int else value for name, value in given.items()}
    )
    ways = settings.ways.split(",")
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder = settings.model or made
        if not settings.model:
            random_model(Path(folder), settings)
        rows = drawn(settings, folder)
        tokens = [
            sum(len(r["input_ids"]) for r in rows[i : i + settings.size])
            for i in range(0, len(rows), settings.size)
        ]
        count = sum(
            p.numel()
            for p in transformers.AutoModelForCausalLM.from_pretrained(folder).parameters()
        )
        running = {
            way: stack.enter_context(contextlib.closing(apart(settings, folder, rows, way)))
            for way in ways
        }
        found: dict[str, list[Step]] = {way: [] for way in ways}
        for _ in range(settings.steps):
            for way, steps in running.items():
                found[way].append(next(steps))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {settings.dtype}; "
        f"{count / 1e6:.1f} M parameters"
    )
    print(
        f"{settings.size} rows a step ({settings.batch} x {settings.accumulation}), "
        f"{statistics.mean(tokens):.0f} tokens a step, {padded_share(rows, settings):.0%} padding "
        f"in the order of "
        f"the rows; {settings.steps - 1} steps after the first\n"
    )
    print(
        "| way | tokens/s | tokens/CPU s | step/ours (wall) | step/ours (CPU) | peak, MiB |\n|---|"
        + "---:|" * 5
    )
    base = "ours" if "ours" in ways else ways[0]
    for way in ways:
        wall, cpu = (
            sum(getattr(step, name) for step in found[way][1:]) for name in ("wall", "cpu")
        )
        of_wall, of_cpu = (
            statistics.median(
                getattr(a, n) / getattr(b, n)
                for a, b in zip(found[way][1:], found[base][1:], strict=True)
            )
            for n in ("wall", "cpu")
        )
        peak = max(step.peak for step in found[way][1:]) / 2**20
        print(
            f"| {way} | {sum(tokens[1:]) / wall:.0f} | {sum(tokens[1:]) / cpu:.0f} | {of_wall:.2f} "
            f"| {of_cpu:.2f} | {peak:.0f} |"
        )
    worst = max(
        abs(step.loss - other.loss) / other.loss
        for way in ways
        for step, other in zip(found[way], found[base], strict=True)
    )
    print(f"\nlargest relative difference of a step's loss: {worst:.1e}")
    if worst > TOLERANCE[settings.dtype]:
        sys.exit("the ways do not compute the same")


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
