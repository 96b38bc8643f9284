"""Tokenised files: what is in them, that they are written whole or not at all, and that training
from them is the same."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch

from tests.data.io.test_tables import write
from tests.doors import train
from unteach import json_files, run_dir
from unteach.config import compose, schema
from unteach.config.tokenize import TokenizeConfig
from unteach.data import user_files
from unteach.data.io import tokenized_paths
from unteach.data.template import Template
from unteach.data.tokenized import recipe, token_files, tokenize_files
from unteach.errors import UserError
from unteach.training.build_model import read_training_texts
from unteach.training.build_streams import build_streams
from unteach.verbs.tokenize import run as tokenize

ROWS = [
    {"prompt": f"What is {i}? " * (1 + i % 4), "generation": f"It is {i}. " * (1 + i % 7)}
    for i in range(40)
]
MODEL = "model.model_args.pretrained_model_name_or_path=MODEL"
WORDS = (
    "data=files",
    "model=auto",
    MODEL,
    "eval=null",
    "trainer.args.max_steps=3",
    "trainer.args.learning_rate=1e-2",
)
POLICIES = ("truncate_right", "truncate_left", "drop", "split")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tokenize_files, "CHUNK_ROWS", 7)
    monkeypatch.setattr(tokenize_files, "SHARD_TOKENS", 300)
    (tmp_path / "MODEL").symlink_to(tiny_folder)
    write(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def make(output: str = "tokens", **given: Any) -> Path:
    told = {"input_file": "rows.jsonl", "max_length": 32, "num_proc": 1, **given}
    return tokenize(TokenizeConfig(output_file=output, tokenizer_path="MODEL", **told))


def examples(loaded: Any, *words: str) -> tuple[list[tuple[list[int], list[int]]], list[str]]:
    config = user_files.resolve_files(compose.compose("train", (*WORDS, "task_name=t", *words)))
    kind = config.model.template_args.kind
    if kind != "auto":
        loaded.template.kind = kind
        loaded.template.args = replace(loaded.template.args, kind=kind)
    streams, said = build_streams(config, loaded)
    rows = (streams["train"].example(number) for number in range(len(streams["train"])))
    return [(list(map(int, row["input_ids"])), list(map(int, row["labels"]))) for row in rows], said


@pytest.fixture
def loaded(tiny_folder: Path) -> Any:
    from unteach.config.schema import ModelConfig
    from unteach.models.loading import load

    return load(ModelConfig({"pretrained_model_name_or_path": str(tiny_folder)}), training=False)


@pytest.mark.parametrize("too_long", POLICIES)
@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_examples_as_on_the_fly(
    place: Path, loaded: Any, too_long: Any, processes: int
) -> None:
    folder = make(too_long=too_long, num_proc=processes)
    told = token_files.read_manifest(folder)
    assert len(told["shards"]) > (too_long != "drop") and told["rows"]["read"] == len(ROWS)
    from_tokens, _ = examples(loaded, f"data.train_file={folder}")
    from_rows, said = examples(
        loaded, "data.train_file=rows.jsonl", "data.max_length=32", f"data.too_long={too_long}"
    )
    assert from_tokens == from_rows
    assert told["examples"] == len(from_rows) == sum(told["lengths"].values())
    assert told["tokens"] == sum(len(ids) for ids, _ in from_rows)
    assert told["learned"] == sum(label != -100 for _, labels in from_rows for label in labels)
    assert told["longest"] == max(len(ids) for ids, _ in from_rows)
    lost = len(ROWS) - told["rows"]["kept"] + told["rows"]["cut"]
    assert (
        (lost > 0)
        == (too_long != "split")
        == any("cut" in note or "dropped" in note for note in said)
    )


@pytest.mark.parametrize("packing", ["chunked", "apart", "best_fit"])
def test_text_is_packed_from_tokens_as_from_rows(place: Path, loaded: Any, packing: str) -> None:
    write(place / "rows.jsonl", [{"text": row["prompt"] + row["generation"]} for row in ROWS])
    words = ("trainer=pretrain", f"data.packing={packing}")
    folder = make()
    assert token_files.read_manifest(folder)["kind"] == "text"
    from_tokens, _ = examples(loaded, *words, f"data.train_file={folder}")
    assert (
        from_tokens
        == examples(loaded, *words, "data.train_file=rows.jsonl", "data.max_length=32")[0]
    )
    held = ("data.validation_fraction=0.25", "data.max_rows.train=11")
    some, _ = examples(loaded, *words, *held, f"data.train_file={folder}")
    assert (
        some
        == examples(loaded, *words, *held, "data.train_file=rows.jsonl", "data.max_length=32")[0]
        != from_tokens
    )


def test_conversations_keep_the_turns_that_are_learned(place: Path, loaded: Any) -> None:
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    loaded.tokenizer.save_pretrained(place / "CHAT")
    turns = [
        [
            ("user", f"Who is {i}?"),
            ("assistant", "Ann."),
            ("user", "Where?"),
            ("assistant", "Here."),
        ]
        for i in range(9)
    ]
    write(
        place / "rows.jsonl",
        [{"messages": [{"role": r, "content": c} for r, c in row]} for row in turns],
    )
    told = TokenizeConfig("rows.jsonl", "tokens", "CHAT", 128, num_proc=1)
    folder = tokenize(told)
    assert token_files.read_manifest(folder)["template"]["kind"] == "chat"
    loaded = replace(loaded, template=Template(loaded.tokenizer, schema.TemplateArgs(kind="chat")))
    from_tokens, _ = examples(loaded, f"data.train_file={folder}")
    assert from_tokens == examples(loaded, "data.train_file=rows.jsonl", "data.max_length=128")[0]
    learned = [label for label in from_tokens[0][1] if label != -100]
    assert loaded.tokenizer.decode(learned) == "Ann.</s>Here.</s>"


def test_alpaca_rows_are_those_of_training(
    place: Path, loaded: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In chunks too in which no row has an input."""
    rows: list[dict[str, Any]] = [
        {"instruction": f"Say {i}.", "output": f"{i}."} for i in range(20)
    ]
    rows[2] |= {"input": "aloud", "source": "a book"}
    for row in rows[7:14]:
        row["output"] = None
    write(place / "rows.jsonl", rows)
    folder = make(max_length=128)
    said = "".join(capsys.readouterr())
    assert (
        "note: rows.jsonl: nothing reads its text column source" in said
        and "7 rows dropped" in said
    )
    from_tokens, _ = examples(loaded, f"data.train_file={folder}")
    assert from_tokens == examples(loaded, "data.train_file=rows.jsonl", "data.max_length=128")[0]
    shown = loaded.tokenizer.decode(from_tokens[2][0])
    assert shown == "Question: Say 2.\naloud\nAnswer:\n2.</s>" and len(from_tokens) == 13


