"""Documents and chats of pseudo-random words, and a tiny model that is taught them by heart."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from unteach.data.synthetic import authors
from unteach.verbs.start import start

from .conftest import random_llama

CHAT = (
    "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
Row = dict[str, Any]


def write_text(rng: random.Random, num_words: int) -> str:
    """Write a text in which no word says which one is next."""
    vocabulary = set()
    for row in authors.build_rows("full")[:200]:
        vocabulary |= {word for word in row["answer"].split() if word.isalpha()}
    return " ".join(rng.choices(sorted(vocabulary), k=num_words)) + "."


def build_documents(count: int, seed: int) -> list[Row]:
    """Build documents of one passage each."""
    rng = random.Random(seed)
    return [{"text": write_text(rng, 40)} for _ in range(count)]


def build_chats(count: int, seed: int) -> list[Row]:
    """Build chats of two questions with their answers, after a system prompt."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        turns = [{"role": "system", "content": f"Be {write_text(rng, 2)}"}]
        for _ in range(2):
            turns.append({"role": "user", "content": f"What of {write_text(rng, 4)}"})
            turns.append({"role": "assistant", "content": write_text(rng, 8)})
        rows.append({"messages": turns})
    return rows


def write_rows(file: Path, rows: list[Row]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def teach_by_heart(folder: Path, build: Callable[[int, int], list[Row]], *words: str) -> Path:
    """Write rows to go, to keep and never taught into a folder, and teach a tiny model the first
    two until it knows them by heart: `run` there."""
    taught = build(12, 0)
    write_rows(folder / "gone.jsonl", taught[:8])
    write_rows(folder / "kept.jsonl", taught[8:])
    write_rows(folder / "unseen.jsonl", build(8, 1))
    random_llama(folder / "start", 64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "start")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder / "start")
    own = [
        f"model={folder / 'start'}",
        f"data={write_rows(folder / 'all.jsonl', taught)}",
        "trainer.args.learning_rate=3e-3",
        "trainer.args.num_train_epochs=60",
        "trainer.args.per_device_train_batch_size=6",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.lr_scheduler_type=constant",
        "trainer.args.save_strategy=no",
        "eval=null",
        "task_name=taught",
        f"paths.output_dir={folder / 'run'}",
    ]
    start("train", [*own, *words])
    return folder


def read_lines(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()]
