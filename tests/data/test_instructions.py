"""Alpaca's rows: what is asked and learned of an instruction, its input, its system prompt and its
earlier turns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.handlers.test_rows_of_kinds import learned, rows
from unteach.config.schema import TemplateArgs
from unteach.data.handlers.preference import FeedbackDataset, PreferenceDataset
from unteach.data.handlers.qa import QADataset, QAwithAlternateDataset, QAwithIdkDataset
from unteach.data.instructions import Context, encode_all, encode_last
from unteach.data.template import Template
from unteach.errors import UserError

ALPACA = {"question_key": "instruction", "answer_key": "output", "input_key": "input"}
AROUND = {"system_key": "system", "history_key": "history"}
TASK = {"instruction": "Translate.", "input": "good morning", "output": "bonjour"}


def read(
    template: Template, path: Path, *found: dict[str, Any], cls: Any = QADataset, **given: Any
) -> Any:
    return cls(template, rows(path, *found), **{**ALPACA, **AROUND, **given})


def test_an_input_follows_its_instruction_on_a_line_of_its_own(
    template: Template, tmp_path: Path
) -> None:
    bare = [
        {**TASK, "input": ""},
        {**TASK, "input": None},
        {"instruction": "Translate.", "output": "bonjour"},
    ]
    made = read(
        template,
        tmp_path,
        TASK,
        *bare,
        {"instruction": "", "input": "good morning", "output": "bonjour"},
    )
    assert dict(made.dropped) == {}
    asked = ["Translate.\ngood morning", *["Translate."] * 3, "good morning"]
    for example, question in zip(made.examples, asked, strict=True):
        encoded = template.encode(question, "bonjour")
        assert (example["input_ids"], example["labels"]) == (encoded.input_ids, encoded.labels)
    assert template.tokenizer.decode(made.examples[0]["input_ids"]) == (
        "Question: Translate.\ngood morning\nAnswer:\nbonjour</s>"
    )
    assert made.text(0) == ("Translate.\ngood morning", "bonjour")


def test_rows_without_an_instruction_or_an_output_are_dropped(
    template: Template, tmp_path: Path
) -> None:
    made = read(
        template,
        tmp_path,
        TASK,
        {**TASK, "output": " "},
        {"instruction": "", "input": "", "output": "a"},
    )
    assert dict(made.dropped) == {
        "nothing in output (line 2)": 1,
        "nothing in instruction (line 3)": 1,
    }


@given(
    st.text(st.characters(codec="ascii"), min_size=1),
    st.text(st.characters(codec="ascii"), min_size=1),
    st.booleans(),
)
def test_without_an_input_it_is_a_question_and_its_answer(
    words: Any, question: str, answer: str, tagged: bool
) -> None:
    args = TemplateArgs(kind="raw") if tagged else TemplateArgs()
    asked = Template(words, args)
    encoded = asked.encode(question, answer)
    assert encode_all(asked, Context(), (), question, answer) == (encoded.input_ids, encoded.labels)
    # Earlier turns are shown as shots are; what is read and learned of the last answer is the same.
    earlier = encode_last(asked, Context(history=((answer, question),)), (), question, answer)
    assert earlier == asked.encode(question, answer, [(answer, question)])


@pytest.fixture(scope="module")
def words(tiny_folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny_folder)


EARLIER = {**TASK, "system": "Be kind.", "history": [["Hello?", "Hi."], ["Who?", "Ann."]]}


def test_earlier_turns_are_learned_in_a_chat(chat: Template, tmp_path: Path) -> None:
    (example,) = read(chat, tmp_path, EARLIER).examples
    assert learned(chat, example) == "Hi.<|im_end|>Ann.<|im_end|>bonjour<|im_end|>"
    messages = [{"role": "system", "content": "Be kind."}]
    for question, answer in [*EARLIER["history"], ["Translate.\ngood morning", "bonjour"]]:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    shown = chat.chat.render(messages, add_generation_prompt=False).removesuffix("\n")
    assert chat.tokenizer.decode(example["input_ids"]) == shown
    (last,) = read(chat, tmp_path, EARLIER, turns="last").examples
    assert learned(chat, last) == "bonjour<|im_end|>" and last["input_ids"] == example["input_ids"]
    in_a_csv = {**EARLIER, "history": json.dumps(EARLIER["history"])}
    assert read(chat, tmp_path, in_a_csv).examples == [example]


def test_a_row_with_an_empty_answer_in_its_history_is_dropped(
    chat: Template, tmp_path: Path
) -> None:
    empty = {**EARLIER, "history": [["Hello?", " "], ["Who?", "Ann."]]}
    made = read(chat, tmp_path, EARLIER, empty)
    assert made.notes() == ["1 row dropped, nothing in an answer of history (line 2)"]
    assert len(read(chat, tmp_path, EARLIER, empty, turns="last")) == 2, (
        "where the last answer alone is learned"
    )


def test_a_system_prompt_of_a_row_goes_before_the_runs(chat: Template, tmp_path: Path) -> None:
    ours = Template(chat.tokenizer, replace(chat.args, system_prompt="Be brief."))
    made = read(ours, tmp_path, {**TASK, "system": "Be kind."}, {**TASK, "system": ""})
    first, second = (chat.tokenizer.decode(example["input_ids"]) for example in made.examples)
    assert "Be kind." in first and "Be brief." not in first
    assert "Be brief." in second


def test_earlier_turns_in_tags(template: Template, tmp_path: Path) -> None:
    (example,) = read(template, tmp_path, {**EARLIER, "system": None}).examples
    whole = (
        "Question: Hello?\nAnswer:\nHi.\n\nQuestion: Who?\nAnswer:\nAnn.\n\nQuestion: "
        "Translate.\ngood morning\nAnswer:\nbonjour</s>"
    )
    assert template.tokenizer.decode(example["input_ids"]) == whole
    assert learned(template, example) == "Hi.Ann.bonjour</s>"


def test_what_cannot_be_shown_is_refused_with_its_lines(template: Template, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"system prompt is shown by a chat template, .*template=qa.* \(lines 1, 3\)",
    ):
        read(template, tmp_path, EARLIER, TASK, {**EARLIER, "history": []})
    bad = [
        {**TASK, "history": [["a", "b", "c"]]},
        TASK,
        {**TASK, "history": "so"},
        {**TASK, "input": 5},
    ]
    with pytest.raises(UserError) as caught:
        read(template, tmp_path, *bad)
    assert r"history must be a list of [question, answer], both text (lines 1, 3)" in str(
        caught.value
    )
    assert "input must be text, and is a number (line 4)" in str(caught.value)


def test_rows_with_another_answer_learn_the_last_one_alone(chat: Template, tmp_path: Path) -> None:
    (pair,) = read(
        chat, tmp_path, {**EARLIER, "alternate": "salut"}, cls=QAwithAlternateDataset
    ).examples
    assert learned(chat, pair["original"]) == "bonjour<|im_end|>"
    assert learned(chat, pair["alternate"]) == "salut<|im_end|>"
    before = [example["labels"].count(-100) for example in pair.values()]
    assert before[0] == before[1], "both after the same turns"
    (refusals := tmp_path / "idk.txt").write_text("I do not know.\n")
    made = read(chat, tmp_path, EARLIER, cls=QAwithIdkDataset, idk_path=str(refusals))
    assert learned(chat, made[0]["alternate"]) == "I do not know.<|im_end|>"
    assert made[0]["original"] == pair["original"]
    assert "Be kind." in chat.tokenizer.decode(made[0]["alternate"]["input_ids"])
    assert made.context_place(0).endswith("rows.jsonl, line 1") and made.text(0)[1] == "bonjour"


def test_preferences_and_feedback(chat: Template, template: Template, tmp_path: Path) -> None:
    pair = {**EARLIER, "chosen": "bonjour", "rejected": "merci"}
    around = {"input_key": "input", **AROUND}
    (example,) = PreferenceDataset(
        chat, rows(tmp_path, pair), prompt_key="instruction", **around
    ).examples
    (single,) = read(
        chat, tmp_path, {**EARLIER, "alternate": "merci"}, cls=QAwithAlternateDataset
    ).examples
    assert example["chosen"] == single["original"] and example["rejected"] == single["alternate"]
    told = [{**TASK, "label": 1}, {**TASK, "input": "", "label": 0}]
    keys = {"prompt_key": "instruction", "answer_key": "output", "input_key": "input"}
    made = FeedbackDataset(template, rows(tmp_path, *told), **keys).examples
    asked = [
        template.encode(question, "bonjour").input_ids
        for question in ("Translate.\ngood morning", "Translate.")
    ]
    assert [example["original"]["input_ids"] for example in made] == asked


def test_feedback_has_what_stands_before_its_question(
    chat: Template, template: Template, tmp_path: Path
) -> None:
    around = {"prompt_key": "instruction", "input_key": "input", **AROUND}
    pairs = rows(tmp_path / "pairs", {**EARLIER, "chosen": "bonjour", "rejected": "merci"})
    (pair,) = PreferenceDataset(chat, pairs, **around).examples
    keys = {"chosen_key": "chosen", "rejected_key": "rejected"}
    liked, disliked = FeedbackDataset(chat, pairs, **around, **keys).examples
    assert (
        liked["original"] == {**pair["chosen"], "weight": 1.0}
        and liked["mismatched"] == pair["rejected"]
    )
    assert disliked["original"] == {**pair["rejected"], "weight": -1.0}
    labels = rows(
        tmp_path / "labels", {**EARLIER, "label": 1}, {**EARLIER, "output": "merci", "label": 0}
    )
    judged = FeedbackDataset(chat, labels, answer_key="output", **around).examples
    for example, expected in zip(judged, (pair["chosen"], pair["rejected"]), strict=True):
        assert example["original"]["input_ids"] == expected["input_ids"]
    with pytest.raises(
        UserError, match=r"system prompt is shown by a chat template, .* \(lines 1, 2\)"
    ):
        FeedbackDataset(template, labels, answer_key="output", **around)