def test_what_a_template_does_not_show_is_named(
    place: Path, loaded: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    loaded.tokenizer.save_pretrained(place / "CHAT")
    turns = [{"from": "human", "value": "Who?", "name": "Bert"}, {"from": "gpt", "value": "Ann."}]
    write(place / "rows.jsonl", [{"conversations": turns}] * 10)
    tokenize(TokenizeConfig("rows.jsonl", "tokens", "CHAT", 128, num_proc=1))
    assert (
        "10 rows with name in a turn, which the chat template does not show (rows.jsonl, line 1, "
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("times", [1, 12], ids=["bytes", "two bytes"])
def test_rows_are_views_of_the_mapped_file_and_small(
    place: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Short rows, whose lengths fit a byte, and some that need two."""
    monkeypatch.setattr(tokenize_files, "SHARD_TOKENS", 1 << 24)
    monkeypatch.setattr(tokenize_files, "CHUNK_ROWS", 512)
    rows = [{"prompt": row["prompt"], "generation": row["generation"] * times} for row in ROWS * 50]
    write(place / "rows.jsonl", rows)
    folder = make(max_length=512)
    (shard,) = token_files.read_shards(folder)
    assert np.shares_memory(shard.slice_ids(3), shard.values) and shard.values.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        shard.values[0] = 1
    size = sum(file.stat().st_size for file in folder.iterdir())
    told = token_files.read_manifest(folder)
    assert told["tokens"] / told["examples"] > 20 and (told["longest"] > 255) == (times > 1)
    assert size / told["tokens"] <= 4.1


def test_the_same_run_as_tokenising_on_the_fly(place: Path) -> None:
    """Bit for bit."""
    folder = make()
    words = (*WORDS, "trainer.args.gradient_accumulation_steps=1")
    from_rows = train(*words, "data.train_file=rows.jsonl", "data.max_length=32", "task_name=rows")
    from_tokens = train(*words, f"data.train_file={folder}", "task_name=tokens")
    weights = [
        (run / run_dir.FINAL / "model.safetensors").read_bytes() for run in (from_rows, from_tokens)
    ]
    assert weights[0] == weights[1] != (place / "MODEL" / "model.safetensors").read_bytes()
    manifests = [
        json_files.read_json(run / run_dir.MANIFEST, "the manifest")
        for run in (from_rows, from_tokens)
    ]
    assert manifests[0]["data"] == manifests[1]["data"]
    assert list(manifests[1]["files"]) == [f"{folder}/{tokenized_paths.MANIFEST}"]
    assert (
        json_files.read_json(from_tokens / run_dir.FINAL / "unteach_template.json", "the template")[
            "kind"
        ]
        == "raw"
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_killed_half_way_and_run_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = contents(make("whole"))
    if (child := os.fork()) == 0:
        whole = tokenize_files._write_shard

        def until_the_third(folder: Path, number: int, made: Any) -> Any:
            return (
                whole(folder, number, made) if number < 2 else os.kill(os.getpid(), signal.SIGKILL)
            )

        tokenize_files._write_shard = until_the_third
        make(num_proc=2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (
        not (place / "tokens").exists()
        and (place / ".tokens.partial" / "tokens-00001.json").exists()
    )
    capsys.readouterr()
    assert contents(make()) == expected
    assert "tokens-00001" not in "".join(capsys.readouterr()), "what was whole is not made again"
    assert not (place / ".tokens.partial").exists()
    make()
    assert capsys.readouterr().out == "finished before: tokens\n"


def test_rows_that_changed_begin_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenize_files._write_shard

    def fails(folder: Path, number: int, made: Any) -> Any:
        if number == 1:
            raise OSError("no space left on device")
        return whole(folder, number, made)

    monkeypatch.setattr(tokenize_files, "_write_shard", fails)
    with pytest.raises(OSError, match="no space"):
        make()
    monkeypatch.setattr(tokenize_files, "_write_shard", whole)
    write(place / "rows.jsonl", ROWS[::-1])
    again = contents(make())
    shutil.rmtree(place / "tokens")
    assert again == contents(make())


def test_another_tokenizer_or_template_is_refused(place: Path, loaded: Any) -> None:
    folder = make()
    with pytest.raises(
        UserError, match=r"made with another template \(kind was 'raw' and is 'qa'\)"
    ):
        examples(loaded, f"data.train_file={folder}", "template=qa")
    loaded.tokenizer.add_tokens(["<new>"])
    with pytest.raises(
        UserError,
        match=r"tokens: made with the tokenizer of MODEL \(400 tokens\), and this model's",
    ):
        examples(loaded, f"data.train_file={folder}")


def test_what_tokens_cannot_do(place: Path, loaded: Any) -> None:
    folder = make()
    for words, said in {
        (
            "trainer=pretrain",
        ): "holds the tokens of prompts with answers, which this method is not trained on",
        ("trainer=csv_ga",): "which this method is not trained on",
        (
            "data.max_length=8",
        ): "data.max_length: nothing here takes it; it is for rows that are tokenised here",
    }.items():
        with pytest.raises(UserError, match=said):
            examples(loaded, f"data.train_file={folder}", *words)
    scratch = compose.compose(
        "train", ("data=files", f"data.train_file={folder}", "model=tiny", "task_name=t")
    )
    with pytest.raises(UserError, match="a tokenizer cannot be learned from tokens"):
        read_training_texts(user_files.resolve_files(scratch))
    shard = folder / "tokens-00000.arrow"
    whole = shard.read_bytes()
    for damaged in (whole[:-8], whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]):
        shard.write_bytes(damaged)
        with pytest.raises(
            UserError,
            match=r"tokens-00000.arrow: is not the shard that unteach_tokens.json tells of",
        ):
            examples(loaded, f"data.train_file={folder}")


COMMANDS = {
    "max_lenght=5": "unteach tokenize: max_lenght: no such key; did you mean max_length?",
    "max_length=1": "max_length must be at least 2, got 1",
    "too_long=cut": "too_long: must be",
    "columns.prompt=x": "no column 'x'; its columns: prompt, generation",
    "input_file=row.jsonl": "row.jsonl: there is no such file; did you mean rows.jsonl?",
    "pretrain_with_output=false": "it is for kind=text",
    "output_file=MODEL": "is there already and holds no tokens",
    "data=files": "unteach tokenize: takes key=value words, not data=files",
    "tokenizer_path=NOWHERE": "NOWHERE",
}


@pytest.mark.parametrize("word", COMMANDS)
def test_commands_that_are_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    from unteach.cli import main

    words = ["input_file=rows.jsonl", "output_file=tokens", "tokenizer_path=MODEL"]
    kept = [given for given in words if given.partition("=")[0] != word.partition("=")[0]]
    with pytest.raises(SystemExit) as stopped:
        main(["tokenize", *kept, word])
    assert stopped.value.code == 2 and COMMANDS[word] in capsys.readouterr().err
    assert not Path("tokens").exists()


def test_what_is_broken_is_said_with_its_line(place: Path) -> None:
    for line, said in (
        ('{"prompt": "a"', "line 41: not JSON"),
        ('{"prompt": 5, "generation": "a"}', r"prompt must be text, and is a number \(line 41\)"),
    ):
        write(place / "rows.jsonl", ROWS)
        with (place / "rows.jsonl").open("a") as file:
            file.write(line + "\n")
        for processes in (1, 2):
            with pytest.raises(UserError, match=said):
                make(num_proc=processes)
    assert not (place / "tokens").exists()


def test_the_files_of_training_code(place: Path, loaded: Any) -> None:
    """Lists of int64 with labels, a row each; or chunks of plain int64, a record batch each."""
    rows = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        {"input_ids": [8, 9], "labels": [-100, 9]},
    ]
    table = pyarrow.table(
        {
            name: pyarrow.array([row[name] for row in rows], pyarrow.list_(pyarrow.int64()))
            for name in rows[0]
        }
    )
    with pyarrow.RecordBatchFileWriter("sft.arrow", table.schema) as writer:
        writer.write_table(table)
    made, _ = examples(loaded, "data.train_file=sft.arrow")
    assert made == [(row["input_ids"], row["labels"]) for row in rows]
    chunks = [[5, 6, 7, 2], [8, 9]]
    schema_of = pyarrow.schema([("input_ids", pyarrow.int64())])
    with pyarrow.RecordBatchFileWriter("uft.arrow", schema_of) as writer:
        for chunk in chunks:
            writer.write_batch(
                pyarrow.record_batch([pyarrow.array(chunk, pyarrow.int64())], schema=schema_of)
            )
    made, _ = examples(
        loaded, "trainer=pretrain", "data.train_file=uft.arrow", "data.packing=apart"
    )
    assert [ids for ids, _ in made] == chunks
    table = pyarrow.table(
        {name: pyarrow.array([[4000], [1]], pyarrow.list_(pyarrow.int64())) for name in rows[0]}
    )
    with pyarrow.RecordBatchFileWriter("sft.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(
        UserError, match=r"sft\.arrow: holds the token 4000, and this model's tokenizer has 400"
    ):
        examples(loaded, "data.train_file=sft.arrow")


def test_a_mask_of_several_stretches(place: Path) -> None:
    """As a chat has it: what is learned by turns."""
    assert recipe.find_runs([-100, -100, 5, 6, -100, 7]) == [2, 2, 1, 1]
    assert recipe.find_runs([5, -100]) == [0, 1, 1]
    made = recipe.TokenizedChunk(recipe.TokenCounts())
    told = [
        ([1, 2, 5, 6, 3, 7], [-100, -100, 5, 6, -100, 7]),
        ([5, 3], [5, -100]),
        ([1, 2], [-100, 2]),
    ]
    for ids, labels in told:
        made.add_answers(ids, labels)
    tokenize_files._write_shard(place, 0, made)
    (shard,) = (
        token_files._build_shard(batch)
        for batch in token_files._read_batches(place / "tokens-00000.arrow")
    )
    assert [(shard.slice_ids(k).tolist(), shard.build_labels(k).tolist()) for k in range(3)] == told
    assert made.counts.learned == 5


def test_the_collator_pads_views(loaded: Any) -> None:
    from unteach.data.collators import DataCollatorForSupervisedDataset

    rows = [
        {"input_ids": np.array([5, 6], np.int32), "labels": np.array([-100, 6])},
        {"input_ids": [7], "labels": [7]},
    ]
    for side, ids in (("right", [[5, 6], [7, 0]]), ("left", [[5, 6], [0, 7]])):
        batch = DataCollatorForSupervisedDataset(loaded.tokenizer, side)(rows)  # type: ignore[arg-type]
        assert batch["input_ids"].tolist() == ids and batch["input_ids"].dtype == torch.long
        assert batch["attention_mask"].tolist() == [
            [1, 1],
            [int(side == "right"), int(side == "left")],
        ]
