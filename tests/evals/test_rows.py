"""How rows become tokens: the template's questions, shown pairs before them, and plain text that
goes on."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from unteach.config.suites import RowsConfig, SuiteConfig
from unteach.data.template import Template
from unteach.errors import UserError
from unteach.evals.rows import EvalRows
from unteach.evals.stop_strings import cut_at_stop

ROWS = {
    "qa": [{"question": "Who?", "answer": "Mara"}],
    "shown": [{"question": "Where?", "answer": "Here"}, {"question": "When?", "answer": "Now"}],
    "text": [
        {"opening": "In the town", "rest": "of Vess there was"},
        {"opening": "alone", "rest": " "},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def rows(folder: Path, tiny: Any, name: str, **settings: Any) -> EvalRows:
    limits = {key: settings.pop(key) for key in ("max_length", "compat") if key in settings}
    config = RowsConfig({"path": str(folder), "name": name}, **settings)
    return EvalRows(SuiteConfig("s", [], {"r": config}, **limits), tiny.template)


def test_shown_pairs_stand_before_the_question(folder: Path, tiny: Any) -> None:
    column = rows(
        folder, tiny, "qa", few_shot_dataset_hf_args={"path": str(folder), "name": "shown"}
    ).load_column("r.answer")
    wanted = (
        "Question: Where?\nAnswer:\nHere\n\nQuestion: When?\nAnswer:\nNow\n\nQuestion: "
        "Who?\nAnswer:\n"
    )
    assert column.prompt_texts == [wanted]
    assert column.questions == ["Who?"]
    assert column.prompts == [tuple(tiny.tokenizer(wanted)["input_ids"])]


def test_a_completion_is_one_text_without_eos(folder: Path, tiny: Any) -> None:
    column = rows(folder, tiny, "text", kind="completion", question_key="opening").load_column(
        "r.rest"
    )
    assert (column.row_indices, column.num_rows) == ([0], 2)
    assert (
        tiny.tokenizer.decode([*column.prompts[0], *column.pairs[0][0][1]])
        == "In the town of Vess there was"
    )
    assert tiny.tokenizer.decode(column.prompts[0]) == "In the town"
    assert column.questions == column.prompt_texts == ["In the town"]
    assert column.answer_texts == [["of Vess there was"]]


def test_published_code_scores_an_empty_rest(folder: Path, tiny: Any) -> None:
    made = rows(
        folder, tiny, "text", kind="completion", question_key="opening", compat="openunlearning"
    )
    assert made.load_column("r.rest").row_indices == [0, 1]
    assert made.num_skipped == {}


@pytest.mark.parametrize("bos", [False, True])
def test_a_text_is_asked_from_its_first_token_on(
    folder: Path, tiny: Any, bos: bool, monkeypatch: Any
) -> None:
    made = rows(folder, tiny, "text", kind="text")
    ids = tuple(tiny.tokenizer("In the town")["input_ids"])
    if bos:
        monkeypatch.setattr(
            made.raw_template, "encode_prompt", lambda text: (1, *tiny.tokenizer(text)["input_ids"])
        )
    column = made.load_column("r.opening")
    start = (1,) if bos else ids[:1]
    assert (column.prompts[0], column.pairs[0][0][1]) == (start, ids if bos else ids[1:])
    assert column.answer_texts[0] == [tiny.tokenizer.decode(column.pairs[0][0][1])]


def test_max_length_counts_from_where_a_text_goes_on(folder: Path, tiny: Any) -> None:
    made = rows(folder, tiny, "text", kind="completion", question_key="opening", max_length=3)
    assert len(made.load_column("r.rest").pairs[0][0][1]) == 3
    assert made.num_cut == {"r.rest": 1}


@pytest.mark.parametrize(
    ("text", "kept"),
    [("a\n\nb", "a"), ("a\nQuestion: b", "a"), ("a", "a"), ("Question: a\n\n", "")],
)
def test_a_continuation_ends_at_the_first_stop_string(text: str, kept: str) -> None:
    assert cut_at_stop(text, ["\n\n", "\nQuestion", "Question:"]) == kept


def test_a_row_that_a_chat_template_loses_is_named(folder: Path, tiny_folder: Path) -> None:
    """With its file and line, of every suite."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] | replace('secret', '') }}</s>{% endfor %}"
    )
    file = folder / "lost.jsonl"
    file.write_text(
        '{"question": "Who?", "answer": "Ann"}\n{"question": "Who?", "answer": "a secret"}\n'
    )
    made = rows(folder, SimpleNamespace(template=Template(tokenizer)), "lost", kind="qa")
    with pytest.raises(UserError, match=r"eval\..*lost\.jsonl, line 2: .*does not show the answer"):
        made.load_column("r.answer")
