"""Files that are nearly right: each kind that unteach reads, damaged a little by a seed."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import torch
import yaml
from safetensors.torch import save

from unteach.config.inference import Sampling
from unteach.config.runfile import read_run_file
from unteach.data.io import tables, tokenized_paths
from unteach.data.template import load_saved_args
from unteach.data.tokenized import token_files
from unteach.export import weights
from unteach.inference.backends import openai_messages
from unteach.inference.backends.http_client import Refused
from unteach.report import origin
from unteach.studies import saved_plan
from unteach.studies.study_file import read_study
from unteach.verbs.start import start


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, what a whole one holds, and what reads it."""

    name: str
    make: Callable[[random.Random], bytes]
    read: Callable[[Path], object]


def rows_of(rng: random.Random) -> list[dict[str, object]]:
    texts = [
        "",
        "q",
        "é",
        "a,b",
        'say "x"',
        "line\nend",
        "\x1b[2J",
        "=1+1",
        "[/b]",
        "名前",
        "x" * 300,
    ]
    rows = [
        {"question": rng.choice(texts), "answer": rng.choice(texts)}
        for _ in range(rng.choice([1, 2, 30]))
    ]
    if rng.random() < 0.3:
        rows = [
            {
                **row,
                "messages": [{"role": "user", "content": "hi"}],
                "n": rng.choice([0, 1.5, None]),
            }
            for row in rows
        ]
    return rows


def make_csv(rng: random.Random) -> bytes:
    lines = [
        ",".join(f'"{cell}"'.replace("\n", " ") for cell in list(row.values())[:2])
        for row in rows_of(rng)
    ]
    return "\n".join(["question,answer", *lines, ""]).encode()


def make_jsonl(rng: random.Random) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows_of(rng)).encode()


def make_json(rng: random.Random) -> bytes:
    return json.dumps(rows_of(rng), ensure_ascii=rng.random() < 0.5).encode()


def make_table(rng: random.Random) -> pyarrow.Table:
    rows = rows_of(rng)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if rng.random() < 0.3:
        columns["when"] = pyarrow.array(
            [2**40] * len(rows), pyarrow.timestamp(rng.choice(["s", "us"]))
        )
    return pyarrow.table(columns)


def make_parquet(rng: random.Random) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(make_table(rng), sink)
    return sink.getvalue()


def make_arrow(rng: random.Random) -> bytes:
    return as_arrow(make_table(rng), rng)


def make_tokens(rng: random.Random) -> bytes:
    rows = [[rng.randrange(400) for _ in range(rng.randrange(1, 9))] for _ in range(5)]
    return as_arrow(pyarrow.table({"input_ids": rows, "labels": rows}), rng)


def as_arrow(table: pyarrow.Table, rng: random.Random) -> bytes:
    sink = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression=rng.choice([None, None, "lz4"]))
    make = rng.choice([pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
    with make(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def make_study(rng: random.Random) -> bytes:
    study = {
        "name": "s",
        "base": {"experiment": "pretrain/authors/base", "model": "tiny"},
        "full": {"experiment": "finetune/authors/default", "vary": {"seed": [0, 1]}},
        "retain": {"experiment": "finetune/authors/retain"},
        "forget": [
            {"trainer": "NPO", "trainer.method_args.beta": 0.5},
            {"trainer": "GradDiff", "from": "NPO"},
        ],
        "vary": {"seed": [0], "forget_split": ["forget10"]},
        "eval": ["tofu"],
        "evaluate": ["base"],
        "local": {"jobs": 2},
        "slurm": {"time": 60, "kinds": {"full": {"gpus": 1}}},
        "wandb": {"project": "p"},
    }
    return dump_swapped(study, rng)


def make_run_file(rng: random.Random) -> bytes:
    run = {
        "model": "m",
        "data": "a.csv",
        "trainer": "NPO",
        "trainer.args": {"learning_rate": "1e-4", "seed": 3},
    }
    return dump_swapped(run, rng)


def make_config(rng: random.Random) -> bytes:
    config = {
        "mode": "train",
        "model": {"model_args": {}},
        "paths": {"output_dir": "x"},
        "task_name": "t",
        "forget_set": {"a": 1},
    }
    return dump_swapped(config, rng)


ODD = [
    None,
    [],
    {},
    "",
    0,
    -1,
    1.5,
    True,
    "x",
    [1],
    {"a": 1},
    [[]],
    [None],
    2**70,
    float("nan"),
    "é\u202e",
    {1: 2},
]


def dump_swapped(value: dict, rng: random.Random) -> bytes:
    """Write a mapping as YAML, one of its values, at any depth, another."""
    place = value
    while rng.random() < 0.9:
        key = rng.choice(list(place))
        if isinstance(place[key], dict) and place[key] and rng.random() < 0.6:
            place = place[key]
            continue
        place[key] = rng.choice(ODD)
        break
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()


def swap_json(value: object, rng: random.Random) -> bytes:
    """Write JSON in which one value, at any depth, is another."""
    place = value
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and rng.random() < 0.7:
            place = place[key]
            continue
        place[key] = rng.choice([odd for odd in ODD if odd != {1: 2}])
        break
    return json.dumps(value).encode()


def make_metrics(rng: random.Random) -> bytes:
    lines = [{"step": step, "loss": 1.0, "a": rng.choice(["x", "[/b]", None])} for step in (1, 2)]
    return swap_json(lines[0], rng) + b"\n" + json.dumps(lines[1]).encode() + b"\n"


def make_answer(rng: random.Random) -> bytes:
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97]}]}
    choice = {
        "index": 0,
        "message": {"content": "a"},
        "finish_reason": "stop",
        "logprobs": logprobs,
    }
    return swap_json({"choices": [choice], "usage": {"prompt_tokens": 3, "total_tokens": 4}}, rng)


