"""backend=openai over a real socket, against a server that misbehaves on purpose."""

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import read_rows
from tests.doors import infer
from tests.inference.backends.conftest import KEY, Asked, Fake, Misdeed, answer
from unteach.config.inference import Sampling
from unteach.distributed import process_context
from unteach.errors import Preempted, RowsFailed, UserError
from unteach.inference.backends import openai_messages
from unteach.inference.backends.http_client import Refused

Infer = Callable[..., list[dict[str, Any]]]
QUESTIONS = [f"question {i} of some" for i in range(12)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def ask(fake: Fake, tmp_path: Path) -> Infer:
    path = table(tmp_path, [{"input": question} for question in QUESTIONS])

    def asked(*more: str) -> list[dict[str, Any]]:
        given = (
            "model=small",
            "backend=openai",
            f"input_file={path}",
            f"backend_args.base_url={fake.url}/v1",
        )
        infer(*given, "backend_args.first_wait=0.001", "max_new_tokens=9", *more)
        return read_rows(tmp_path / "asked_output.jsonl")

    return asked


@pytest.fixture
def output(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    return functools.partial(read_rows, tmp_path / "asked_output.jsonl")


def test_every_row_has_its_own_answer(fake: Fake, ask: Infer) -> None:
    rows = ask()
    assert [row["output"] for row in rows] == [question[::-1] for question in QUESTIONS]
    assert {(row["finish_reason"], row["error"]) for row in rows} == {("eos", None)}
    assert rows[0]["output_tokens"] == len(QUESTIONS[0])
    body = fake.asked[0].body
    assert fake.asked[0].path == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("small", 9, 0)
    assert "seed" not in body and "logprobs" not in body


def test_all_options_reach_the_server(fake: Fake, ask: Infer) -> None:
    more = (
        "temperature=0.5",
        "top_p=0.9",
        "num_return_sequences=2",
        "stop_strings=[x,y]",
        "perplexity=true",
    )
    rows = ask(*more, "template=raw", "backend_args.extra_body={top_k: 3}")
    body = fake.asked[0].body
    assert fake.asked[0].path == "/v1/completions"
    assert (body["temperature"], body["top_p"], body["n"], body["stop"], body["top_k"]) == (
        0.5,
        0.9,
        2,
        ["x", "y"],
        3,
    )
    assert len({one.body["seed"] for one in fake.asked}) == len(QUESTIONS)
    assert rows[0]["output"] == [QUESTIONS[0][::-1]] * 2
    # the end of sequence is no token of the text
    assert rows[0]["output_tokens"] == [len(QUESTIONS[0])] * 2
    assert rows[0]["perplexity"] == [pytest.approx(1.6487, abs=1e-4)] * 2


@pytest.mark.parametrize(
    "option", ["top_k=3", "min_p=0.1", "repetition_penalty=1.2", "num_beams=2", "kind=score"]
)
def test_what_the_protocol_does_not_have_is_refused_by_name(ask: Infer, option: str) -> None:
    with pytest.raises(UserError, match=f"{option.partition('=')[0]}.*backend=openai cannot do it"):
        ask(option)


MISDEEDS = {
    "too many": Misdeed(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
    "broken": Misdeed(500, "<html>oops</html>"),
    "busy": Misdeed(503, ""),
    "half an answer": Misdeed(200, {"choices": [{"message": {"content": "half"}}]}, half=True),
    "no answer": Misdeed(none=True),
    "no JSON": Misdeed(200, '{"choices": [{"mess'),
    "brackets": Misdeed(200, "[" * 100_000),
    "nothing in it": Misdeed(200, {"choices": []}),
    "silence": Misdeed(silent=True),
}


@pytest.mark.parametrize("misdeed", MISDEEDS.values(), ids=MISDEEDS.keys())
def test_a_server_that_misbehaves_twice_is_asked_a_third_time(
    fake: Fake, ask: Infer, misdeed: Misdeed
) -> None:
    bad = set(QUESTIONS[::5])
    fake.misdeed = lambda asked, turn: misdeed if asked.words in bad and turn <= 2 else None
    rows = ask("backend_args.timeout=0.5") if misdeed.silent else ask()
    assert [row["output"] for row in rows] == [question[::-1] for question in QUESTIONS]
    assert {question: len(fake.of(question)) for question in QUESTIONS} == {
        question: 3 if question in bad else 1 for question in QUESTIONS
    }


def test_rows_that_stay_unanswered_fail_alone_and_are_asked_again(
    fake: Fake, ask: Infer, output: Callable[[], list[dict[str, Any]]]
) -> None:
    def misdeed(asked: Asked, turn: int) -> Misdeed | None:
        if asked.words == QUESTIONS[3]:
            return Misdeed(400, {"error": {"message": "this prompt is too long"}})
        return Misdeed(500, "oops") if asked.words == QUESTIONS[5] else None

    fake.misdeed = misdeed
    with pytest.raises(RowsFailed, match="2 of 12 rows"):
        ask("backend_args.retries=1")
    rows = output()
    assert "HTTP 400: this prompt is too long" in rows[3]["error"] and rows[3]["output"] is None
    assert "HTTP 500: oops; asked 2 times" in rows[5]["error"]
    assert sum(row["error"] is None for row in rows) == 10
    assert (len(fake.of(QUESTIONS[3])), len(fake.of(QUESTIONS[5]))) == (1, 2)
    fake.asked.clear()
    fake.misdeed = lambda asked, turn: None
    assert [row["output"] for row in ask("backend_args.retries=1")] == [
        question[::-1] for question in QUESTIONS
    ]
    assert sorted(one.words for one in fake.asked) == [QUESTIONS[3], QUESTIONS[5]]


def test_a_wrong_key_stops_the_run_and_is_shown_nowhere(
    fake: Fake,
    ask: Infer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-secret")
    with pytest.raises(
        UserError, match=r"HTTP 401: Incorrect API key[\s\S]*It does not take this key"
    ) as refused:
        ask()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="It answers nobody without a key"):
        ask()
    assert not fake.asked
    said = str(refused.value) + "".join(capsys.readouterr())
    written = "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert "sk-wrong-secret" not in said + written
    with pytest.raises(UserError, match="api_key_env=MY_KEY: this environment variable is not set"):
        ask("backend_args.api_key_env=MY_KEY")
    monkeypatch.setenv("MY_KEY", KEY)
    assert len(ask("backend_args.api_key_env=MY_KEY")) == len(QUESTIONS)


def test_a_server_that_is_not_there(fake: Fake, ask: Infer) -> None:
    with pytest.raises(
        UserError, match=r"nothing answers at http://127.0.0.1:9/v1.*Start the server"
    ):
        ask("backend_args.base_url=http://127.0.0.1:9/v1")


def test_a_server_that_goes_away_stops_the_run_and_loses_no_answer(
    fake: Fake, ask: Infer, output: Callable[[], list[dict[str, Any]]]
) -> None:
    fake.misdeed = lambda asked, turn: Misdeed(leave=True) if asked.words == QUESTIONS[4] else None
    with pytest.raises(UserError, match=r"nothing answers at[\s\S]*What was answered is kept"):
        ask("backend_args.retries=1", "backend_args.concurrency=1")
    fake.return_()
    fake.misdeed = lambda asked, turn: None
    fake.asked.clear()
    assert [row["output"] for row in ask("backend_args.retries=1")] == [
        question[::-1] for question in QUESTIONS
    ]
    assert sorted(one.words for one in fake.asked) == sorted(QUESTIONS[4:])


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "", "http://me:secret@host/v1"])
def test_addresses_that_are_none(ask: Infer, url: str) -> None:
    with pytest.raises(UserError, match="base_url") as refused:
        ask(f"backend_args.base_url='{url}'")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (
            Misdeed(404, {"error": {"message": "no model small"}}),
            UserError,
            "no model small[\\s\\S]*must be a name",
        ),
        (Misdeed(429, {"error": {"code": "insufficient_quota"}}), UserError, "insufficient_quota"),
        (Misdeed(429, "", {"Retry-After": "7200"}), Preempted, "come back in 7200 s"),
    ],
    ids=["no such model", "no quota", "much later"],
)
def test_what_no_row_can_mend_stops_the_run(
    fake: Fake, ask: Infer, wrong: Misdeed, error: type[Exception], said: str
) -> None:
    fake.misdeed = lambda asked, turn: wrong
    with pytest.raises(error, match=said):
        ask("backend_args.concurrency=1")
    assert len(fake.asked) == 1


