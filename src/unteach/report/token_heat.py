"""How probable each model finds the true answers, token by token, beside each other."""

import math
from dataclasses import dataclass
from typing import Any

from unteach.report.answers import get_bare_question
from unteach.report.collect import RunResult, to_finite

MOST_ANSWERS = 200


@dataclass(frozen=True)
class Tokens:
    """One answer under one model.

    Attributes:
        texts: its tokens' texts.
        probabilities: None where the log has no number.
        num_cut: how many more tokens it has.
    """

    texts: list[str]
    probabilities: list[float | None]
    num_cut: int

    @property
    def mean(self) -> float | None:
        """The geometric mean of the probabilities."""
        logs = [math.log(p) if p else -math.inf for p in self.probabilities if p is not None]
        return math.exp(sum(logs) / len(logs)) if logs else None


@dataclass(frozen=True)
class TokenAnswer:
    """One true answer; `by_run` has one entry for each run, None where that run's log does not have
    it."""

    question: str
    text: str
    by_run: list[Tokens | None]


def collect_token_answers(runs: list[RunResult]) -> list[TokenAnswer]:
    """Collect the answers of every run's token file, put together by question and answer, as
    tokenizers and splits differ."""
    answers: dict[tuple[str, str], TokenAnswer] = {}
    for run_index, run in enumerate(runs):
        for row in run.tokens:
            key = get_bare_question(row, "prompt"), str(row.get("answer", ""))
            if key not in answers and len(answers) < MOST_ANSWERS:
                unknown: list[Tokens | None] = [None] * len(runs)
                answers[key] = TokenAnswer(*key, unknown)
            if key in answers:
                answers[key].by_run[run_index] = _read_tokens(row)
    return list(answers.values())


def _read_tokens(row: dict[str, Any]) -> Tokens:
    texts = [str(text) for text in row["tokens"]]
    logs = [to_finite(value) for value in row["logprob"]]
    probabilities = [None if log is None else math.exp(min(log, 0.0)) for log in logs]
    return Tokens(texts, probabilities, row["length"] - len(texts))


def to_data(answers: list[TokenAnswer]) -> list[list[Any]]:
    """Give the answers as the page's script reads them."""
    return [
        [answer.question, answer.text, [_to_data(tokens) for tokens in answer.by_run]]
        for answer in answers
    ]


def _to_data(tokens: Tokens | None) -> list[Any] | None:
    if tokens is None:
        return None
    probabilities = [_round(p) for p in tokens.probabilities]
    return [tokens.texts, probabilities, tokens.num_cut, _round(tokens.mean)]


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
