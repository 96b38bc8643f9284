"""What is said to a server in OpenAI's protocol, and what its answers mean."""

import base64
import io
from collections.abc import Sequence
from typing import Any, Literal

from unteach.engines.backends.base import Completion, Request
from unteach.engines.backends.server import Refused
from unteach.inference import Sampling

LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""How the most tokens are called; some of OpenAI's own models take only the newer name, and say so."""
HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


def question(request: Request, pictures: Sequence[Any], sampling: Sampling) -> tuple[str, dict[str, Any]]:
    """The path and the body of one question, without the model and the most tokens; plain words are a completion."""
    chosen: dict[str, Any] = {"temperature": 0}
    if sampling.drawn:
        chosen = {"temperature": 1 if sampling.temperature is None else sampling.temperature, "seed": request.seed}
    if sampling.top_p is not None:
        chosen["top_p"] = sampling.top_p
    if sampling.num_return_sequences > 1:
        chosen["n"] = sampling.num_return_sequences
    if sampling.stop_strings:
        chosen["stop"] = sampling.stop_strings
    if request.messages is None:
        return "/completions", {"prompt": request.text, **chosen, **({"logprobs": 1} if sampling.perplexity else {})}
    body = {"messages": _with_pictures(request.messages, pictures), **chosen}
    return "/chat/completions", {**body, **({"logprobs": True} if sampling.perplexity else {})}


def _with_pictures(messages: Sequence[dict[str, Any]], pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages with each `image` part, in order, as its picture."""
    left = iter(pictures)
    parts = [part for turn in messages if isinstance(turn["content"], list | tuple) for part in turn["content"]]
    if (places := sum(_is_image(part) for part in parts)) != len(pictures):
        raise Refused(f"the conversation has {places} places for images, and the row {len(pictures)} images")

    def part(one: Any) -> Any:
        if _is_image(one):
            return {"type": "image_url", "image_url": {"url": _data_url(next(left))}}
        return one

    def said(content: Any) -> Any:
        return [part(one) for one in content] if isinstance(content, list | tuple) else content

    return [{**message, "content": said(message["content"])} for message in messages]


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image"


def _data_url(picture: Any) -> str:
    held = io.BytesIO()
    picture.save(held, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def completions(told: Any, sampling: Sampling) -> list[Completion]:
    """The texts of one answer. Raises ValueError where it is not whole, Refused where it is not what was asked for."""
    if not isinstance(told, dict) or not isinstance(told.get("choices"), list) or not told["choices"]:
        raise ValueError("no choices in it")
    choices = sorted(told["choices"], key=lambda choice: choice.get("index") or 0)
    asked = sampling.num_return_sequences
    if len(choices) != asked:
        raise Refused(f"the server gave {len(choices)} texts, and num_return_sequences={asked} were asked for")
    usage = told.get("usage") or {}
    return [_completion(choice, usage, sampling) for choice in choices]


def _completion(choice: Any, usage: dict[str, Any], sampling: Sampling) -> Completion:
    reason, message = choice.get("finish_reason"), choice.get("message") or {}
    if reason not in ("stop", "length"):
        raise Refused(f"the server ended its answer with {reason!r}")
    text = message.get("content", choice.get("text")) or message.get("refusal") or ""
    pieces = _pieces(choice.get("logprobs"))
    if sampling.perplexity and pieces is None:
        raise Refused("the server gives no log-probs, which perplexity is made of")
    if pieces is not None and reason == "stop":
        pieces = _of_text(pieces, text)
    stop = choice.get("stop_reason", "" if sampling.stop_strings else None)  # vLLM's own word; others say less
    ended: Literal["eos", "stop"] = "stop" if isinstance(stop, str) else "eos"
    counted = usage.get("completion_tokens") if sampling.num_return_sequences == 1 else None
    return Completion(
        text,
        "length" if reason == "length" else ended,
        len(pieces) if pieces is not None else counted,
        tuple(logprob for _, logprob in pieces) if pieces is not None and sampling.perplexity else None,
        usage.get("prompt_tokens"),
    )


def _pieces(logprobs: Any) -> list[tuple[str, float]] | None:
    """(text, log p) of each token, from the shape of either endpoint."""
    if not logprobs:
        return None
    if logprobs.get("content") is not None:
        return [(one["token"], float(one["logprob"])) for one in logprobs["content"]]
    if logprobs.get("token_logprobs") is None:
        return None
    return list(zip(logprobs["tokens"], map(float, logprobs["token_logprobs"]), strict=True))


def _of_text(pieces: list[tuple[str, float]], text: str) -> list[tuple[str, float]]:
    """The tokens that are in the text: what ended it (a stop string, the end of sequence) is told as tokens, too."""
    kept = list(pieces)
    while kept and HALF_CHARACTER not in kept[-1][0] and not (kept[-1][0] and text.endswith(kept[-1][0])):
        kept.pop()
    return kept


def cost(told: Any, otherwise: float) -> float:
    """How many tokens the server counted for a question and its answer."""
    return float((told.get("usage") or {}).get("total_tokens") or otherwise)
