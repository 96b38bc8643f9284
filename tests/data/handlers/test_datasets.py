"""Dataset handlers, sources and collators."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.handlers.qa import QADataset, QAwithAlternateDataset, QAwithIdkDataset
from unteach.data.io import sources
from unteach.errors import AbsentData, UserError

ROWS = [
    {"question": "Who?", "answer": "Ann.", "alternate": "Bob.", "wrong": ["Cleo.", "Dan."]},
    {"question": "Where?", "answer": "   ", "alternate": "There.", "wrong": ["Here.", "Nowhere."]},
    {"question": "When?", "answer": "Now.", "alternate": "Then.", "wrong": ["Soon.", "Never."]},
]


@pytest.fixture
def hf_args(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {"path": str(tmp_path), "name": "qa", "split": "train"}


def test_rows_that_teach_nothing_are_counted(tiny: Any, hf_args: dict) -> None:
    made = QADataset(tiny.template, hf_args)
    assert [example["index"] for example in made] == [0, 2]
    assert made.dropped == {"nothing in answer (line 2)": 1}
    assert tiny.template.decode([t for t in made[1]["labels"] if t != -100]) == "Now."


def test_a_question_too_long_is_counted(tiny: Any, hf_args: dict) -> None:
    short = len(tiny.template.encode_prompt("When?"))
    with pytest.raises(UserError, match="no row can be used"):
        QADataset(tiny.template, hf_args, max_length=short - 2)
    cut = QADataset(tiny.template, hf_args, max_length=short + 1)
    assert cut.cut == len(cut)


def test_several_answers_stay_together(tiny: Any, hf_args: dict) -> None:
    example = QADataset(tiny.template, hf_args, answer_key="wrong")[0]
    assert list(example) == [0, 1]
    assert example[0]["index"] == example[1]["index"] == 0


def test_few_shot_pairs_stand_before_the_question(tiny: Any, hf_args: dict, tmp_path: Path) -> None:
    (tmp_path / "icl.jsonl").write_text(json.dumps({"question": "A?", "answer": "a"}) + "\n")
    made = QADataset(tiny.template, hf_args, few_shot_dataset_hf_args={**hf_args, "name": "icl"})
    assert (
        tiny.template.decode(made[0]["input_ids"])
        == "Question: A?\nAnswer:\na\n\nQuestion: Who?\nAnswer:\nAnn."
    )


def test_refusals_are_a_function_of_seed_epoch_and_row(
    tiny: Any, hf_args: dict, tmp_path: Path
) -> None:
    made = QAwithIdkDataset(tiny.template, hf_args, seed=1)
    assert made.variant(0, 3) == made.variant(0, 3)
    assert len({str(made.variant(0, epoch)["alternate"]) for epoch in range(20)}) > 5
    assert made[0]["original"]["input_ids"] != made[0]["alternate"]["input_ids"]
    (tmp_path / "idk.txt").write_text("No idea.\n")
    alone = QAwithIdkDataset(
        tiny.template, hf_args, idk_path=str(tmp_path / "idk.txt"), return_original=False
    )
    assert tiny.template.decode([t for t in alone[1]["labels"] if t != -100]) == "No idea."
    assert len(QAwithIdkDataset(tiny.template, hf_args).refusals) == 100
    with pytest.raises(UserError, match="idk_path"):
        QAwithIdkDataset(tiny.template, hf_args, idk_path="nowhere.txt")


def test_alternates_come_from_their_column(tiny: Any, hf_args: dict) -> None:
    made = QAwithAlternateDataset(tiny.template, hf_args)
    assert [
        tiny.template.decode([t for t in e["alternate"]["labels"] if t != -100]) for e in made
    ] == ["Bob.", "Then."]
    with pytest.raises(UserError, match="no column 'other'; its columns: question, answer"):
        QAwithAlternateDataset(tiny.template, hf_args, alternate_key="other")


@pytest.mark.parametrize("side", ["right", "left"])
def test_collator(tiny: Any, side: Any) -> None:
    eos = tiny.tokenizer.eos_token_id
    examples = [
        {"input_ids": [5, eos, 6], "labels": [-100, eos, 6], "index": 4},
        {"input_ids": [7], "labels": [7], "index": 9},
    ]
    batch = DataCollatorForSupervisedDataset(tiny.tokenizer, side, index="index")(examples)
    assert batch["index"].tolist() == [4, 9]
    assert batch["attention_mask"][0].tolist() == [1, 1, 1], (
        "an interior end-of-sequence token is no padding"
    )
    assert batch["attention_mask"][1].tolist() == ([1, 0, 0] if side == "right" else [0, 0, 1])
    assert torch.equal(
        batch["labels"] == -100,
        torch.tensor([[True, False, False], batch["attention_mask"][1].eq(0).tolist()]),
    )
    nested = DataCollatorForSupervisedDataset(tiny.tokenizer, side)(
        [{"original": examples[0], "alternate": examples[1]}]
    )
    assert nested["alternate"]["input_ids"].tolist() == [[7]]
    assert "index" not in nested["original"]


def test_sources(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"text": "a"}]), tmp_path / "p.parquet")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "forget.jsonl").write_text('{"text": "b"}\n')
    (tmp_path / "bad.jsonl").write_text('{"text": "b"}\n{"te\n')
    folder = str(tmp_path)
    assert sources.load_rows({"path": folder, "name": "p"}) == [{"text": "a"}]
    assert sources.load_rows({"path": folder, "name": "raw", "split": "forget"}) == [{"text": "b"}]
    with pytest.raises(AbsentData, match="it has bad, p, raw"):
        sources.load_rows({"path": folder, "name": "nothing"})
    with pytest.raises(UserError, match="line 2: not JSON"):
        sources.load_rows({"path": folder, "name": "bad"})
    with pytest.raises(AbsentData, match="authors world has no 'forget20'"):
        sources.load_rows({"path": "authors", "name": "forget20"})
    assert sources.load_rows({"path": "authors:7", "name": "full"}) != sources.load_rows(
        {"path": "authors", "name": "full"}
    )
    with pytest.raises(UserError, match="no such folder"):
        sources.load_rows({"path": "./nowhere", "name": "full"})


def test_a_share_under_one_author_is_said() -> None:
    assert "taken by question" in (
        sources.note_source({"path": "authors", "name": "forget01"}) or ""
    )
    assert sources.note_source({"path": "authors:3", "name": "forget10"}) is None
    assert sources.note_source({"path": "elsewhere", "name": "forget01"}) is None


def test_a_file_through_the_datasets_library(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    rows = sources.load_rows(
        {"path": "json", "data_files": str(tmp_path / "x.jsonl"), "split": "train"}
    )
    assert rows == [{"question": "q", "answer": "a"}]


def test_files_that_the_datasets_library_cannot_put_together_are_a_users_mistake(
    tmp_path: Path,
) -> None:
    (tmp_path / "1.csv").write_text("question,answer\nq,a\n")
    (tmp_path / "2.csv").write_text("other\n1\n")
    files = [str(tmp_path / "1.csv"), str(tmp_path / "2.csv")]
    with pytest.raises(
        UserError, match=r"csv: An error occurred while generating the dataset.*Schema.*different"
    ):
        sources.load_rows({"path": "csv", "data_files": files, "split": "train"})
