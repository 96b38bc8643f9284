"""What stands in the output of an answer: its columns and their values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach.config.inference import InferConfig
from unteach.engines.finiteness import NOT_FINITE
from unteach.inference.backends.base import (
    Answer,
    Completion,
    Failure,
    Labelled,
    Request,
    Scored,
    perplexity,
)
from unteach.inference.result_store import ERROR as ERROR

SKIPPED = "skipped"


@dataclass(frozen=True)
class Skipped:
    """A row that is left out on purpose: its prompt is too long and too_long=skip."""


def list_columns(config: InferConfig) -> tuple[str, ...]:
    """The columns that an answer adds to its row, in their order; every row has all of them."""
    by_kind = {
        "generate": (config.output_column, "finish_reason", "prompt_tokens", "output_tokens"),
        "score": ("logprob", "perplexity", "prompt_tokens", "answer_tokens"),
        "classify": (config.output_column, "probabilities", "logits", "prompt_tokens"),
    }
    asked = ("perplexity",) if config.kind == "generate" and config.sampling.perplexity else ()
    cut = ("cut_tokens",) if config.too_long == "truncate_left" else ()
    skipped = ("finish_reason",) if config.too_long == "skip" and config.kind != "generate" else ()
    return (*by_kind[config.kind], *asked, *cut, *skipped, ERROR)


def build_record(
    answer: Answer | Skipped,
    request: Request | None,
    cut: int,
    config: InferConfig,
    labels: Sequence[str],
) -> dict[str, Any]:
    """An answer under its columns; cut: tokens that its prompt lost. A number that cannot be is
    null."""
    if not _is_finite(answer):
        answer = Failure(NOT_FINITE)
    if isinstance(answer, Skipped):
        found: dict[str, Any] = {"finish_reason": SKIPPED}
    elif isinstance(answer, Failure):
        found = {ERROR: answer.why}
    elif isinstance(answer, Scored):
        told = answer.logprobs
        found = {"logprob": sum(told), "perplexity": perplexity(told), "answer_tokens": len(told)}
    elif isinstance(answer, Labelled):
        # of a regression
        found = {config.output_column: answer.logits[0], "logits": list(answer.logits)}
        if labels:
            best = max(range(len(labels)), key=answer.probabilities.__getitem__)
            shares = dict(zip(labels, answer.probabilities, strict=True))
            found |= {config.output_column: labels[best], "probabilities": shares}
    else:
        found = _generated(answer, config)
    if request is not None:
        made = answer[0].prompt_tokens if isinstance(answer, list) else None
        found["prompt_tokens"] = (len(request.prompt) or None) if made is None else made
        found["cut_tokens"] = cut
    return {name: found.get(name) for name in list_columns(config)}


def _is_finite(answer: Answer | Skipped) -> bool:
    """Whether all numbers of an answer are: JSON has no others, and none would mean anything."""
    numbers: Sequence[float] = ()
    if isinstance(answer, Scored):
        numbers = answer.logprobs
    elif isinstance(answer, Labelled):
        numbers = answer.logits
    elif isinstance(answer, list):
        numbers = [number for one in answer for number in one.logprobs or ()]
    return all(map(math.isfinite, numbers))


def _generated(answer: list[Completion], config: InferConfig) -> dict[str, Any]:
    """One text and its facts; lists of them where several are asked for."""
    facts = [
        {
            config.output_column: one.text,
            "finish_reason": one.finish,
            "output_tokens": one.tokens,
            "perplexity": perplexity(one.logprobs or ()),
        }
        for one in answer
    ]
    if config.sampling.num_return_sequences == 1:
        return facts[0]
    return {name: [one[name] for one in facts] for name in facts[0]}


def count_tokens(record: dict[str, Any]) -> int:
    """How many tokens were written or scored for a row."""
    made = record.get("output_tokens", record.get("answer_tokens"))
    return sum(one or 0 for one in made) if isinstance(made, list) else made or 0
