"""What is said to a server in OpenAI's protocol, and what its answers mean."""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unteach.config.inference import Sampling
from unteach.inference.backends.base import Completion, Request
from unteach.inference.backends.http_client import Refused

LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""How the most tokens are called; some of OpenAI's own models take only the newer name, and say
so."""


def question(
    request: Request, pictures: Sequence[Any], sampling: Sampling
) -> tuple[str, dict[str, Any]]:
    """The path and the body of one question, without the model and the most tokens; plain words are
    a completion."""
    chosen: dict[str, Any] = {"temperature": 0}
    if sampling.drawn:
        chosen = {
            "temperature": 1 if sampling.temperature is None else sampling.temperature,
            "seed": request.seed,
        }
    if sampling.top_p is not None:
        chosen["top_p"] = sampling.top_p
    if sampling.num_return_sequences > 1:
        chosen["n"] = sampling.num_return_sequences
    if sampling.stop_strings:
        chosen["stop"] = sampling.stop_strings
    if request.messages is None:
        return "/completions", {
            "prompt": request.text,
            **chosen,
            **({"logprobs": 1} if sampling.perplexity else {}),
        }
    body = {"messages": _with_pictures(request.messages, pictures), **chosen}
    return "/chat/completions", {**body, **({"logprobs": True} if sampling.perplexity else {})}


def _with_pictures(
    messages: Sequence[dict[str, Any]], pictures: Sequence[Any]
) -> list[dict[str, Any]]:
    """The messages with each `image` part, in order, as its picture."""
    left = iter(pictures)
    parts = [
        part
        for turn in messages
        if isinstance(turn["content"], list | tuple)
        for part in turn["content"]
    ]
    if (places := sum(_is_image(part) for part in parts)) != len(pictures):
        raise Refused(
            f"the conversation has {places} places for images, and the row {len(pictures)} images"
        )

    def part(one: object) -> Any:
        if _is_image(one):
            return {"type": "image_url", "image_url": {"url": _data_url(next(left))}}
        return one

    def said(content: object) -> Any:
        return [part(one) for one in content] if isinstance(content, list | tuple) else content

    return [{**message, "content": said(message["content"])} for message in messages]


def _is_image(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "image"


def _data_url(picture: Any) -> str:
    held = io.BytesIO()
    picture.save(held, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def answer(told: Any, sampling: Sampling) -> tuple[list[Completion], int | None]:
    """The texts of one answer, and how many tokens the server counted for it and its question.

    Raises ValueError where it is not whole, Refused where it is not what was asked for.
    """
    try:
        return _completions(told, sampling), _count(told.get("usage"), "total_tokens")
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not of the protocol's shape: {error}") from None


def _completions(told: Any, sampling: Sampling) -> list[Completion]:
    if not told["choices"]:
        raise ValueError("no choices in it")
    choices = sorted(told["choices"], key=lambda choice: choice.get("index") or 0)
    asked = sampling.num_return_sequences
    if len(choices) != asked:
        raise Refused(
            f"the server gave {len(choices)} texts, and num_return_sequences={asked} were asked for"
        )
    usage = told.get("usage") or {}
    return [_completion(choice, usage, sampling) for choice in choices]


def _completion(choice: Any, usage: dict[str, Any], sampling: Sampling) -> Completion:
    reason, message = choice.get("finish_reason"), choice.get("message") or {}
    if reason not in ("stop", "length"):
        raise Refused(f"the server ended its answer with {reason!r}")
    # half a character cannot be written
    text = _text(choice, message).encode("utf-8", "replace").decode()
    pieces = _pieces(choice.get("logprobs"))
    if sampling.perplexity and pieces is None:
        raise Refused("the server gives no log-probs, which perplexity is made of")
    if pieces is not None and reason == "stop":
        pieces = _of_text(
            pieces, text, ended_itself="stop_reason" in choice and choice["stop_reason"] is None
        )
    # vLLM's own word; others say less
    stop = choice.get("stop_reason", "" if sampling.stop_strings else None)
    ended: Literal["eos", "stop"] = "stop" if isinstance(stop, str) else "eos"
    counted = _count(usage, "completion_tokens") if sampling.num_return_sequences == 1 else None
    known = None if pieces is None else tuple(piece.logprob for piece in pieces)
    return Completion(
        text,
        "length" if reason == "length" else ended,
        counted if known is None else len(known),
        known if sampling.perplexity else None,
        _count(usage, "prompt_tokens"),
    )


def _text(choice: dict[str, Any], message: dict[str, Any]) -> str:
    """The text of one answer; its content may be a list of parts. Raises Refused where it is no
    text."""
    if message.get("tool_calls") or message.get("function_call"):
        raise Refused("the server answered with a call of a tool, not with a text")
    if message.get("refusal"):
        raise Refused(f"the server refused to answer: {message['refusal']}")
    content = message.get("content", choice.get("text"))
    if content is None:
        thought = message.get("reasoning_content") or message.get("reasoning")
        why = (
            ": it only reasoned; a larger max_new_tokens leaves room for an answer"
            if thought
            else ""
        )
        raise Refused(f"the server gave no text (null){why}")
    if isinstance(content, list):
        return "".join(_text_of_part(part) for part in content)
    if not isinstance(content, str):
        raise Refused(f"the server gave {type(content).__name__} where a text belongs")
    return content


def _text_of_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind not in ("text", "output_text") or not isinstance(part.get("text"), str):
        said = f": {part['refusal']}" if kind == "refusal" and part.get("refusal") else ""
        raise Refused(
            f"the server's answer holds a part of the type {kind!r}, which is no text{said}"
        )
    text: str = part["text"]
    return text


def _count(usage: Any, name: str) -> int | None:
    """How many tokens the server counted; None where it says no such number."""
    counted = usage.get(name) if isinstance(usage, dict) else None
    return counted if type(counted) is int and 0 <= counted < 2**53 else None


def _logprob(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"a log-prob of {number}")
    return number


@dataclass(frozen=True)
class Piece:
    """A token as a server tells it. size: of its part of the text, in bytes of UTF-8."""

    logprob: float
    size: int


def _pieces(logprobs: Any) -> list[Piece] | None:
    """The tokens of an answer, from the shape of either endpoint."""
    if not logprobs:
        return None
    if logprobs.get("content") is not None:
        return [
            Piece(
                _logprob(one["logprob"]),
                len(one["token"].encode() if one.get("bytes") is None else one["bytes"]),
            )
            for one in logprobs["content"]
        ]
    if logprobs.get("token_logprobs") is None:
        return None
    told = zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    return [Piece(_logprob(logprob), len(token.encode())) for token, logprob in told]


def _of_text(pieces: list[Piece], text: str, ended_itself: bool) -> list[Piece]:
    """Without what ended the text, a stop string or the end of sequence, which some servers tell as
    tokens, too.

    ended_itself: vLLM says so, and then it is the last token; otherwise those that begin where the
    text is over.
    """
    if ended_itself:
        return pieces[:-1]
    # half a character is no part of any token
    size = len(text.replace("\N{REPLACEMENT CHARACTER}", "").encode())
    begins = itertools.accumulate((piece.size for piece in pieces), initial=0)
    return [piece for piece, begin in zip(pieces, begins, strict=False) if begin < size]
