"""Rows of preferences, feedback, classes, numbers and conversations: what is learned of them, and
what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_template import CHATML
from unteach.data.handlers.chat import ChatDataset
from unteach.data.handlers.labelled import LabelledDataset, ScoredDataset
from unteach.data.handlers.preference import FeedbackDataset, PreferenceDataset
from unteach.data.template import Template
from unteach.errors import UserError


def rows(path: Path, *found: dict[str, Any]) -> dict[str, Any]:
    path.mkdir(exist_ok=True)
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return {"path": str(path / "rows.jsonl")}


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return first + [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]


def learned(template: Template, example: dict[str, Any]) -> str:
    return template.tokenizer.decode([label for label in example["labels"] if label != -100])


def test_every_turn_of_the_assistant_is_learned_with_its_end(
    chat: Template, tmp_path: Path
) -> None:
    found = turns("Who?", "Ann.", "Where?", "In Rome.", system="Be kind.")
    (example,) = ChatDataset(chat, rows(tmp_path, {"messages": found})).examples
    assert learned(chat, example) == "Ann.<|im_end|>In Rome.<|im_end|>"
    shown = chat.chat.render(found, add_generation_prompt=False).removesuffix("\n")
    assert chat.tokenizer.decode(example["input_ids"]) == shown
    assert [
        i
        for i, label in zip(example["input_ids"], example["labels"], strict=True)
        if label not in (-100, i)
    ] == []


def test_a_turn_is_learned_as_it_is_asked(chat: Template, tmp_path: Path) -> None:
    """One question and its answer are the same tokens, whether they come as a conversation or not;
    so is a last turn."""
    (example,) = ChatDataset(chat, rows(tmp_path, {"messages": turns("Who?", "Ann.")})).examples
    asked = chat.encode("Who?", "Ann.")
    assert (example["input_ids"], example["labels"]) == (asked.input_ids, asked.labels)
    args = rows(tmp_path, {"messages": turns("A?", "b", "Who?", "Ann.")})
    (last,) = ChatDataset(chat, args, turns="last").examples
    asked = chat.encode("Who?", "Ann.", [("A?", "b")])
    assert (last["input_ids"], last["labels"]) == (asked.input_ids, asked.labels)


def test_what_waits_for_an_answer_is_read_and_not_learned(chat: Template, tmp_path: Path) -> None:
    (example,) = ChatDataset(
        chat, rows(tmp_path, {"messages": turns("Who?", "Ann.", "Where?")})
    ).examples
    assert learned(chat, example) == "Ann.<|im_end|>"
    assert "Where?" in chat.tokenizer.decode(example["input_ids"])


def test_a_template_that_changes_earlier_turns_needs_turns_last(
    chat: Template, tmp_path: Path
) -> None:
    chat.tokenizer.chat_template = CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'] if loop.last or m['role'] == 'user' else '…' }}"
    )
    args = rows(tmp_path, {"messages": turns("A?", "b", "Who?", "Ann.")})
    with pytest.raises(UserError, match="turns=last"):
        ChatDataset(chat, args)
    (example,) = ChatDataset(chat, args, turns="last").examples
    assert learned(chat, example) == "Ann.<|im_end|>"


def test_conversations_that_cannot_be_learned(
    chat: Template, template: Template, tmp_path: Path
) -> None:
    good = {"messages": json.dumps(turns("Who?", "Ann."))}  # as a csv has it
    kept = ChatDataset(chat, rows(tmp_path, good, {"messages": turns("Alone")}, good))
    assert len(kept) == 2
    assert dict(kept.dropped) == {"no turn of the assistant (line 2)": 1}
    cut = ChatDataset(
        chat, rows(tmp_path, good, {"messages": turns("Who? " * 40, "Ann.")}), max_length=20
    )
    assert (len(cut), dict(cut.dropped)) == (
        1,
        {"no room for an answer within max_length (line 2)": 1},
    )
    with pytest.raises(
        UserError,
        match=r"rows\.jsonl: messages must be a list of \{role, content\}.* \(lines 1, 3\)",
    ):
        ChatDataset(
            chat, rows(tmp_path, {"messages": "hello"}, good, {"messages": [{"role": "user"}]})
        )
    with pytest.raises(UserError, match="asked by template=qa"):
        ChatDataset(template, rows(tmp_path, good))


def test_preferences_share_their_prompt(template: Template, tmp_path: Path) -> None:
    pair = {"prompt": "Who?", "chosen": "Ann.", "rejected": "Nobody."}
    bad = [
        {**pair, "chosen": " "},
        {**pair, "rejected": None},
        pair,
        {**pair, "rejected": float("nan")},
    ]
    kept = PreferenceDataset(template, rows(tmp_path, *bad))
    (example,) = kept.examples
    asked = {side: template.encode("Who?", pair[side]) for side in ("chosen", "rejected")}
    assert {side: example[side]["input_ids"] for side in asked} == {
        s: e.input_ids for s, e in asked.items()
    }
    assert dict(kept.dropped) == {
        "nothing in chosen (line 1)": 1,
        "nothing in rejected (lines 2, 4)": 2,
    }
    long = {**pair, "prompt": "Who? " * 40}
    kept = PreferenceDataset(template, rows(tmp_path, pair, long), max_length=60)
    assert dict(kept.dropped) == {"no room for an answer within max_length (line 2)": 1}, (
        "one row, and not two answers"
    )
    with pytest.raises(UserError) as caught:
        PreferenceDataset(
            template, rows(tmp_path, {**pair, "chosen": 4}, pair, {**pair, "prompt": True})
        )
    assert "chosen must be text, and is a number (line 1)" in str(caught.value)
    assert "prompt must be text, and is true or false (line 3)" in str(caught.value)


def test_preferences_may_be_conversations(chat: Template, tmp_path: Path) -> None:
    whole = {
        "chosen": turns("A?", "b", "Who?", "Ann."),
        "rejected": turns("A?", "b", "Who?", "Bert."),
    }
    apart = {
        "prompt": whole["chosen"][:3],
        "chosen": whole["chosen"][3:],
        "rejected": whole["rejected"][3:],
    }
    (one,) = PreferenceDataset(chat, rows(tmp_path, whole), prompt_key=None).examples
    (two,) = PreferenceDataset(chat, rows(tmp_path, apart)).examples
    assert one == two
    assert learned(chat, one["rejected"]) == "Bert.<|im_end|>"
    other = {**whole, "rejected": turns("A?", "c", "Who?", "Bert.")}
    with pytest.raises(UserError, match=r"one conversation up to a last turn .*\(line 2\)"):
        PreferenceDataset(chat, rows(tmp_path, whole, other), prompt_key=None)


def test_feedback_is_compared_with_other_rows_answers(template: Template, tmp_path: Path) -> None:
    told = [
        {"prompt": f"Who {i}?", "completion": f"Ann {i}.", "label": (i % 2, True, "yes", "0")[i]}
        for i in range(4)
    ]
    kept = FeedbackDataset(template, rows(tmp_path, *told))
    assert [example["original"]["weight"] for example in kept.examples] == [-1.0, 1.0, 1.0, -1.0]
    own, other = (
        [learned(template, e[part]) for e in kept.examples] for part in ("original", "mismatched")
    )
    assert sorted(own) == sorted(other)
    assert all(a != b for a, b in zip(own, other, strict=True))
    pairs = {"prompt": "Who?", "chosen": "Ann.", "rejected": "Bert."}
    of_pairs = FeedbackDataset(
        template, rows(tmp_path, pairs, pairs), chosen_key="chosen", rejected_key="rejected"
    )
    assert [example["original"]["weight"] for example in of_pairs.examples] == [
        1.0,
        -1.0,
        1.0,
        -1.0,
    ]
    with pytest.raises(UserError, match=r"label must be 1 or 0 .* 'perhaps' \(line 2\)"):
        FeedbackDataset(template, rows(tmp_path, told[0], {**told[1], "label": "perhaps"}))


def test_labels_that_are_none_are_refused_with_their_lines(
    template: Template, tmp_path: Path
) -> None:
    told = [
        {"input": f"text {i}", "output": label}
        for i, label in enumerate(["yes", "no", "yse", None, "maybe"])
    ]
    with pytest.raises(UserError) as caught:
        LabelledDataset(template, rows(tmp_path, *told), labels=["no", "yes"])
    assert "output is 'yse', which is no label; did you mean yes? (line 3)" in str(caught.value)
    assert "output is 'maybe', which is no label; the labels are no, yes (line 5)" in str(
        caught.value
    )
    kept = LabelledDataset(template, rows(tmp_path, *told))
    assert [example["labels"][-1] for example in kept.examples] == [2, 1, 3, 0]
    assert dict(kept.dropped) == {"nothing in output (line 4)": 1}
    assert kept.examples[0]["input_ids"] == template.tokenizer("text 0")["input_ids"]


def test_numbers_that_are_none_are_refused_with_their_lines(
    template: Template, tmp_path: Path
) -> None:
    told = [{"input": "a b", "output": value} for value in ("1.5", 2, "many", True)]
    with pytest.raises(UserError, match=r"must be a finite number, and is 'many' \(line 3\)"):
        ScoredDataset(template, rows(tmp_path, *told))
    kept = ScoredDataset(template, rows(tmp_path, *told[:2]))
    assert [example["target"] for example in kept.examples] == [1.5, 2.0]
