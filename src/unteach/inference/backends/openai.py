"""Any server that speaks OpenAI's protocol: vLLM's, SGLang's, llama.cpp's, OpenAI's own."""

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence, Set
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from unteach.config.inference import Sampling
from unteach.data.io import images
from unteach.errors import Preempted, UserError, require_extra
from unteach.inference.backends import openai_messages
from unteach.inference.backends.base import Answer, Answered, Completion, Failure, Job, Request
from unteach.inference.backends.http_client import (
    NoAnswer,
    RateLimit,
    Refused,
    RetryPolicy,
    Server,
    Unreachable,
)
from unteach.models.hub import PATH
from unteach.registry import backend

if TYPE_CHECKING:
    from PIL.Image import Image

KEY = "OPENAI_API_KEY"
GIVE_UP = 20
"""So many rows on end without an answer, however often they were asked for, are the server's fault
and not theirs."""
CHARACTERS_PER_TOKEN = 4
"""About; until the server has counted."""
LOOK_UP = 1.0
"""Seconds between two looks at whether this process was asked to stop."""
KEPT = "What was answered is kept; the same command goes on from there"

T = TypeVar("T")


@backend("openai")
@dataclass
class OpenAI:
    """A server with OpenAI's protocol, asked about many rows at once.

    The path is chat/completions, or completions where template=raw. base_url: usually ends with
    /v1. api_key_env: the environment variable that holds the key; null takes OPENAI_API_KEY where
    it is set. concurrency: questions under way. timeout: seconds for one answer. retries: of one
    question. first_wait: seconds before the second try; each next wait is twice as long.
    extra_body: what else the server takes, such as {top_k: 40}. continue_final_message: a
    conversation that ends with words of the assistant is gone on with, and not answered; vLLM and
    SGLang can, by these words of their protocol.
    """

    base_url: str
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 300.0
    retries: int = 8
    first_wait: float = 0.5
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    continue_final_message: bool = False

    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        {"do_sample", "temperature", "top_p", "num_return_sequences", "stop_strings", "perplexity"}
    )
    KINDS: ClassVar[frozenset[str]] = frozenset({"generate"})
    MODALITIES: ClassVar[frozenset[str]] = frozenset({"lm", "vlm"})
    LOCAL: ClassVar[bool] = False
    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            "api_key_env",
            "base_url",
            "concurrency",
            "timeout",
            "retries",
            "first_wait",
            "requests_per_minute",
            "tokens_per_minute",
        }
    )

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(
                "base_url must be where the server is, as http://localhost:8000/v1 or "
                f"https://api.openai.com/v1, got {self.base_url!r}"
            )
        if address.username or address.password:
            raise UserError(
                f"base_url holds a password, which would end up in files; the environment variable "
                f"{self.api_key_env or KEY} holds keys"
            )
        least = {"concurrency": 1, "retries": 0, "first_wait": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"{name} must be {bound} or more, got {getattr(self, name)}")
        for name in ("timeout", "requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} must be more than 0, got {value}")

    def check(self) -> None:
        require_extra("openai", "backend=openai")
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise UserError(
                f"backend_args.api_key_env={self.api_key_env}: this environment variable is not set"
            )

    def open(self, job: Job) -> "OpenAISession":
        if job.dist.world_size > 1:
            raise UserError(
                "backend=openai asks many questions at once in one process: start it once, and set "
                "backend_args.concurrency"
            )
        return OpenAISession(self, job)

    def read_key(self) -> str | None:
        return os.environ.get(self.api_key_env or KEY, "").strip() or None


class OpenAISession:
    """An open connection.

    The questions are asked on a thread of their own, so that slow writing stops no answer.
    """

    labels: Sequence[str] = ()

    def __init__(self, backend: OpenAI, job: Job):
        self.backend = backend
        self.dist = job.dist
        self.model = str(job.model.model_args[PATH])
        self.limit_name = openai_messages.LIMIT
        self.server = Server(
            backend.base_url,
            backend.read_key(),
            RetryPolicy(backend.timeout, backend.retries, backend.first_wait),
            RateLimit(backend.requests_per_minute),
            RateLimit(backend.tokens_per_minute),
            backend.concurrency,
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        try:
            self._start(self.server.check_reachable()).result()
        except BaseException:
            self.close()
            raise

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Set[int],
    ) -> Answered:
        waiting = (request for request in requests if request.number not in done)
        running: dict[Future[Answer | NoAnswer], int] = {}
        num_lost = 0
        try:
            while True:
                num_free = self.backend.concurrency - len(running)
                for request in islice(waiting, num_free):
                    running[self._start(self._answer(request, sampling))] = request.number
                if not running:
                    return

                # What ends the run is raised only once all that came with it is handed on.
                stop: Exception | None = None
                for future in futures.wait(running, LOOK_UP, futures.FIRST_COMPLETED).done:
                    number = running.pop(future)
                    try:
                        answer = future.result()
                    except (UserError, Preempted) as error:
                        stop = error
                        continue
                    if not isinstance(answer, NoAnswer):
                        num_lost = 0
                        yield number, answer
                        continue
                    num_lost += 1
                    yield number, Failure(str(answer))
                    if num_lost >= GIVE_UP:
                        raise UserError(
                            f"the last {num_lost} rows got no answer: {answer}\n  {KEPT}"
                        )
                if stop is not None:
                    raise stop
                self.dist.check_preemption()
        finally:
            for future in running:
                future.cancel()

    async def _answer(self, request: Request, sampling: Sampling) -> Answer | NoAnswer:
        """Answer one row; what concerns all rows is raised."""
        try:
            pictures = [await asyncio.to_thread(images.read, source) for source in request.images]
            return await self._ask(request, pictures, sampling)
        except images.Unreadable as error:
            return Failure(str(error))
        except Refused as error:
            return Failure(str(error), error.reasoning)
        except Unreachable as error:
            raise UserError(f"{error}\n  {KEPT}") from None
        except NoAnswer as error:
            return error

    async def _ask(
        self, request: Request, pictures: "Sequence[Image]", sampling: Sampling
    ) -> list[Completion]:
        path, body = openai_messages.build_question(request, pictures, sampling)
        if self.backend.continue_final_message and openai_messages.ends_with_assistant(request):
            body |= openai_messages.CONTINUED
        num_expected = (
            len(request.text) / CHARACTERS_PER_TOKEN
            + sampling.max_new_tokens * sampling.num_return_sequences
        )

        def parse(response: object) -> tuple[list[Completion], int | None]:
            return openai_messages.parse_answer(response, sampling)

        while True:
            limit_name = self.limit_name
            whole_body = {
                "model": self.model,
                **body,
                limit_name: sampling.max_new_tokens,
                **self.backend.extra_body,
            }
            try:
                answer, num_counted = await self.server.ask(
                    path,
                    whole_body,
                    num_expected,
                    parse,
                )
            except Refused as error:
                # Others of the rows under way may have learned the newer name meanwhile.
                if limit_name == openai_messages.LIMIT and openai_messages.NEWER_LIMIT in str(
                    error
                ):
                    self.limit_name = openai_messages.NEWER_LIMIT
                    continue
                raise
            if num_counted is not None:
                self.server.tokens.add(num_counted - num_expected)
            return answer

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("a server only generates")

    classify = score

    def close(self) -> None:
        self._start(self.server.client.aclose()).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
