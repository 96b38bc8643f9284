"""The columns that an answer has in the output, and their values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach.config.inference import InferConfig
from unteach.engines.finiteness import NOT_FINITE
from unteach.inference.answer_lines import ERROR, SKIPPED
from unteach.inference.backends.base import (
    Answer,
    AnswerScore,
    ClassScores,
    Completion,
    Failure,
    Request,
    perplexity,
)


@dataclass(frozen=True)
class Skipped:
    """A row that is left out on purpose: its prompt is too long and too_long=skip."""


def list_columns(config: InferConfig) -> tuple[str, ...]:
    """List the columns that an answer adds to its row, in their order; every row has all of
    them."""
    if config.kind == "generate":
        columns = [config.output_column, "finish_reason", "prompt_tokens", "output_tokens"]
        if config.sampling.perplexity:
            columns.append("perplexity")
    elif config.kind == "score":
        columns = ["logprob", "perplexity", "prompt_tokens", "answer_tokens"]
    else:
        columns = [config.output_column, "probabilities", "logits", "prompt_tokens"]
    if config.too_long == "truncate_left":
        columns.append("cut_tokens")
    if config.too_long == "skip" and config.kind != "generate":
        columns.append("finish_reason")
    return (*columns, ERROR)


def build_record(
    answer: Answer | Skipped,
    request: Request | None,
    num_cut: int,
    config: InferConfig,
    labels: Sequence[str],
) -> dict[str, Any]:
    """Put an answer under its columns; what it has no value for is null.

    Args:
        num_cut: tokens that its prompt lost.
        labels: the names of a classifier's classes.
    """
    if not _is_finite(answer):
        answer = Failure(NOT_FINITE)
    values: dict[str, Any] = {}
    if isinstance(answer, Skipped):
        values["finish_reason"] = SKIPPED
    elif isinstance(answer, Failure):
        values[ERROR] = answer.why
    elif isinstance(answer, AnswerScore):
        values["logprob"] = sum(answer.logprobs)
        values["perplexity"] = perplexity(answer.logprobs)
        values["answer_tokens"] = len(answer.logprobs)
    elif isinstance(answer, ClassScores):
        values["logits"] = list(answer.logits)
        if labels:
            probabilities = dict(zip(labels, answer.probabilities, strict=True))
            values[config.output_column] = max(labels, key=lambda label: probabilities[label])
            values["probabilities"] = probabilities
        else:
            # The one number of a regression.
            values[config.output_column] = answer.logits[0]
    else:
        values = _build_generated(answer, config)
    if request is not None:
        num_tokens = answer[0].prompt_tokens if isinstance(answer, list) else None
        if num_tokens is None:
            num_tokens = len(request.prompt) or None
        values["prompt_tokens"] = num_tokens
        values["cut_tokens"] = num_cut
    return {name: values.get(name) for name in list_columns(config)}


def _is_finite(answer: Answer | Skipped) -> bool:
    """Say whether all numbers of an answer are finite: JSON has no others, and none would mean
    anything."""
    numbers: list[float] = []
    if isinstance(answer, AnswerScore):
        numbers += answer.logprobs
    elif isinstance(answer, ClassScores):
        numbers += answer.logits
    elif isinstance(answer, list):
        for completion in answer:
            numbers += completion.logprobs or ()
    return all(map(math.isfinite, numbers))


def _build_generated(completions: list[Completion], config: InferConfig) -> dict[str, Any]:
    """Put a text and its facts under their columns; lists of them where there are several."""
    values: dict[str, Any] = {
        config.output_column: [completion.text for completion in completions],
        "finish_reason": [completion.finish for completion in completions],
        "output_tokens": [completion.tokens for completion in completions],
        "perplexity": [perplexity(completion.logprobs or ()) for completion in completions],
    }
    if config.sampling.num_return_sequences == 1:
        return {name: value[0] for name, value in values.items()}
    return values


def count_tokens(record: dict[str, Any]) -> int:
    """Count the tokens that were written or scored for a row."""
    num_tokens = record.get("output_tokens", record.get("answer_tokens"))
    if isinstance(num_tokens, list):
        return sum(number or 0 for number in num_tokens)
    return num_tokens or 0
