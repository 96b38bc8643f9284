"""A small server with OpenAI's protocol that behaves as badly as a test wants it to."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "the-right-key"


@dataclass
class Misdeed:
    """Instead of an answer: a status and a body. half: the connection closes in the middle of it;
    none: before it;
    silent: nothing comes; leave: the whole server goes away."""

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)
    half: bool = False
    none: bool = False
    silent: bool = False
    leave: bool = False


@dataclass
class Asked:
    path: str
    body: dict[str, Any]

    @property
    def words(self) -> str:
        if "prompt" in self.body:
            return str(self.body["prompt"])
        content = self.body["messages"][-1]["content"]
        return (
            content
            if isinstance(content, str)
            else " ".join(part.get("text", "") for part in content)
        )

    @property
    def pictures(self) -> list[bytes]:
        content = self.body["messages"][-1]["content"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        return [base64.b64decode(url.partition("base64,")[2]) for url in urls]


@dataclass
class Fake:
    """misdeed: what to do about a question, and the how manieth time it is asked, instead of
    answering."""

    misdeed: Callable[[Asked, int], Misdeed | None] = lambda asked, turn: None
    answer: Callable[[Asked], dict[str, Any]] = lambda asked: answer(asked)
    asked: list[Asked] = field(default_factory=list)
    turns: Counter[str] = field(default_factory=Counter)
    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    server: Any = None

    def start(self, handler: Any, port: int = 0) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def return_(self) -> None:
        """Starts again at the same address."""
        self.start(self.server.RequestHandlerClass, self.server.server_address[1])

    def of(self, words: str) -> list[Asked]:
        return [one for one in self.asked if one.words == words]


def answer(asked: Asked) -> dict[str, Any]:
    """The words backwards, one token a character, an end of sequence told as a token beside
    them."""
    text = asked.words[::-1]
    choices = []
    for index in range(asked.body.get("n", 1)):
        choice: dict[str, Any] = {"index": index, "finish_reason": "stop", "stop_reason": None}
        tokens = [*text, "</s>"]
        if "prompt" in asked.body:
            choice["text"] = text
            told: Any = {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens)}
        else:
            choice["message"] = {"role": "assistant", "content": text}
            told = {"content": [{"token": token, "logprob": -0.5} for token in tokens]}
        if asked.body.get("logprobs") not in (None, False):
            choice["logprobs"] = told
        choices.append(choice)
    usage = {
        "prompt_tokens": len(text),
        "completion_tokens": len(text),
        "total_tokens": 2 * len(text),
    }
    return {"choices": choices, "usage": usage}


@pytest.fixture
def fake() -> Iterator[Fake]:
    told = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def send(
            self, status: int, body: bytes, headers: dict[str, str], half: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if half else body)
            if half:
                self.wfile.flush()
                self.close_connection = True

        def permitted(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {KEY}":
                return True
            said = self.headers.get("Authorization", "nothing")
            self.send(
                401, json.dumps({"error": {"message": f"Incorrect API key: {said}"}}).encode(), {}
            )
            return False

        def do_GET(self) -> None:
            if self.path in told.files:
                self.send(200, told.files[self.path], {})
            elif self.path.startswith("/v1/models"):
                if self.permitted():
                    self.send(200, b'{"data": [{"id": "small"}]}', {})
            else:
                self.send(404, b"nothing here", {})

        def do_POST(self) -> None:
            asked = Asked(
                self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            )
            if not self.permitted():
                return
            told.asked.append(asked)
            told.turns[asked.words] += 1
            wrong = told.misdeed(asked, told.turns[asked.words])
            if wrong is None:
                self.send(200, json.dumps(told.answer(asked)).encode(), {})
            elif wrong.silent:
                told.over.wait()
                self.close_connection = True
            elif wrong.none or wrong.leave:
                self.close_connection = True
                if wrong.leave:
                    told.stop()
            else:
                body = wrong.body if isinstance(wrong.body, str) else json.dumps(wrong.body)
                self.send(wrong.status, body.encode(), wrong.headers, wrong.half)

    told.start(Handler)
    yield told
    told.over.set()
    told.stop()