def test_a_server_that_answers_no_row_any_more_stops_the_run(
    fake: Fake, ask: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unteach.inference.backends import openai

    monkeypatch.setattr(openai, "GIVE_UP", 3)
    fake.misdeed = lambda asked, turn: None if asked.words in QUESTIONS[:4] else Misdeed(503, "")
    with pytest.raises(UserError, match="the last 3 rows got no answer"):
        ask("backend_args.retries=0", "backend_args.concurrency=1")
    fake.misdeed = lambda asked, turn: None
    fake.asked.clear()
    assert all(row["error"] is None for row in ask("backend_args.retries=0"))
    assert sorted(one.words for one in fake.asked) == sorted(QUESTIONS[4:])


def test_a_model_that_knows_the_newer_word_for_the_most_tokens(fake: Fake, ask: Infer) -> None:
    said = {
        "error": {
            "message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        }
    }
    fake.misdeed = lambda asked, turn: Misdeed(400, said) if "max_tokens" in asked.body else None
    assert all(row["error"] is None for row in ask("backend_args.concurrency=1"))
    assert [set(one.body) & {"max_tokens", "max_completion_tokens"} for one in fake.asked[:3]] == [
        {"max_tokens"},
        {"max_completion_tokens"},
        {"max_completion_tokens"},
    ]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"finish_reason": "content_filter"}, "ended its answer with 'content_filter'"),
        ({"logprobs": None}, "gives no log-probs"),
    ],
    ids=str,
)
def test_answers_that_are_not_what_was_asked_for(
    fake: Fake,
    ask: Infer,
    output: Callable[[], list[dict[str, Any]]],
    told: dict[str, Any],
    said: str,
) -> None:
    def other(asked: Asked) -> dict[str, Any]:
        whole = answer(asked)
        return {**whole, "choices": [{**whole["choices"][0], **told}]}

    fake.answer = other
    with pytest.raises(RowsFailed):
        ask("perplexity=true")
    assert said in output()[0]["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "usage",
                    "message",
                    "content",
                    "text",
                    "finish_reason",
                    "logprobs",
                    "index",
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.fixed_dictionaries({"choices": JSON | st.lists(JSON, min_size=1, max_size=1), "usage": JSON})
    | JSON
)
def test_no_shape_of_an_answer_is_a_bug(told: Any) -> None:
    with contextlib.suppress(ValueError, Refused):
        openai_messages.parse_answer(told, Sampling(perplexity=True))


