"""Chat templates of others: a program that a downloaded model brings along, and that must end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from unteach.errors import UserError

LONGEST = 10.0
"""Seconds for one conversation; templates take well under a millisecond."""
MEND = "give the model another template, or set template=qa or template=raw"

T = TypeVar("T")


class _TimeOver(BaseException):
    """The time is over. No Exception: a library that renders may catch those."""


def render(template: object, rendering: Callable[[], T]) -> T:
    """Render a chat template within a time limit.

    Args:
        template: the template's text, or several by name, as a tokenizer has them.
        rendering: renders it.

    Raises:
        UserError: it does not end, fails, or cannot show this conversation.
    """
    # Only a run that renders chats waits for it.
    from jinja2 import TemplateError

    refuse_powers(template)
    try:
        with _limit_time(LONGEST):
            return rendering()
    except _TimeOver:
        raise UserError(
            f"the chat template of this model was not done with one conversation after {LONGEST:g} "
            f"s, and would perhaps never be: {MEND}"
        ) from None
    except TemplateError as error:
        raise UserError(f"the chat template cannot show this conversation: {error}") from None
    except UserError:
        raise
    except (
        ValueError,
        RecursionError,
        ArithmeticError,
        MemoryError,
        TypeError,
        AttributeError,
        LookupError,
    ) as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"the chat template of this model fails on a conversation ({type(error).__name__}: "
            f"{message}): {MEND}"
        ) from None


def refuse_powers(template: object) -> None:
    """Refuse a template that takes a number to a power: one such step may last for hours,
    uninterrupted."""
    texts = template.values() if isinstance(template, dict) else [template]
    for text in texts:
        if isinstance(text, str) and "**" in text and _has_power(text):
            raise UserError(
                f"the chat template of this model computes a power (**), which no template needs: "
                f"{MEND}"
            )


def _has_power(text: str) -> bool:
    """Whether a template has the operator **, apart from where it spreads arguments."""
    from jinja2 import Environment, TemplateSyntaxError

    previous = ""
    try:
        for _, kind, value in Environment().lex(text):
            if kind == "whitespace":
                continue
            # After these it spreads arguments.
            if kind == "operator" and value == "**" and previous not in ("(", ","):
                return True
            previous = value
    except TemplateSyntaxError:  # whoever renders it will say so
        return False
    return False


@contextmanager
def _limit_time(seconds: float) -> Iterator[None]:
    """Stop what takes longer. Signals reach the main thread alone; elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeOver

    handler = signal.signal(signal.SIGALRM, stop)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's time goes on
            signal.setitimer(signal.ITIMER_REAL, left, every)
