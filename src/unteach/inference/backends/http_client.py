"""A server that answers slowly, says "later", breaks off in the middle, or is not there: asked
until it answers.

An answer is asked for again after no connection, a broken or half answer, a time-out, 408, 409,
425, 429 and 5xx, each time after about twice as long, with jitter, and never before the time that
the server named. All other refusals are
final: of this question (400, 413, 422…) or, a wrong key or address, of all of them.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from unteach.errors import Preempted, UserError, explain_unreadable

if TYPE_CHECKING:
    import httpx2

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FIRST_WAIT, LONGEST_WAIT, TOO_LONG = 0.5, 60.0, 600.0
"""Seconds: before the second try, between two tries at most, and a wait that the user should know
about."""

T = TypeVar("T")


class Refused(Exception):
    """The server does not answer this question, and asking again would not help."""


class Trouble(Exception):
    """The server gave no whole answer, however often it was asked."""


class Unreached(Exception):
    """Nothing takes connections at the address, and no question can be asked."""


class Pace:
    """So many a minute, evenly spread; None is as fast as they come. clock: seconds."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic):
        self.apart = 60.0 / per_minute if per_minute else 0.0
        self.clock, self.free = clock, float("-inf")

    def turn(self, amount: float = 1.0) -> float:
        """Takes the next free moment for so many; how many seconds it is away."""
        now = self.clock()
        start = max(self.free, now)
        self.free = start + amount * self.apart
        return start - now

    def spend(self, amount: float) -> None:
        """Counts more (or, below zero, fewer) than were taken."""
        self.free += amount * self.apart

    def hold(self, seconds: float) -> None:
        """Nobody's turn comes before so many seconds are over."""
        self.free = max(self.free, self.clock() + seconds)


def wait(attempt: int, told: float, first: float, chance: float) -> float:
    """Seconds between try number `attempt` (from 0) and the next: doubling, with jitter, and no
    less than was told."""
    return max(told, min(LONGEST_WAIT, first * 2**attempt) * (0.5 + chance / 2))


def told_to_wait(headers: Mapping[str, str], now: float) -> float:
    """What a Retry-After header asks for, in seconds; it holds seconds, or a date. now: seconds
    since 1970."""
    said = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


class Server:
    """The server at `base_url`, asked as often and as fast as it may be. sleep: how a wait is
    waited."""

    def __init__(
        self,
        base_url: str,
        key: str | None,
        timeout: float,
        retries: int,
        first_wait: float,
        requests: Pace,
        tokens: Pace,
        connections: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        import httpx2

        self.base_url = base_url.rstrip("/")
        self.key = key
        self.timeout = timeout
        self.retries = retries
        self.first_wait = first_wait
        self.requests = requests
        self.tokens = tokens
        self.sleep = sleep
        self.client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout, pool=None),
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections
            ),
        )

    async def greet(self) -> None:
        """Raises UserError where nothing answers at the address, or not to this key."""
        import httpx2

        try:
            async with asyncio.timeout(self.timeout):
                response = await self.client.get(f"{self.base_url}/models")
        except (httpx2.TransportError, TimeoutError) as error:
            raise UserError(self._unreached(error)) from None
        if response.status_code == 401:
            raise UserError(self._wrong_key(response))

    async def ask(
        self, path: str, body: dict[str, Any], tokens: float, read: Callable[[Any], T]
    ) -> T:
        """What `read` makes of the answer to one question; a ValueError of it is a half answer.

        tokens: about how many the question and its answer cost. Raises Refused, Trouble or
            Unreached for this question, UserError for all.
        """
        for attempt in range(self.retries + 1):
            await self._turn(tokens)
            told, unreached = 0.0, False
            try:
                response = await self._post(path, body)
            except Unreached as error:
                trouble, unreached = str(error), True
            except Trouble as error:
                trouble = str(error)
            else:
                if response.status_code == 200:
                    try:
                        return read(json.loads(response.content))
                    except (ValueError, RecursionError) as error:
                        trouble = f"half an answer ({explain_unreadable(error)})"
                else:
                    self._refuse_what_is_final(response)
                    trouble = self._said(response)
                    told = told_to_wait(response.headers, time.time())
            if told > TOO_LONG:
                raise Preempted(
                    f"{trouble}\n  The server asks to come back in {told:.0f} s; run the same "
                    f"command then"
                )
            if attempt < self.retries:
                self.requests.hold(told)
                await self.sleep(wait(attempt, told, self.first_wait, random.random()))
        raise (
            Unreached(trouble)
            if unreached
            else Trouble(f"{trouble}; asked {self.retries + 1} times")
        )

    async def _post(self, path: str, body: dict[str, Any]) -> "httpx2.Response":
        import httpx2

        try:
            async with asyncio.timeout(self.timeout):
                return await self.client.post(f"{self.base_url}{path}", json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unreached(self._unreached(error)) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise Trouble(f"no answer within {self.timeout:g} s (backend_args.timeout)") from None
        except httpx2.HTTPError as error:
            raise Trouble(f"the answer broke off ({_words(error)})") from None

    async def _turn(self, tokens: float) -> None:
        for away in (self.requests.turn(), self.tokens.turn(tokens)):
            if away > 0:
                await self.sleep(away)

    def _refuse_what_is_final(self, response: "httpx2.Response") -> None:
        status = response.status_code
        if status == 401:
            raise UserError(self._wrong_key(response))
        if status == 404:
            raise UserError(
                f"{self._said(response)}\n  model= must be a name that the server knows (it lists "
                f"them at "
                f"{self.base_url}/models), and backend_args.base_url usually ends with /v1"
            )
        if "insufficient_quota" in response.text:
            raise UserError(
                f"{self._said(response)}\n  What was answered is kept; the same command goes on "
                f"from there"
            )
        if status not in AGAIN and status < 500:
            raise Refused(self._said(response))

    def _said(self, response: "httpx2.Response") -> str:
        """The status and the server's own words, without the key that it may repeat."""
        try:
            told = json.loads(response.content)
            error = told.get("error") or told.get("message") or told.get("detail") or told
            words = error.get("message", error) if isinstance(error, dict) else error
        except (ValueError, AttributeError, RecursionError):
            words = response.text
        words = " ".join(str(words).split())[:500]
        if self.key:
            words = words.replace(self.key, "…")
        return f"{self.base_url} answered HTTP {response.status_code}" + (
            f": {words}" if words else ""
        )

    def _wrong_key(self, response: "httpx2.Response") -> str:
        told = "does not take this key" if self.key else "answers nobody without a key"
        return (
            f"{self._said(response)}\n  It {told}: put the right one into the environment variable "
            "that backend_args.api_key_env names (OPENAI_API_KEY where it names none)"
        )

    def _unreached(self, error: BaseException) -> str:
        return (
            f"nothing answers at {self.base_url} ({_words(error)}). Start the server, or mend "
            "backend_args.base_url (for a local one something like http://localhost:8000/v1)"
        )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
