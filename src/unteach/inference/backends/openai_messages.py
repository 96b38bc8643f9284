"""What is asked in OpenAI's protocol, and what the answers mean.

Servers take the protocol's shapes freely: every value of an answer is looked at before it is used.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unteach.config.inference import Sampling
from unteach.inference.backends.base import Completion, Request
from unteach.inference.backends.http_client import Refused

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""How the most tokens are called; some of OpenAI's own models take only the newer name, and say
so."""
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}
"""By which vLLM and SGLang go on with the last message, and do not answer it."""
LARGEST_COUNT = 2**53
TEXT_PARTS = ("text", "output_text")

JSONDict = dict[str, Any]


def build_question(
    request: Request,
    pictures: "Sequence[Image]",
    sampling: Sampling,
) -> tuple[str, JSONDict]:
    """Build the path and the body of one question, without the model and the most tokens."""
    options = _build_options(request, sampling)
    if request.messages is None:
        if sampling.perplexity:
            options["logprobs"] = 1
        return "/completions", {"prompt": request.text, **options}
    if sampling.perplexity:
        options["logprobs"] = True
    messages = _put_pictures_in(request.messages, pictures)
    return "/chat/completions", {"messages": messages, **options}


def ends_with_assistant(request: Request) -> bool:
    """Say whether the last words of a conversation are the assistant's."""
    messages = request.messages or ()
    return bool(messages) and messages[-1]["role"] == "assistant"


def _build_options(request: Request, sampling: Sampling) -> JSONDict:
    options: JSONDict = {"temperature": 0}
    if sampling.drawn:
        options["temperature"] = 1 if sampling.temperature is None else sampling.temperature
        options["seed"] = request.seed
    if sampling.top_p is not None:
        options["top_p"] = sampling.top_p
    if sampling.num_return_sequences > 1:
        options["n"] = sampling.num_return_sequences
    if sampling.stop_strings:
        options["stop"] = sampling.stop_strings
    return options


def _put_pictures_in(messages: Sequence[JSONDict], pictures: "Sequence[Image]") -> list[JSONDict]:
    """Replace each `image` part, in order, by its picture."""
    num_places = 0
    for message in messages:
        if isinstance(message["content"], list | tuple):
            num_places += sum(_is_image(part) for part in message["content"])
    if num_places != len(pictures):
        raise Refused(
            f"the conversation has {num_places} places for images, and the row {len(pictures)} "
            f"images"
        )
    remaining = iter(pictures)
    filled = []
    for message in messages:
        content = _fill_content(message["content"], remaining)
        filled.append({**message, "content": content})
    return filled


def _fill_content(content: object, remaining: "Iterator[Image]") -> object:
    if not isinstance(content, list | tuple):
        return content
    parts: list[object] = []
    for part in content:
        if _is_image(part):
            url = _encode_picture(next(remaining))
            part = {"type": "image_url", "image_url": {"url": url}}
        parts.append(part)
    return parts


