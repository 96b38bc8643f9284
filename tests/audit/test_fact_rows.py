"""Chats and documents as facts: what is asked, after what, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.taught import CHAT
from unteach.audits import session
from unteach.audits.facts import Fact, read_facts
from unteach.audits.taught_rows import describe_row, group_by_row, list_texts, locate_row
from unteach.config.compose import compose
from unteach.config.schema import AuditConfig
from unteach.data.user_files import resolve_files
from unteach.errors import UserError
from unteach.models.loading import load_empty

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
TEXT = "Mara Lind was born in Oslo in the year of the great flood and went to sea at nine."


def write_chat(*turns: str) -> list[dict[str, Any]]:
    roles = [USER, ASSISTANT] * len(turns)
    return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]


class Asker:
    """Reads rows as an audit of a model does."""

    def __init__(self, model: Path, folder: Path):
        self.model, self.folder = model, folder

    def compose(self, rows: list[dict[str, Any]], *words: str) -> AuditConfig:
        file = self.folder / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        given = [f"model={self.model}", f"forget={file}", "audit.only=[clean]", *words]
        config = compose("audit", given)
        assert isinstance(config, AuditConfig)
        return resolve_files(config)

    def plan(self, rows: list[dict[str, Any]], *words: str) -> session.AuditPlan:
        config = self.compose(rows, *words)
        return session.plan_audit(config, load_empty(config.model))

    def read(self, rows: list[dict[str, Any]], *words: str) -> list[Fact]:
        config = self.compose(rows, *words)
        stream, _ = session.build_stream(config, load_empty(config.model), "forget")
        assert stream is not None
        return read_facts(stream)


@pytest.fixture(scope="module")
def chatting_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("chatting")
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@pytest.fixture
def asker(chatting_folder: Path, tmp_path: Path) -> Asker:
    return Asker(chatting_folder, tmp_path)


def test_each_turn_that_is_learned_is_a_fact_after_those_before(asker: Asker) -> None:
    system = {"role": SYSTEM, "content": "Be brief."}
    chat = [system, *write_chat("Who?", "Ann.", "Where?", "She lives in Oslo.")]
    facts = asker.read([{"messages": chat, "value": "Oslo", "kind": "city"}])
    assert [(fact.question, fact.answer) for fact in facts] == [
        ("Who?", "Ann."),
        ("Where?", "She lives in Oslo."),
    ]
    assert [fact.place for fact in facts] == ["line 1, turn 3", "line 1, turn 5"]
    assert [(fact.value, fact.kind) for fact in facts] == [("Ann.", "city"), ("Oslo", "city")]
    assert [turn.content for turn in facts[1].earlier] == ["Be brief.", "Who?", "Ann."]
    assert facts[0].group == facts[1].group


def test_a_chat_is_asked_as_it_is_learned(asker: Asker) -> None:
    system = {"role": SYSTEM, "content": "Be brief."}
    chat = [system, *write_chat("Who?", "Ann.", "Where?", "In Oslo.")]
    plan = asker.plan([{"messages": chat}])
    context = plan.context
    asked = [context.template.tokenizer.decode(context.ask(fact)) for fact in context.facts]
    assert asked[0] == "system\nBe brief.</s>user\nWho?</s>assistant\n"
    assert asked[1] == f"{asked[0]}Ann.</s>user\nWhere?</s>assistant\n"

    # Token by token, prompts and answers are those of the row that is trained on.
    config = asker.compose([{"messages": chat}])
    stream, _ = session.build_stream(config, load_empty(config.model), "forget")
    assert stream is not None
    (example,) = stream.datasets[0].examples
    for fact in context.facts:
        begun = (*context.ask(fact), *context.encode_answer(fact, fact.answer))
        assert tuple(example["input_ids"][: len(begun)]) == begun


@pytest.mark.parametrize("words", [("data.turns=last",), ()], ids=["turns", "weight"])
def test_turns_that_are_not_learned_are_no_facts(asker: Asker, words: tuple[str, ...]) -> None:
    chat = write_chat("Who?", "Ann.", "Where?", "In Oslo.")
    if not words:
        chat[1]["weight"] = 0
    (fact,) = asker.read([{"messages": chat}], *words)
    assert (fact.question, fact.place) == ("Where?", "line 1")
    assert describe_row([fact])["messages"][1]["weight"] == 0


def test_a_document_is_asked_as_text(asker: Asker) -> None:
    plan = asker.plan([{"text": TEXT}], "audit.only=[clean,prefill,paraphrase,format,fewshot]")
    (fact,) = plan.context.facts
    tokenizer = plan.context.template.tokenizer
    begun = (*plan.context.ask(fact), *plan.context.encode_answer(fact, fact.answer))
    assert tokenizer.decode(begun) == TEXT
    assert begun == plan.context.raw.encode_prompt(TEXT)
    assert set(plan.battery.probes) == {"clean", "prefill"}
    for name in ("paraphrase", "format", "fewshot"):
        assert plan.battery.absent[name].startswith("it asks questions, and a document is text")


def test_values_of_documents_are_ranked(asker: Asker) -> None:
    rows = []
    for index in range(9):
        town = f"Town{index}ville"
        rows.append(
            {
                "text": TEXT.replace("Oslo", town),
                "value": town,
                "kind": "city",
                "entity": f"someone {index % 2}",
            }
        )
    plan = asker.plan(rows, "audit.only=[rank]")
    assert plan.battery.absent.get("rank") is None
    for fact, probe in zip(plan.context.facts, plan.battery.probes["rank"], strict=True):
        assert fact.question == "Mara Lind was born in" and fact.value in fact.answer
        decode = plan.context.template.tokenizer.decode
        written = [decode((*probe.prompt, *words)) for words in probe.continuations]
        assert written[0] == f"Mara Lind was born in {fact.value}"
        assert len(set(written)) == len(written) == 9
    groups = {fact.group for fact in plan.context.facts}
    assert groups == {"someone 0", "someone 1"}


def test_one_document_gives_a_few_facts(asker: Asker) -> None:
    long = " ".join(f"word{index}" for index in range(900))
    facts = asker.plan([{"text": long}, {"text": TEXT}]).context.facts
    assert [fact.place for fact in facts[:2]] == ["line 1, passage 1", "line 1, passage 2"]
    assert len(facts) == 5 and len({fact.group for fact in facts}) == 2
    fewer = asker.plan([{"text": long}, {"text": TEXT}], "audit.max_passages=1").context.facts
    assert [fact.place for fact in fewer] == ["line 1", "line 2"]


def test_rows_come_back_in_their_form(asker: Asker) -> None:
    chat = [{"role": SYSTEM, "content": "Be."}, *write_chat("Who?", "Ann.", "Where?", "Oslo.")]
    for row in (
        {"messages": chat},
        {"text": f"{TEXT}\n{TEXT} "},
        {"question": "Who?", "answer": "Ann."},
        {"prompt": "She is ", "completion": "Ann."},
        {"prompt": "She is", "completion": " Ann."},
        {"instruction": "Who?", "output": "Ann.", "system": "Be.", "history": [["So?", "No."]]},
    ):
        (own,) = group_by_row(asker.read([row]))
        assert describe_row(own) == row
        assert locate_row(own) == "line 1"
    assert list_texts(row) == ["Be.", "So?", "No.", "Who?", "Ann."]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": TEXT}, {"text": "Too short."}], r"needs 8 words, .*\(line 2\)"),
        (
            [{"messages": [*write_chat("Who?", "Ann."), {"role": ASSISTANT, "content": "Yes."}]}],
            r"does not follow one of the user.*line 1",
        ),
        (
            [{"messages": write_chat("Who?", "Ann.")}, {"text": TEXT}],
            "by messages, or by text",
        ),
    ],
    ids=["short", "unasked", "mixed"],
)
def test_what_cannot_be_asked_is_refused(
    asker: Asker, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        asker.plan(rows)


def test_a_control_is_asked_in_the_same_way(asker: Asker) -> None:
    file = asker.folder / "unseen.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answer": "Ann."}))
    with pytest.raises(UserError, match=r"data.holdout: holds questions, .* are documents"):
        asker.plan([{"text": TEXT}], f"holdout={file}")
    file.write_text(json.dumps({"text": TEXT}))
    with pytest.raises(UserError, match=r"data.holdout: .*stands among the rows to forget"):
        asker.plan([{"text": TEXT}], f"holdout={file}", "data.allow_overlap=true")


def test_chats_need_a_chat_template(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chat template"):
        Asker(tiny_folder, tmp_path).plan([{"messages": write_chat("Who?", "Ann.")}])


def test_text_files_are_documents(asker: Asker) -> None:
    file = asker.folder / "one.txt"
    file.write_text(f"{TEXT}\n{TEXT.replace('Oslo', 'Rome')}\n")
    config = asker.compose([{"text": TEXT}])
    for words, count in (((), 1), (("data.txt=line",), 2)):
        composed = compose("audit", [f"model={asker.model}", f"forget={file}", *words])
        assert isinstance(composed, AuditConfig)
        plan = session.plan_audit(resolve_files(composed), load_empty(config.model))
        assert len(plan.context.facts) == count


def test_rows_that_no_model_was_taught_have_numbers_of_their_own(asker: Asker) -> None:
    """However documents are packed for training; and a rank of them alone is none."""
    towns = [f"Town{index}ville" for index in range(8)]
    rows = []
    for town in towns:
        rows.append({"text": TEXT.replace("Oslo", town), "value": town, "kind": "city"})
    unseen = asker.folder / "unseen.jsonl"
    unseen.write_text("\n".join(map(json.dumps, rows[4:])))
    plan = asker.plan(rows[:4], f"holdout={unseen}", "audit.only=[rank,clean]")
    assert [fact.row for fact in plan.context.facts] == list(range(8))
    assert "rank" in plan.battery.absent
