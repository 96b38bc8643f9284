"""Plain text as training data: which tokens are learned, where a piece ends, one EOS a document,
what is counted."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from unteach.config.schema import TemplateArgs
from unteach.data.handlers.completion import CompletionDataset
from unteach.data.handlers.text import PretrainingDataset
from unteach.data.io import sources
from unteach.data.template import Template
from unteach.errors import UserError

TEXTS = ["The river is long. " * 3, "  ", "Ann lives in the north, and writes.", None, "Short."]


@pytest.fixture(params=["bos", "no bos"])
def template(tiny_folder: Path, request: pytest.FixtureRequest) -> Template:
    """Tags that plain text must not get, and a tokenizer that puts BOS or none."""
    import tokenizers
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    if request.param == "bos":
        tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    return Template(tokenizer, TemplateArgs(user_start_tag="[INST] ", asst_start_tag="[/INST] "))


def write(folder: Path, name: str, rows: list[Any]) -> dict[str, Any]:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(folder), "name": name, "split": "train"}


def documents(template: Template) -> list[list[int]]:
    usable = [text for text in TEXTS if text and text.strip()]
    ids = [template.tokenizer(text, add_special_tokens=False)["input_ids"] for text in usable]
    return [[*one, template.tokenizer.eos_token_id] for one in ids]


@pytest.mark.parametrize("packing", ["chunked", "apart"])
@pytest.mark.parametrize("max_length", [2, 5, 8, 1000])
def test_every_token_is_learned_once(
    template: Template, tmp_path: Path, packing: str, max_length: int
) -> None:
    """The labels of all pieces, one after the other, are the documents; each token but a first one
    has what leads in."""
    hf_args = write(tmp_path, "texts", [{"text": text} for text in TEXTS])
    made = PretrainingDataset(template, hf_args, max_length=max_length, packing=packing)
    bos = (
        template.tokenizer.bos_token_id
        if template.encode_prompt("")[0] == template.tokenizer.bos_token_id
        else None
    )
    wholes = documents(template)
    if packing == "chunked":
        wholes = [list(itertools.chain(*wholes))]
    # Without a BOS the first piece of a text has room for one token more.
    assert len(made) == sum(
        -(-(len(whole) - (bos is None)) // (max_length - 1)) for whole in wholes
    )
    assert made.dropped == {"empty text (lines 2, 4)": 2}
    pieces = iter(range(len(made)))
    for whole in wholes:
        learned: list[int] = []
        while len(learned) < len(whole):
            example = made[number := next(pieces)]
            ids, labels = example["input_ids"], example["labels"]
            led_in = labels[0] == -100
            assert len(ids) <= max_length
            assert example["index"] == number
            assert labels[led_in:] == ids[led_in:] == whole[len(learned) :][: max_length - led_in]
            assert ids[:led_in] == (
                [bos] if bos is not None else whole[len(learned) - 1 : len(learned)]
            )
            assert led_in or (bos is None and not learned), (
                "only the first token of all has nothing before it"
            )
            learned += ids[led_in:]
        assert learned == whole


def test_a_document_is_closed_once(template: Template, tmp_path: Path) -> None:
    hf_args = write(tmp_path, "texts", [{"body": text} for text in TEXTS])
    made = PretrainingDataset(template, hf_args, text_key="body", max_length=7)
    learned = [token for example in made for token in example["labels"] if token != -100]
    assert learned.count(template.tokenizer.eos_token_id) == 3
    assert "[INST]" not in template.decode(learned)


def test_text_that_cannot_be_used_is_an_error(tiny: Any, tmp_path: Path) -> None:
    hf_args = write(tmp_path, "texts", [{"text": ""}])
    with pytest.raises(
        UserError, match=r"texts/train: no row can be used: 1 row dropped, empty text \(line 1\)"
    ):
        PretrainingDataset(tiny.template, hf_args)
    with pytest.raises(UserError, match="no column 'body'; its columns: text"):
        PretrainingDataset(tiny.template, hf_args, text_key="body")
    with pytest.raises(UserError, match="max_length must be at least 2, got 1"):
        PretrainingDataset(tiny.template, hf_args, max_length=1)


def test_a_corpus_gives_its_texts_and_never_its_json(tiny: Any, tmp_path: Path) -> None:
    """As WMDP ships it; also where the file is named as OpenUnlearning names it, which learned the
    braces."""
    rows = [{"title": "A", "text": "One.\u2028line."}, {"title": "B", "text": "Two."}]
    folder = write(tmp_path, "cyber-forget-corpus", rows)
    (tmp_path / "cyber-forget-corpus.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    file = str(tmp_path / "cyber-forget-corpus.jsonl")
    published = {"path": "text", "data_files": file, "split": "train"}
    assert "read as rows" in (sources.note_source(published) or "")
    assert sources.note_source({**published, "data_files": "x.txt"}) is None
    twice = {"path": "json", "data_files": [file, file], "split": "train"}
    for hf_args, times in ((folder, 1), (published, 1), (twice, 2)):
        made = PretrainingDataset(tiny.template, hf_args)
        assert tiny.tokenizer.decode(made[0]["input_ids"]) == "One.\u2028line.</s>Two.</s>" * times


def test_a_text_file_is_one_document(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "forget.txt").write_text("One.\n\nTwo.\n")
    made = PretrainingDataset(
        tiny.template, {"path": str(tmp_path), "name": "raw", "split": "forget"}
    )
    assert tiny.tokenizer.decode(made[0]["input_ids"]) == "One.\n\nTwo.\n</s>"


def test_completions(template: Template, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Ann lives", "text": "in the north."},
        {"prompt": "Ann lives", "text": " "},
        {"prompt": None, "text": "x"},
        {"prompt": "", "text": "Ann."},
    ]
    hf_args = write(tmp_path, "texts", rows)
    made = CompletionDataset(template, hf_args, insert_space=True)
    assert [example["index"] for example in made] == [0, 3]
    assert made.dropped == {"nothing in prompt (line 3)": 1, "nothing in text (line 2)": 1}
    tokenizer = template.tokenizer
    prefix = tokenizer("Ann lives")["input_ids"]
    answer = [
        *tokenizer(" in the north.", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert made[0]["input_ids"] == prefix + answer
    assert made[0]["labels"] == [-100] * len(prefix) + answer
    cut = CompletionDataset(template, hf_args, max_length=len(prefix) + 2)
    assert cut.cut == 1 + (len(tokenizer("Ann.")["input_ids"]) + 1 > len(prefix) + 2)
    assert (
        cut[0]["labels"][len(prefix) :]
        == tokenizer("in the north.", add_special_tokens=False)["input_ids"][:2]
    )
    with pytest.raises(UserError, match="no room"):
        CompletionDataset(template, {**hf_args}, max_length=1)


def test_completions_without_a_prefix(tiny: Any, tmp_path: Path) -> None:
    hf_args = write(tmp_path, "texts", [{"text": "Ann lives."}])
    with pytest.raises(UserError, match="no column 'prompt'"):
        CompletionDataset(tiny.template, hf_args)
    labels = CompletionDataset(tiny.template, hf_args, prefix_key=None)[0]["labels"]
    assert tiny.tokenizer.decode(labels) == "Ann lives.</s>"


def test_the_kits_corpus_is_learned_whole(tiny: Any, kit: Path) -> None:
    hf_args = {"path": str(kit / "muse"), "name": "raw", "split": "forget"}
    made = PretrainingDataset(tiny.template, hf_args, max_length=64)
    learned = [token for example in made for token in example["labels"] if token != -100]
    rows = read_rows(kit / "muse" / "raw" / "forget.jsonl")
    assert tiny.tokenizer.decode(learned).split("</s>") == [*(row["text"] for row in rows), ""]