def _is_image(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "image"


def _encode_picture(picture: "Image") -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def parse_answer(response: object, sampling: Sampling) -> tuple[list[Completion], int | None]:
    """Read the texts of one answer, and how many tokens the server counted in all.

    Raises:
        ValueError: where it is not whole, so that asking again may help.
        Refused: where it is not what was asked for.
    """
    try:
        body: Any = response
        return _parse_completions(body, sampling), _read_count(body.get("usage"), "total_tokens")
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not of the protocol's shape: {error}") from None


def _parse_completions(body: JSONDict, sampling: Sampling) -> list[Completion]:
    if not body["choices"]:
        raise ValueError("no choices in it")
    choices = sorted(body["choices"], key=lambda choice: choice.get("index") or 0)
    num_expected = sampling.num_return_sequences
    if len(choices) != num_expected:
        raise Refused(
            f"the server gave {len(choices)} texts, and num_return_sequences={num_expected} were "
            f"asked for"
        )
    usage = body.get("usage") or {}
    return [_parse_completion(choice, usage, sampling) for choice in choices]


def _parse_completion(
    choice: JSONDict,
    usage: JSONDict,
    sampling: Sampling,
) -> Completion:
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise Refused(f"the server ended its answer with {reason!r}")
    # Half a character cannot be written.
    text = _read_text(choice).encode("utf-8", "replace").decode()

    tokens = _read_tokens(choice.get("logprobs"))
    if sampling.perplexity and tokens is None:
        raise Refused("the server gives no log-probs, which perplexity is made of")
    if tokens is not None and reason == "stop":
        ended_itself = "stop_reason" in choice and choice["stop_reason"] is None
        tokens = _drop_end(tokens, text, ended_itself)

    # Of several texts the server counts the sum only.
    num_tokens = None
    if tokens is not None:
        num_tokens = len(tokens)
    elif sampling.num_return_sequences == 1:
        num_tokens = _read_count(usage, "completion_tokens")
    logprobs = None
    if tokens is not None and sampling.perplexity:
        logprobs = tuple(token.logprob for token in tokens)
    return Completion(
        text=text,
        finish="length" if reason == "length" else _find_end(choice, sampling),
        tokens=num_tokens,
        logprobs=logprobs,
        prompt_tokens=_read_count(usage, "prompt_tokens"),
        reasoning=_read_reasoning(choice),
    )


def _find_end(choice: JSONDict, sampling: Sampling) -> Literal["eos", "stop"]:
    """Say what ended a text. vLLM tells it; elsewhere it is a stop string where there are any."""
    unknown = "" if sampling.stop_strings else None
    return "stop" if isinstance(choice.get("stop_reason", unknown), str) else "eos"


def _read_text(choice: JSONDict) -> str:
    """Read the text of one answer; its content may be a list of parts.

    Raises:
        Refused: where it is no text.
    """
    message = choice.get("message") or {}
    if message.get("tool_calls") or message.get("function_call"):
        raise Refused("the server answered with a call of a tool, not with a text")
    if message.get("refusal"):
        raise Refused(f"the server refused to answer: {message['refusal']}")
    content = message.get("content", choice.get("text"))
    if content is None:
        reasoning = _read_reasoning(choice)
        advice = ": it only reasoned; a larger max_new_tokens leaves room for an answer"
        raise Refused(f"the server gave no text (null){advice if reasoning else ''}", reasoning)
    if isinstance(content, list):
        return "".join(_read_text_of_part(part) for part in content)
    if not isinstance(content, str):
        raise Refused(f"the server gave {type(content).__name__} where a text belongs")
    return content


def _read_reasoning(choice: JSONDict) -> str:
    """Read what the model thought before its answer, where the server gives that apart."""
    message = choice.get("message") or {}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return reasoning if isinstance(reasoning, str) else ""


def _read_text_of_part(part: object) -> str:
    kind: object = type(part).__name__
    text: object = None
    reason = ""
    if isinstance(part, dict):
        kind, text = part.get("type"), part.get("text")
        if kind == "refusal" and part.get("refusal"):
            reason = f": {part['refusal']}"
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise Refused(
            f"the server's answer holds a part of the type {kind!r}, which is no text{reason}"
        )
    return text


def _read_count(usage: object, name: str) -> int | None:
    """Read how many tokens the server counted; None where it says no such number."""
    count = usage.get(name) if isinstance(usage, dict) else None
    is_count = type(count) is int and 0 <= count < LARGEST_COUNT
    return count if is_count else None


@dataclass(frozen=True)
class ServerToken:
    """A token as a server tells it. size: of its part of the text, in bytes of UTF-8."""

    logprob: float
    size: int


def _read_tokens(logprobs: JSONDict | None) -> list[ServerToken] | None:
    """Read the tokens of an answer, from the shape of either endpoint."""
    if not logprobs:
        return None
    if logprobs.get("content") is not None:
        return [_read_chat_token(token) for token in logprobs["content"]]
    if logprobs.get("token_logprobs") is None:
        return None
    tokens = []
    for text, value in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True):
        size = len(text.encode())
        tokens.append(ServerToken(_read_logprob(value), size))
    return tokens


def _read_chat_token(token: JSONDict) -> ServerToken:
    """Read a token of the chat endpoint."""
    text_bytes = token.get("bytes")
    size = len(token["token"].encode()) if text_bytes is None else len(text_bytes)
    return ServerToken(_read_logprob(token["logprob"]), size)


def _read_logprob(value: float) -> float:
    """Read a log-prob. Raises ValueError where it is no finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a log-prob of {number}")
    return number


def _drop_end(
    tokens: list[ServerToken],
    text: str,
    ended_itself: bool,
) -> list[ServerToken]:
    """Drop what ended the text, a stop string or the end of sequence, if it is told as tokens.

    Args:
        ended_itself: vLLM says so, and then it is the last token; otherwise those are dropped that
            begin where the text is over.
    """
    if ended_itself:
        return tokens[:-1]
    # Half a character is no part of any token.
    size = len(text.replace("\N{REPLACEMENT CHARACTER}", "").encode())
    kept = []
    start = 0
    for token in tokens:
        if start < size:
            kept.append(token)
        start += token.size
    return kept
