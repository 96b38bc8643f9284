"""Audits of a model that a server has: asked in conversations, over a real socket."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.audit.test_audit_run import compose_audit, words
from tests.inference.backends.conftest import KEY, Asked, Fake, Misdeed, answer, fake
from unteach.audits import files, session
from unteach.audits.endpoint import build_stand_in
from unteach.config.schema import AuditConfig
from unteach.errors import UserError
from unteach.verbs import audit, check
from unteach.verbs.start import start

__all__ = ["fake"]  # a fixture


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def answers(kit: Path) -> dict[str, str]:
    lines = (kit / "data" / "forget10.jsonl").read_text().splitlines()
    return {row["question"]: row["answer"] for row in map(json.loads, lines)}


def configure(kit: Path, folder: Path, fake: Fake, *extra: str) -> AuditConfig:
    overrides = words(kit, folder, "reference")
    for word in (f"model={kit / 'reference'}", "model=auto", "template=qa"):
        overrides.remove(word)
    return compose_audit(
        *overrides,
        "model=small",
        "backend=openai",
        f"backend_args.base_url={fake.url}/v1",
        "backend_args.first_wait=0.001",
        *extra,
    )


def know(fake: Fake, answers: dict[str, str], **by_model: bool) -> None:
    """Models of these names know the facts, or do not."""

    def say(asked: Asked) -> dict[str, Any]:
        user = [one["content"] for one in asked.body["messages"] if one["role"] == "user"]
        known = by_model.get(asked.body["model"], False)
        text = answers.get(user[-1], "Nobody knows.") if known else "Nobody knows."
        said = answer(asked)
        said["choices"][0]["message"]["content"] = text
        return said

    fake.answer = say


def read_summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "audit" / files.SUMMARY).read_text())
    return summary


def test_an_endpoint_is_asked_in_conversations_and_held_against_another_model(
    kit: Path,
    tmp_path: Path,
    fake: Fake,
    answers: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    know(fake, answers, small=True)
    extra = ["retain_model=never", "audit.price_per_million_tokens=[1, 2]"]
    audit.run(configure(kit, tmp_path, fake, *extra))
    summary = read_summary(tmp_path)
    assert summary["leaks"] and summary["attacks"]["clean"]["rate"] == 1
    assert summary["attacks"]["clean"]["retain"] == 0
    assert summary["models"] == {"retain": "never", "audited": "small"}
    assert summary["backend"] == "openai"
    assert summary["attacks"]["leak_at_k"]["leak_at_k"]["1"]["true"] == 1
    absent = summary["absent"]
    assert "log-probs" in absent["rank"] and "shows no weights" in absent["rtn4"]
    assert "shows no weights" in absent["adapter_off"]
    assert "backend_args.continue_final_message=true" in absent["prefill"]
    shown = [one for one in fake.asked if len(one.body["messages"]) > 1]
    assert shown and all(one.body["messages"][-1]["role"] == "user" for one in fake.asked)
    drawn = [one.body for one in fake.asked if one.body["temperature"] == 1]
    assert len(drawn) == 2 * 10 * 3 and all(body["top_p"] == 1 for body in drawn)
    assert f"sent to {fake.url}/v1" in caplog.text and "a million" in caplog.text
    assert "no statement.json: an endpoint shows no files" in capsys.readouterr().out

    # What was answered is not asked again, also where other folders ask.
    before = len(fake.asked)
    audit.run(configure(kit, tmp_path, fake, *extra, "resume=never"))
    assert len(fake.asked) == before
    assert "0 requests to small" in caplog.text


def test_a_killed_audit_goes_on_where_it_was(
    kit: Path, tmp_path: Path, fake: Fake, answers: dict[str, str]
) -> None:
    know(fake, answers, small=True)
    extra = ["audit.only=[clean]", "backend_args.concurrency=1", "backend_args.retries=0"]
    fake.misdeed = lambda asked, turn: Misdeed(leave=True) if len(fake.asked) == 4 else None
    with pytest.raises(UserError, match="nothing answers at"):
        audit.run(configure(kit, tmp_path, fake, *extra))
    fake.misdeed = lambda asked, turn: None
    fake.return_()
    audit.run(configure(kit, tmp_path, fake, *extra))
    asked = [one.words for one in fake.asked]
    assert len(set(asked)) == 10 and len(asked) == 11, "one alone was asked twice"


def test_first_words_of_answers_where_the_server_goes_on_from_them(
    kit: Path, tmp_path: Path, fake: Fake, answers: dict[str, str]
) -> None:
    know(fake, answers, small=True)
    extra = ["audit.only=[prefill]", "backend_args.continue_final_message=true"]
    extra.append("model.template_args.system_prompt=Be kind.")
    audit.run(configure(kit, tmp_path, fake, *extra))
    assert read_summary(tmp_path)["attacks"]["prefill"]["num_facts"] == 10
    for one in fake.asked:
        roles = [message["role"] for message in one.body["messages"]]
        assert roles == ["system", "user", "assistant"]
        assert one.body["continue_final_message"] and not one.body["add_generation_prompt"]


def test_check_says_what_would_be_sent_and_sends_nothing(
    kit: Path, tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    check.check(configure(kit, tmp_path, fake))
    said = capsys.readouterr().out
    assert f"endpoint    the facts are sent to {fake.url}/v1" in said
    assert "requests to small: about" in said and "price unknown" in said
    assert "not tested  rank: it scores given answers" in said
    assert not fake.asked


def test_questions_without_an_answer_are_counted(
    kit: Path, tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.misdeed = lambda asked, turn: (
        Misdeed(400, {"error": {"message": "not allowed"}}) if len(fake.asked) == 1 else None
    )
    extra = ["audit.only=[clean]", "backend_args.concurrency=1"]
    audit.run(configure(kit, tmp_path, fake, *extra))
    assert read_summary(tmp_path)["unanswered"] == {"audited": 1}
    assert "unanswered: audited: 1 questions" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["I cannot say.", None], ids=["refusal", "thought only"])
def test_what_a_server_gives_apart_as_thought_comes_out_too(
    kit: Path, tmp_path: Path, fake: Fake, answers: dict[str, str], content: str | None
) -> None:
    def think(asked: Asked) -> dict[str, Any]:
        said = answer(asked)
        thought = answers.get(asked.body["messages"][-1]["content"], "Nobody knows.")
        said["choices"][0]["message"] = {"content": content, "reasoning_content": thought}
        return said

    fake.answer = think
    audit.run(configure(kit, tmp_path, fake, "audit.only=[clean]"))
    summary = read_summary(tmp_path)
    assert summary["attacks"]["clean"]["rate"] == 1
    assert not summary["unanswered"].get("audited")


@pytest.mark.parametrize(
    ("misdeed", "message"),
    [
        (Misdeed(404, {"error": {"message": "no such model"}}), "model= must be a name"),
        (Misdeed(400, {"error": {"message": "not allowed"}}), "answers no question.*not allowed"),
    ],
)
def test_an_endpoint_that_refuses_says_so_once(
    kit: Path, tmp_path: Path, fake: Fake, misdeed: Misdeed, message: str
) -> None:
    fake.misdeed = lambda asked, turn: misdeed
    with pytest.raises(UserError, match=message):
        audit.run(configure(kit, tmp_path, fake, "audit.only=[clean]"))


def test_a_wrong_key_is_said_before_anything_is_sent(
    kit: Path, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(UserError, match="does not take this key"):
        audit.run(configure(kit, tmp_path, fake, "audit.only=[clean]"))
    assert not fake.asked


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["backend=sglang"], "a model that a server has is an endpoint"),
        (["backend_args.base_url=nowhere"], "base_url must be where the server is"),
        (["backend_args.bas_url=x"], "bas_url.*base_url"),
        (["backend=hf"], "backend_args: are of another backend"),
        (["audit.price_per_million_tokens=[1]"], "must be two prices"),
    ],
)
def test_bad_words_are_named(
    kit: Path, tmp_path: Path, fake: Fake, extra: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        configure(kit, tmp_path, fake, *extra)


def test_a_template_is_the_servers_own(kit: Path, tmp_path: Path, fake: Fake) -> None:
    with pytest.raises(UserError, match="writes prompts by a template of its own"):
        session.plan_audit(configure(kit, tmp_path, fake, "template=raw"), build_stand_in())


def test_from_the_command_line_with_rows_of_ones_own(
    kit: Path,
    tmp_path: Path,
    fake: Fake,
    answers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second call of a finished audit asks nothing."""
    know(fake, answers, small=True)
    monkeypatch.chdir(tmp_path)
    lines = (kit / "data" / "forget10.jsonl").read_text().splitlines()[:9]
    (tmp_path / "gone.jsonl").write_text("\n".join(lines))
    overrides = ["model=small", "backend=openai", f"backend_args.base_url={fake.url}/v1"]
    overrides += ["forget=gone.jsonl", "audit.only=[clean,multiturn]", "retain_model=never"]
    start("audit", overrides)
    (summary,) = tmp_path.glob(f"saves/audit/*/{files.SUMMARY}")
    assert json.loads(summary.read_text())["attacks"]["clean"]["num_leaks"] == 9
    num_asked = len(fake.asked)
    start("audit", overrides)
    assert num_asked == len(fake.asked) == 2 * 2 * 9
