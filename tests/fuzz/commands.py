"""Command lines that are nearly right, by a seed."""

import random

from tests.config.test_fuzz import BROKEN, INTERPOLATED, PLAIN

MODEL = "model=./tiny"
STARTS = [
    ["check", "train", "data=q.csv", MODEL],
    ["check", "train", "data=files", "data.train_file=q.csv", "task_name=t", MODEL],
    ["check", "unlearn", "trainer=NPO", "forget=q.csv", "retain=q.csv", MODEL],
    ["check", "eval", "data=q.csv", MODEL],
    ["check", "train", "experiment=finetune/authors/default", "model=tiny", "--print"],
    ["infer", MODEL, "data=q.csv", "max_new_tokens=2"],
    ["infer", MODEL, "input_file=q.csv", "kind=score", "input_column=question"],
    ["tokenize", "data=q.csv", MODEL, "output_file=tok"],
    ["study", "plan", "s.yaml"],
    ["study", "status", "s.yaml"],
    ["study", "plan", "s.yaml", "--write", "jobs"],
    ["export", "tiny", "to=x"],
    ["history", "h"],
    ["report", "h"],
    ["compare", "h", "tiny"],
    ["world", "to=w", "n_authors=4"],
    ["ask", MODEL, "Who?"],
    ["list", "methods"],
    ["fetch"],
    ["check", "train", "run.yaml"],
    [],
]
KEYS = [
    "seed",
    "task_name",
    "model",
    "data",
    "trainer",
    "eval",
    "launch",
    "resume",
    "plugins",
    "template",
    "paths.output_dir",
    "paths.cache_dir",
    "trainer.args.learning_rate",
    "trainer.args.max_steps",
    "trainer.args.per_device_train_batch_size",
    "trainer.args.warmup_ratio",
    "trainer.args.report_to",
    "trainer.method_args.beta",
    "data.train_file",
    "data.validation_file",
    "data.validation_fraction",
    "data.max_rows",
    "data.columns",
    "data.max_length",
    "data.packing",
    "model.model_args",
    "model.model_args.dtype",
    "model.peft_args",
    "model.peft_args.r",
    "model.template_args",
    "input_file",
    "input_column",
    "output_file",
    "kind",
    "backend",
    "backend_args",
    "batch_size",
    "max_new_tokens",
    "temperature",
    "num_return_sequences",
    "input_template",
    "columns",
    "tokenizer_path",
    "max_length",
    "vary",
    "slurm.time",
    "slurm.kinds.full",
    "slurm.setup",
    "wandb.project",
    "name",
    "out",
    "to",
    "title",
    "x",
    "y",
    "suite",
    "config",
    "n_authors",
    "banks",
    "questions",
    "forget",
    "retain",
    "holdout",
    "forget_split",
    "guard",
    "trainer.guard.every",
]
OUTSIDE = {"/", "..", "~", "/dev/null", "${oc.env:HOME}"}
"""Places that are not this test's to write to."""
VALUES = [
    *(value for value in [*PLAIN, *INTERPOLATED] if value not in OUTSIDE),
    "9" * 400,
    "1" * 5000,
    "[" * 200 + "]" * 200,
    "x" * 300,
    "x/" * 300,
    "q.csv",
    "tiny",
    "./tiny",
    "h",
    "s.yaml",
    "/proc/x",
    ".",
    "'a\nb'",
    "'\x1b[2J'",
    "'[/b]'",
    "{path: q.csv}",
    "{path: json, data_files: q.csv}",
    "org/name",
    "org/name:test",
    "q.csv:train",
    "hf_" + "a" * 20,
    "1e999",
    "nan",
    "-5",
    "'$(touch PWNED)'",
    '"it\'s"',
    "q.jsonl",
    "''",
    "cuda:0",
    "bf16",
    "ddp",
    "csv",
    "x.csv",
    "x.jsonl",
    "x.html",
]
WORDS = [
    *BROKEN,
    "--help",
    "--print",
    "--write",
    "--config-dir",
    "--config-dir=h",
    "--config-name=unlearn",
    "--config",
    "-m",
    "--x",
    "s.yaml",
    "q.csv",
    "\x00",
    "é",
    "🙂",
]


def make(seed: int) -> list[str]:
    """Give the words of a seed: a command that would work, with a few words more, fewer or
    changed."""
    rng = random.Random(f"command {seed}")
    words = list(rng.choice(STARTS))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 5])):
        place = rng.randrange(len(words) + 1)
        match rng.randrange(8):
            case 0 if words:
                del words[place - 1]
            case 1 if words:
                word = words[place - 1]
                cut = rng.randrange(len(word) + 1)
                words[place - 1] = (
                    word[:cut]
                    + rng.choice(["", "=", "'", "[", "{", "é", "\x1b", ".", "a"])
                    + word[cut:]
                )
            case 2:
                words.insert(max(place, 1), rng.choice(WORDS))
            case _:
                words.append(f"{rng.choice(KEYS)}={rng.choice(VALUES)}")
    return [word.replace("\x00", "") for word in words]  # which no shell can give
