"""Post questions to a server until it answers: one that is slow, says "later", breaks off in the
middle, or is not there.

A question is asked again after no connection, a broken or half answer, a time-out, 408, 409, 425,
429 and 5xx, each time after about twice as long, with jitter, and never before the time that the
server named. All other refusals are final: of this question (400, 413, 422…) or, a wrong key or
address, of all of them. docs/decisions/openai-client.md says why this is not the `openai` library.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from unteach.errors import Preempted, UserError, explain_unreadable

if TYPE_CHECKING:
    import httpx2

RETRIED_STATUSES = frozenset({408, 409, 425, 429})
"""Besides all from 500 on."""
LONGEST_WAIT = 60.0
"""Seconds between two tries, unless the server asks for more."""
TOO_LONG = 600.0
"""Seconds that are not waited for: the run ends instead, and the user is told when to go on."""
MESSAGE_LENGTH = 500
"""Characters of a server's own words that a message repeats."""

T = TypeVar("T")


class Refused(Exception):
    """The server does not answer this question, and asking again would not help.

    Args:
        reasoning: what the model thought, where it thought only.
    """

    def __init__(self, why: str, reasoning: str = ""):
        super().__init__(why)
        self.reasoning = reasoning


class NoAnswer(Exception):
    """The server gave no whole answer, however often it was asked."""


class Unreachable(NoAnswer):
    """Nothing takes connections at the address, and no question can be asked."""


class RateLimit:
    """So many a minute, evenly spread.

    Args:
        per_minute: None for as many as come.
        clock: seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic):
        self.seconds_apart = 60.0 / per_minute if per_minute else 0.0
        self.clock = clock
        self.next_start = float("-inf")

    def reserve(self, amount: float = 1.0) -> float:
        """Take the next free moment for so many; return how many seconds it is away."""
        now = self.clock()
        start = max(self.next_start, now)
        self.next_start = start + amount * self.seconds_apart
        return start - now

    def add(self, amount: float) -> None:
        """Count more (or, below zero, fewer) than were reserved."""
        self.next_start += amount * self.seconds_apart

    def pause(self, seconds: float) -> None:
        """Let nobody start before so many seconds are over."""
        self.next_start = max(self.next_start, self.clock() + seconds)


def compute_wait(
    attempt: int,
    at_least: float,
    first_wait: float,
    jitter: float,
) -> float:
    """Compute the seconds between a try and the next: doubling, and no less than the server asks.

    Args:
        attempt: number of the try that failed, from 0.
        jitter: from 0, for half of the wait, to 1, for all of it.
    """
    longest = min(LONGEST_WAIT, first_wait * 2**attempt)
    return max(at_least, longest * (0.5 + jitter / 2))


def parse_retry_after(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds that a Retry-After header asks for; it holds seconds, or a date.

    Args:
        now: seconds since 1970.
    """
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


@dataclass
class RetryPolicy:
    """How often and how long one question is asked, by the names of `backend_args`."""

    timeout: float
    retries: int
    first_wait: float