def test_a_run_that_is_asked_to_stop_waits_for_no_silent_server(
    fake: Fake, ask: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misdeed(asked: Asked, turn: int) -> Misdeed | None:
        if asked.words != QUESTIONS[4]:
            return None
        monkeypatch.setattr(
            process_context, "_stop_requested", True
        )  # as the handler of SIGTERM does
        return Misdeed(silent=True)

    fake.misdeed = misdeed
    with pytest.raises(Preempted):
        ask("backend_args.concurrency=1")
    fake.misdeed = lambda asked, turn: None
    fake.asked.clear()
    assert all(row["error"] is None for row in ask())
    assert sorted(one.words for one in fake.asked) == sorted(QUESTIONS[4:])


def test_no_more_questions_at_once_than_allowed(fake: Fake, ask: Infer) -> None:
    import threading

    lock, now, most = threading.Lock(), 0, 0

    def count(asked: Asked) -> dict[str, Any]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        told = answer(asked)
        meeting.wait(timeout=5)  # until three are here
        with lock:
            now -= 1
        return told

    meeting = threading.Barrier(3)
    fake.answer = count
    ask("backend_args.concurrency=3")
    assert most == 3


def test_images_go_along(fake: Fake, ask: Infer, tmp_path: Path) -> None:
    import io

    from PIL import Image

    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    table(
        tmp_path,
        [
            {"input": "what colour?", "image": "red.png"},
            {"input": "and this?", "image": "absent.png"},
        ],
    )
    with pytest.raises(RowsFailed, match="1 of 2"):
        ask("modality=vlm")
    rows = read_rows(tmp_path / "asked_output.jsonl")
    assert rows[0]["output"] == "what colour?"[::-1].strip() or "?ruoloc tahw" in rows[0]["output"]
    assert "absent.png: there is no such file" in rows[1]["error"]
    picture = Image.open(io.BytesIO(fake.asked[0].pictures[0]))
    assert picture.size == (3, 2) and picture.getpixel((0, 0)) == (255, 0, 0)


WHOLE = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -1, 10**400, True, "7"])
def test_a_count_that_is_none_is_not_kept(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}
    (completion,), counted = openai_messages.parse_answer({**WHOLE, "usage": usage}, Sampling())
    assert counted is None and completion == openai_messages.parse_answer(WHOLE, Sampling())[0][0]


