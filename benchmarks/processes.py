"""Two processes against one, each of one thread, on two idle cores: training under `launch=ddp`,
evaluation of rows and inference.

    python benchmarks/processes.py [repeats=5] [verbs=train,eval,infer] [folder=saves/processes]

Each is a command of its own. What start-up takes is not what more processes are for: every command
runs with little work and with more, and what is compared is the time that the difference takes, on
the clock. One process and two take turns, `repeats` times; the medians count. A machine that has
other work is refused, as two processes would have one core. The model is a random Llama of 11
million parameters; the rows are those of scale.py.
"""

import shutil
import statistics
import sys
from pathlib import Path

import psutil
from children import run_unteach
from scale import write_rows

from inference import random_model

BUSY = 10
"""Percent of both cores that other work may take, at most, before a measurement."""
TRAIN = ["train", "data={rows}", "eval=null", "task_name=t", "trainer.args.logging_steps=1000"]
TRAIN += ["trainer.args.gradient_accumulation_steps=1", "trainer.args.save_strategy=no"]
WORDS = {
    "train": [*TRAIN, "trainer.args.per_device_train_batch_size={batch}"],
    "eval": ["eval", "data={rows}", "eval=rows", "task_name=e"],
    "infer": ["infer", "input_file={rows}", "output_file=answers.jsonl", "max_new_tokens=32"],
}
AMOUNTS = {"train": (4, 24), "eval": (500, 20_000), "infer": (100, 600)}
"""Steps, or rows: little work, and more."""
STEP_ROWS = 16


def wait_until_idle() -> None:
    """Wait until the machine has no other work.

    Raises:
        SystemExit: it has for minutes.
    """
    for _ in range(100):
        busy = psutil.cpu_percent(interval=2)
        if busy <= BUSY:
            return
    raise SystemExit(f"other work takes {busy:.0f} % of the cores")


def measure(verb: str, amount: int, num_processes: int, folder: Path) -> float:
    """Run one command, and give its seconds on the clock."""
    for name in ("saves", "answers.jsonl.parts"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("answers.jsonl", "answers.meta.json"):
        (folder / name).unlink(missing_ok=True)
    num_rows = STEP_ROWS * amount if verb == "train" else amount
    file = folder / f"{num_rows}.jsonl"
    if not file.exists():
        write_rows(file, num_rows)
    words = [word.format(rows=file, batch=STEP_ROWS // num_processes) for word in WORDS[verb]]
    words.append(f"model={folder}/model")
    if verb == "train":
        words.append(f"trainer.args.max_steps={amount}")
    if num_processes > 1:
        words += ["launch=ddp", f"nproc={num_processes}"]
    wait_until_idle()
    return run_unteach(words, folder, Path(__file__).parents[1] / "src").wall


def compare(verb: str, repeats: int, folder: Path) -> None:
    """Print what one process and two take for the difference between little work and more."""
    little, more = AMOUNTS[verb]
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for num_processes, measured in times.items():
            least = measure(verb, little, num_processes, folder)
            measured.append(measure(verb, more, num_processes, folder) - least)
    one, two = (statistics.median(measured) for measured in times.values())
    spread = f"{min(times[2]):.1f} to {max(times[2]):.1f}"
    print(f"| {verb} | {one:.1f} | {two:.1f} | {spread} | {one / two:.2f} |", flush=True)


def main(given: dict[str, str]) -> None:
    folder = Path(given.get("folder", "saves/processes")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        random_model(folder / "model", layers=6, width=384, ends=10**9)
    print("| verb | seconds of one process | of two | from, to | times as fast |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for verb in given.get("verbs", "train,eval,infer").split(","):
        compare(verb, int(given.get("repeats", 5)), folder)


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
