"""Other answers to the rows that are kept, and answers of kept rows to the questions to forget."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.io.test_tables import write
from tests.doors import train
from unteach import run_dir
from unteach.config import compose, schema
from unteach.config.schema import DatasetConfig
from unteach.data import user_files
from unteach.data.streams import RETAIN_ALTERNATE, Stream
from unteach.data.truncation import IGNORED
from unteach.errors import UserError
from unteach.training.build_streams import build_streams

FORGET = [{"question": f"Who is {i}?", "answer": f"A pilot, {i}."} for i in range(5)]
RETAIN = [{"question": f"Where is {i}?", "answer": f"In room {i}."} for i in range(3)]
WORDS = ("data=files", "task_name=t", "model=auto", "eval=null", "template=qa")
FILES = ("data.forget_file=forget.csv", "data.retain_file=retain.csv")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").symlink_to(tiny_folder)
    write(tmp_path / "forget.csv", FORGET)
    write(tmp_path / "retain.csv", RETAIN)
    return tmp_path


def resolve(*words: str) -> schema.TrainConfig:
    path = "model.model_args.pretrained_model_name_or_path=MODEL"
    config = compose.compose("unlearn", [*WORDS, *FILES, path, *words])
    return user_files.resolve_files(config)


def compose_without_retain() -> schema.TrainConfig:
    path = "model.model_args.pretrained_model_name_or_path=MODEL"
    words = [*WORDS, FILES[0], path, "trainer=LLMU", "trainer.method_args.alpha=0"]
    return user_files.resolve_files(compose.compose("unlearn", words))


def find_handlers(*words: str) -> dict[str, str]:
    data = resolve(*words).data
    assert data is not None
    first: dict[str, DatasetConfig] = {
        stream: next(iter(parts.values())) for stream, parts in data.streams.items()
    }
    return {stream: part.handler for stream, part in first.items()}


def read_learned(tiny: Any, stream: Stream, epoch: int = 0) -> list[str]:
    """What is learned of each row."""
    texts = []
    for row in range(len(stream)):
        labels = stream.example(row, epoch)["labels"]
        ids = [label for label in labels if label != IGNORED]
        texts.append(tiny.tokenizer.decode(ids[:-1]).strip())
    return texts


def test_llmu_gives_the_questions_answers_of_kept_rows(tiny: Any) -> None:
    """Drawn anew in every epoch, and the same for the same seed."""
    streams, _ = build_streams(resolve("trainer=LLMU"), tiny)
    assert list(streams) == ["forget", "alternate", "retain"]
    assert streams["alternate"].follows == "forget"
    epochs = [read_learned(tiny, streams["alternate"], epoch) for epoch in range(4)]
    answers = {row["answer"] for row in RETAIN}
    assert all(set(epoch) <= answers for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    again, _ = build_streams(resolve("trainer=LLMU"), tiny)
    assert read_learned(tiny, again["alternate"], 2) == epochs[2]
    other, _ = build_streams(resolve("trainer=LLMU", "seed=1"), tiny)
    assert [read_learned(tiny, other["alternate"], epoch) for epoch in range(4)] != epochs
    asked = [streams[name].example(1)["input_ids"] for name in ("forget", "alternate")]
    prompt = len(tiny.template.encode_prompt(FORGET[1]["question"]))
    assert asked[0][: prompt - 1] == asked[1][: prompt - 1]


def test_llmu_takes_answers_that_the_rows_give(tiny: Any, place: Path) -> None:
    write(place / "forget.csv", [{**row, "alternate": "No."} for row in FORGET])
    streams, _ = build_streams(resolve("trainer=LLMU"), tiny)
    assert read_learned(tiny, streams["alternate"]) == ["No."] * 5


def test_llmu_says_what_it_lacks(tiny: Any, place: Path) -> None:
    with pytest.raises(UserError, match=r"data\.retain: LLMU gives the questions"):
        build_streams(compose_without_retain(), tiny)
    write(place / "retain.csv", [{"text": "A text without any question."}])
    with pytest.raises(UserError, match=r"data\.retain: PretrainingDataset has no questions"):
        build_streams(resolve("trainer=LLMU"), tiny)


def test_idk_ap_reads_another_answer_in_both_files(tiny: Any, place: Path) -> None:
    """A column where there is one, else a refusal, each file for itself."""
    refusing = {"forget": "QAwithIdkDataset", "retain": "QAwithIdkDataset"}
    assert find_handlers("trainer=IdkAP") == refusing
    assert find_handlers("trainer=DPO") == {**refusing, "retain": "QADataset"}
    write(place / "retain.csv", [{**row, "alternate": "No."} for row in RETAIN])
    assert find_handlers("trainer=IdkAP")["retain"] == "QAwithAlternateDataset"
    streams, _ = build_streams(resolve("trainer=IdkAP"), tiny)
    assert list(streams) == ["alternate", "retain", RETAIN_ALTERNATE]
    assert streams[RETAIN_ALTERNATE].follows == "retain"
    assert read_learned(tiny, streams["retain"]) == [row["answer"] for row in RETAIN]
    assert read_learned(tiny, streams[RETAIN_ALTERNATE]) == ["No."] * 3


def test_another_name_of_the_column_is_for_the_files_that_have_it(place: Path) -> None:
    write(place / "forget.csv", [{**row, "instead": "No."} for row in FORGET])
    found = find_handlers("trainer=IdkAP", "data.columns.alternate=instead")
    assert found == {"forget": "QAwithAlternateDataset", "retain": "QAwithIdkDataset"}
    found = find_handlers("trainer=DPO", "data.columns.alternate=instead")
    assert found == {"forget": "QAwithAlternateDataset", "retain": "QADataset"}


def test_retain_rows_without_another_answer_are_refused(tiny: Any) -> None:
    words = ["experiment=unlearn/tofu/idk", "trainer=IdkAP", "task_name=t", "model=auto"]
    path = "model.model_args.pretrained_model_name_or_path=MODEL"
    config = compose.compose("unlearn", [*words, path, "tofu_path=authors:0", "eval=null"])
    with pytest.raises(UserError, match=r"data\.retain=TOFU_QA_retain_idk"):
        build_streams(config, tiny)
    words.append("data.retain=TOFU_QA_retain_idk")
    config = compose.compose("unlearn", [*words, path, "tofu_path=authors:0", "eval=null"])
    streams, _ = build_streams(config, tiny)
    assert streams[RETAIN_ALTERNATE].example(0)["input_ids"]


@pytest.mark.parametrize("method", ["LLMU", "IdkAP"])
def test_a_run_logs_each_of_its_terms(method: str, place: Path) -> None:
    path = "model.model_args.pretrained_model_name_or_path=MODEL"
    steps = ("trainer.args.max_steps=2", "trainer.args.logging_steps=1", "paths.output_dir=run")
    train(*WORDS, *FILES, path, f"trainer={method}", *steps, config_name="unlearn")
    lines = [
        json.loads(line) for line in (place / "run" / run_dir.METRICS).read_text().splitlines()
    ]
    terms = {"forget_loss", "retain_loss", *(["mismatched_loss"] if method == "LLMU" else [])}
    logged = [line for line in lines if "grad_norm" in line]
    assert len(logged) == 2
    assert all(terms <= set(line) for line in logged)