def test_a_null_for_text_is_no_answer_and_half_a_character_can_be_written() -> None:
    with pytest.raises(Refused, match="no text"):
        openai_messages.parse_answer(
            {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}, Sampling()
        )
    told = {"choices": [{"message": {"content": "a\ud800"}, "finish_reason": "stop"}]}
    assert openai_messages.parse_answer(told, Sampling())[0][0].text == "a?"


def read_message(message: dict[str, Any], reason: str = "stop") -> str:
    completions, _ = openai_messages.parse_answer(
        {"choices": [{"message": message, "finish_reason": reason}]}, Sampling()
    )
    return completions[0].text


def test_a_content_of_parts_is_their_text() -> None:
    parts = [{"type": "text", "text": "lis"}, {"type": "text", "text": "ted"}]
    assert read_message({"content": parts}) == "listed"
    assert read_message({"content": []}) == ""


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            {
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "refusal", "refusal": "I cannot"},
                ]
            },
            "'refusal', which is no text: I cannot",
        ),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "a part of the type 'image_url'",
        ),
        ({"content": [7]}, "a part of the type 'int'"),
        ({"content": [{"type": "text"}]}, "a part of the type 'text'"),
        ({"content": {"text": "a"}}, "dict where a text belongs"),
        ({"content": None, "refusal": "I cannot"}, "refused to answer: I cannot"),
        ({"content": None, "reasoning_content": "hm"}, "a larger max_new_tokens"),
        ({"content": "", "tool_calls": [{"function": {"name": "f"}}]}, "a call of a tool"),
        ({"content": None}, "no text"),
    ],
    ids=str,
)
def test_what_is_no_text_is_an_error_of_the_row(message: dict[str, Any], said: str) -> None:
    for reason in ("stop", "length"):
        with pytest.raises(Refused, match=said):
            read_message(message, reason)


def test_a_row_says_what_else_the_server_gave(
    fake: Fake, ask: Infer, output: Callable[[], list[dict[str, Any]]]
) -> None:
    def listed(asked: Asked) -> dict[str, Any]:
        whole = answer(asked)
        parts = [{"type": "text", "text": "listed"}]
        if asked.words == QUESTIONS[3]:
            parts.append({"type": "image", "image": "x"})
        return {
            **whole,
            "choices": [{"index": 0, "message": {"content": parts}, "finish_reason": "stop"}],
        }

    fake.answer = listed
    with pytest.raises(RowsFailed):
        ask()
    assert [row["output"] for row in output() if row["error"] is None] == ["listed"] * (
        len(QUESTIONS) - 1
    )
    assert "'image'" in output()[3]["error"]


def test_a_log_prob_that_is_no_number_is_half_an_answer() -> None:
    choice = {
        **WHOLE["choices"][0],
        "logprobs": {"content": [{"token": "yes", "logprob": float("nan")}]},
    }
    with pytest.raises(ValueError, match="a log-prob of nan"):
        openai_messages.parse_answer({"choices": [choice]}, Sampling(perplexity=True))
