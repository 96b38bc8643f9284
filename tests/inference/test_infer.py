"""A table in, its answers out: what is kept, what is written, and that it is what the model
says."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from tests.doors import infer
from tests.inference.conftest import Infer, questions, words, write_lines
from unteach.engines.hf import HFEngine
from unteach.inference.backends.base import perplexity


def alone(tiny: Any, text: str, most: int, **given: Any) -> list[int]:
    """What the library says to a plain text by itself: the new ids, up to EOS."""
    ids = torch.tensor([tiny.tokenizer(text)["input_ids"]])
    settings = {
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "max_new_tokens": most,
        **given,
    }
    made = tiny.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[
        0, ids.shape[1] :
    ].tolist()
    return made[: made.index(2)] if 2 in made else made


def test_the_output_is_what_the_model_says(ask: Infer, table: Path, tiny: Any) -> None:
    lines = ask("perplexity=true")
    engine = HFEngine(tiny.model, tiny.tokenizer)
    for number, (line, row) in enumerate(zip(lines, questions(7), strict=True)):
        made = alone(tiny, row["input"], 8)
        prompt = tuple(tiny.tokenizer(row["input"])["input_ids"])
        [score] = engine.score([(prompt, tuple(made))])
        assert list(line) == [
            "row_id",
            "input",
            "topic",
            "output",
            "finish_reason",
            "prompt_tokens",
            "output_tokens",
            "perplexity",
            "error",
        ]
        assert line["row_id"] == number and {"input": line["input"], "topic": line["topic"]} == row
        assert line["output"] == tiny.template.decode(made)
        assert (line["prompt_tokens"], line["output_tokens"]) == (len(prompt), len(made))
        assert line["finish_reason"] == ("length" if len(made) == 8 else "eos")
        assert line["perplexity"] == pytest.approx(perplexity(score.logprob.tolist()), rel=1e-4)
        assert line["error"] is None
    assert (table.parent / "in_output.jsonl").exists() and (
        table.parent / "in_output.meta.json"
    ).exists()
    assert {path.name for path in table.parent.iterdir()} == {
        "in.jsonl",
        "in_output.jsonl",
        "in_output.meta.json",
    }


@pytest.mark.parametrize("option", ["repetition_penalty=1.4", "num_beams=3"])
def test_options_are_the_librarys(ask: Infer, tiny: Any, option: str) -> None:
    name, value = option.split("=")
    plain = [alone(tiny, row["input"], 8) for row in questions(7)]
    wanted = [
        alone(tiny, row["input"], 8, **{name: float(value) if "." in value else int(value)})
        for row in questions(7)
    ]
    assert wanted != plain, "the option must matter here"
    assert [line["output"] for line in ask(option)] == [tiny.template.decode(ids) for ids in wanted]


def test_the_same_numbers_however_rows_are_batched(ask: Infer, table: Path) -> None:
    """Drawn tokens too: each row has chances of its own, found by its id."""
    drawn = ("temperature=1.3", "top_p=0.95", "num_return_sequences=2", "seed=3")
    whole = ask(*drawn)
    assert all(len(set(line["output"])) == 2 for line in whole), "two samples of a row are not one"
    one_by_one = ask(
        *drawn, "backend_args.batch_size=1", "output_file=" + str(table.parent / "one.jsonl")
    )
    assert one_by_one == whole
    few = write_lines(table.parent / "few.jsonl", questions(7)[:2])
    assert ask(*drawn, of=few) == whole[:2], "neighbours do not matter"
    others = [line["output"] for line in ask(*drawn[:-1], "seed=4", "resume=never")]
    assert others != [line["output"] for line in whole]


def test_stop_strings_are_cut_from_the_text(ask: Infer) -> None:
    plain = ask("max_new_tokens=24", "perplexity=true")
    stop = plain[0]["output"][5:8]
    lines = ask("max_new_tokens=24", "perplexity=true", f"stop_strings=['{stop}']", "resume=never")
    for line, full in zip(lines, plain, strict=True):
        where = full["output"].find(stop)
        assert line["output"] == (full["output"][:where] if where >= 0 else full["output"])
        assert line["finish_reason"] == ("stop" if where >= 0 else full["finish_reason"])
        assert line["output_tokens"] <= full["output_tokens"]
    assert (
        lines[0]["finish_reason"] == "stop"
        and lines[0]["output_tokens"] < plain[0]["output_tokens"]
    )


def test_given_answers_are_scored(tiny_folder: Path, tiny: Any, tmp_path: Path) -> None:
    rows = [
        {"question": row["input"], "answer": f"number {i}"} for i, row in enumerate(questions(5))
    ]
    lines = read_rows(
        infer(*words(tiny_folder, write_lines(tmp_path / "s.jsonl", rows), "kind=score"))
    )
    for line, row in zip(lines, rows, strict=True):
        encoded = tiny.template.encode(row["question"], row["answer"])
        [score] = HFEngine(tiny.model, tiny.tokenizer).score([(encoded.prompt, encoded.answer)])
        assert line["logprob"] == pytest.approx(float(score.logprob.sum()), rel=1e-4)
        assert line["perplexity"] == pytest.approx(perplexity(score.logprob.tolist()), rel=1e-4)
        assert line["answer_tokens"] == len(encoded.answer), "the end of the answer is scored"


def test_every_format_gives_the_same(ask: Infer, table: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = questions(7)
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["input", "topic"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    wanted = [line["output"] for line in ask()]
    for name in ("t.csv", "t.tsv", "t.parquet"):
        lines = ask("output_file=" + str(tmp_path / f"{name}.jsonl"), of=tmp_path / name)
        assert [line["output"] for line in lines] == wanted


def test_columns_are_chosen_and_renamed(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"uid": f"r{i}", "ask": row["input"], "output": "old", "note": i}
        for i, row in enumerate(questions(3))
    ]
    named = ("input_column=ask", "id_column=uid")
    made = infer(
        *words(tiny_folder, write_lines(tmp_path / "c.jsonl", rows), *named, "output_column=said")
    )
    assert made == tmp_path / "c_output.jsonl"
    lines = read_rows(made)
    assert [line["row_id"] for line in lines] == ["r0", "r1", "r2"]
    assert lines[1]["output"] == "old" and isinstance(lines[1]["said"], str)
    fewer = read_rows(
        infer(
            *words(tiny_folder, tmp_path / "c.jsonl", *named, "keep_columns=[note]", "resume=never")
        )
    )
    assert (
        list(fewer[0])[:3] == ["row_id", "note", "output"]
        and fewer[0]["output"] == lines[0]["said"]
    )


def test_conversations_are_asked_by_the_chat_template(
    tiny_folder: Path, tiny: Any, tmp_path: Path
) -> None:
    import shutil

    import transformers

    folder = tmp_path / "chat"
    shutil.copytree(tiny_folder, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% "
        "endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    turns = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."},
        {"role": "user", "content": "Why?"},
    ]
    rows = [
        {"messages": turns},
        {"messages": turns[:1]},
        {"messages": turns[:2]},
        {"messages": [{"role": "user"}]},
    ]
    table = write_lines(tmp_path / "m.jsonl", rows)
    from unteach.errors import RowsFailed

    with pytest.raises(RowsFailed, match="2 of 4 rows"):
        infer(*words(folder, table))
    lines = read_rows(tmp_path / "m_output.jsonl")
    shown = "[user] Who?\n[assistant] Me.\n[user] Why?\n[assistant] "
    assert lines[0]["output"] == tiny.template.decode(alone(tiny, shown, 8))
    assert lines[1]["output"] == tiny.template.decode(alone(tiny, "[user] Who?\n[assistant] ", 8))
    assert (
        "ends with the assistant's turn" in lines[2]["error"] and "a list of" in lines[3]["error"]
    )