def make_plan(rng: random.Random) -> bytes:
    run = {
        "name": "a",
        "kind": "full",
        "config_name": "train",
        "overrides": ["paths.output_dir=x"],
        "after": [],
    }
    plan = {
        "name": "s",
        "source": "s.yaml",
        "words": [],
        "config_dirs": [],
        "local": {},
        "slurm": {},
        "runs": [run],
    }
    return swap_json(plan, rng)


def make_template(rng: random.Random) -> bytes:
    return swap_json(
        {"kind": "qa", "user_start_tag": "Q", "system_prompt": None, "apply_chat_template": False},
        rng,
    )


def make_index(rng: random.Random) -> bytes:
    return swap_json({"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "../y"}}, rng)


def make_weights(rng: random.Random) -> bytes:
    return save({"a": torch.ones(rng.randrange(1, 4), 2), "b": torch.zeros(3)})


def read_rows(file: Path) -> None:
    if tokenized_paths.is_tokenized(file):
        read_tokens(file)
        return
    for _ in tables.open_table(file):
        pass


def read_tokens(file: Path) -> None:
    for shard in token_files.read_shards(file):
        for row in range(len(shard)):
            shard.slice_ids(row), shard.build_labels(row)


def read_answer(file: Path) -> None:
    try:
        openai_messages.parse_answer(json.loads(file.read_bytes()), Sampling(perplexity=True))
    except (ValueError, RecursionError, Refused):  # what a server that speaks no protocol may cause
        return


def read_set(file: Path) -> None:
    """Read a saved set whose one Arrow file this is."""
    folder = file.parent / "set"
    datasets.Dataset.from_list([{"question": "a", "answer": "b"}]).save_to_disk(folder)
    file.replace(folder / "data-00000-of-00001.arrow")
    read_rows(folder)


KINDS = [
    Kind("rows.csv", make_csv, read_rows),
    Kind("rows.tsv", make_csv, read_rows),
    Kind("rows.txt", make_csv, read_rows),
    Kind("rows.jsonl", make_jsonl, read_rows),
    Kind("rows.json", make_json, read_rows),
    Kind("rows.parquet", make_parquet, read_rows),
    Kind("rows.arrow", make_arrow, read_rows),
    Kind("stream.arrow", make_arrow, read_rows),
    Kind("tokens.arrow", make_tokens, read_rows),
    Kind("set.arrow", make_arrow, read_set),
    Kind("study.yaml", make_study, lambda file: read_study(str(file))),
    Kind("run.yaml", make_run_file, lambda file: read_run_file(str(file))),
    Kind(
        "config.yaml",
        make_config,
        lambda file: (
            origin.read_config(file.parent),
            origin.describe_forget_set(origin.read_config(file.parent)),
        ),
    ),
    Kind("metrics.jsonl", make_metrics, lambda file: start("history", [str(file.parent)])),
    Kind("answer.json", make_answer, read_answer),
    Kind("plan.json", make_plan, lambda file: saved_plan.read(file.parent)),
    Kind("unteach_template.json", make_template, lambda file: load_saved_args(str(file.parent))),
    Kind("model.safetensors.index.json", make_index, lambda file: weights.read(file.parent)),
    Kind("model.safetensors", make_weights, lambda file: weights.read(file.parent)),
]

PIECES = [
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"\r",
    b"\n",
    b'"',
    b"'",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"\t",
    b"&a ",
    b"*a",
    b"!!python/name:os.system ",
    b"[" * 300,
    b"[" * 5000,
    b"{" * 300,
    b"1" * 5000,
    b"1e999",
    b"NaN",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\x1b]0;x\x07",
    b"- ",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change a few bytes, or none: some files only hold odd values."""
    changed = bytearray(content)
    for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 4, 8])):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(7):
            case 0:
                changed[place : place + 1] = bytes([rng.randrange(256)])
            case 1 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                changed[place - place % 4 : place - place % 4 + 4] = rng.choice(PIECES[-2:])
            case 3:
                del changed[place:]
            case 4:
                del changed[place : place + rng.randrange(64)]
            case 5:
                changed[place:place] = changed[max(0, place - rng.randrange(100)) : place]
            case _:
                changed[place:place] = rng.choice(PIECES)
    return bytes(changed)


def make(seed: int) -> tuple[Kind, bytes]:
    """Give the kind and the content of the file of a seed."""
    rng = random.Random(f"file {seed}")
    kind = rng.choice(KINDS)
    return kind, damage(kind.make(rng), rng)