class Server:
    """A server, asked as often and as fast as it may be.

    Args:
        key: sent with every question; no message repeats it.
        requests, tokens: how fast, counted each way.
        sleep: how a wait is waited.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        policy: RetryPolicy,
        requests: RateLimit,
        tokens: RateLimit,
        num_connections: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        import httpx2

        self.base_url = base_url.rstrip("/")
        self.key = key
        self.policy = policy
        self.requests = requests
        self.tokens = tokens
        self.sleep = sleep
        self.client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(policy.timeout, pool=None),
            limits=httpx2.Limits(
                max_connections=num_connections,
                max_keepalive_connections=num_connections,
            ),
        )

    async def check_reachable(self) -> None:
        """Raise UserError where nothing answers at the address, or not to this key."""
        import httpx2

        try:
            async with asyncio.timeout(self.policy.timeout):
                response = await self.client.get(f"{self.base_url}/models")
        except (httpx2.TransportError, TimeoutError) as error:
            raise UserError(self._explain_unreachable(error)) from None
        if response.status_code == 401:
            raise UserError(self._explain_wrong_key(response))

    async def ask(
        self, path: str, body: dict[str, Any], num_tokens: float, parse: Callable[[Any], T]
    ) -> T:
        """Post one question, again and again if need be.

        Args:
            num_tokens: about how many the question and its answer cost.
            parse: makes of the answer's JSON what is returned; its ValueError is a half answer.

        Raises:
            Refused, NoAnswer, Unreachable: for this question.
            UserError, Preempted: for all questions.
        """
        attempt = 0
        while True:
            await self._take_turn(num_tokens)
            seconds_asked_for = 0.0
            try:
                response = await self._post(path, body)
                if response.status_code == 200:
                    return self._parse(response, parse)
                self._raise_what_is_final(response)
                failure = NoAnswer(self._quote(response))
                seconds_asked_for = parse_retry_after(response.headers, time.time())
            except NoAnswer as error:
                failure = error

            if seconds_asked_for > TOO_LONG:
                raise Preempted(
                    f"{failure}\n  The server asks to come back in {seconds_asked_for:.0f} s; run "
                    f"the same command then"
                )
            if attempt == self.policy.retries:
                raise self._explain_giving_up(failure)
            # A server that says "later" to one question means all of them.
            self.requests.pause(seconds_asked_for)
            jitter = random.random()
            wait = compute_wait(
                attempt,
                seconds_asked_for,
                self.policy.first_wait,
                jitter,
            )
            await self.sleep(wait)
            attempt += 1

    async def _take_turn(self, num_tokens: float) -> None:
        for seconds in (self.requests.reserve(), self.tokens.reserve(num_tokens)):
            if seconds > 0:
                await self.sleep(seconds)

    async def _post(self, path: str, body: dict[str, Any]) -> "httpx2.Response":
        import httpx2

        try:
            # The library's own time-out is of each piece that arrives: this one is of the whole.
            async with asyncio.timeout(self.policy.timeout):
                return await self.client.post(f"{self.base_url}{path}", json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unreachable(self._explain_unreachable(error)) from None
        except (TimeoutError, httpx2.TimeoutException):
            seconds = self.policy.timeout
            raise NoAnswer(f"no answer within {seconds:g} s (backend_args.timeout)") from None
        except httpx2.HTTPError as error:
            raise NoAnswer(f"the answer broke off ({_describe(error)})") from None

    def _parse(self, response: "httpx2.Response", parse: Callable[[Any], T]) -> T:
        try:
            return parse(json.loads(response.content))
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"half an answer ({explain_unreadable(error)})") from None

    def _raise_what_is_final(self, response: "httpx2.Response") -> None:
        """Raise UserError or Refused for a status that asking again would not change."""
        status = response.status_code
        message = self._quote(response)
        if status == 401:
            raise UserError(self._explain_wrong_key(response))
        if status == 404:
            raise UserError(
                f"{message}\n  model= must be a name that the server knows (it lists them at "
                f"{self.base_url}/models), and backend_args.base_url usually ends with /v1"
            )
        if "insufficient_quota" in response.text:
            raise UserError(
                f"{message}\n  What was answered is kept; the same command goes on from there"
            )
        if status not in RETRIED_STATUSES and status < 500:
            raise Refused(message)

    def _quote(self, response: "httpx2.Response") -> str:
        """Say the status and the server's own words, without the key that it may repeat."""
        text = " ".join(_find_message(response).split())
        if self.key:
            text = text.replace(self.key, "…")
        text = text[:MESSAGE_LENGTH]
        status = f"{self.base_url} answered HTTP {response.status_code}"
        return f"{status}: {text}" if text else status

    def _explain_wrong_key(self, response: "httpx2.Response") -> str:
        what = "does not take this key" if self.key else "answers nobody without a key"
        return (
            f"{self._quote(response)}\n  It {what}: put the right one into the environment "
            "variable that backend_args.api_key_env names (OPENAI_API_KEY where it names none)"
        )

    def _explain_unreachable(self, error: BaseException) -> str:
        return (
            f"nothing answers at {self.base_url} ({_describe(error)}). Start the server, or mend "
            "backend_args.base_url (for a local one something like http://localhost:8000/v1)"
        )

    def _explain_giving_up(self, failure: NoAnswer) -> NoAnswer:
        if isinstance(failure, Unreachable):
            return failure
        return NoAnswer(f"{failure}; asked {self.policy.retries + 1} times")


def _find_message(response: "httpx2.Response") -> str:
    """Find the words of an error; servers differ in where they put them."""
    try:
        body = json.loads(response.content)
        error = body.get("error") or body.get("message") or body.get("detail") or body
    except (ValueError, AttributeError, RecursionError):
        return response.text
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
