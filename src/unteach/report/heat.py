"""How probable each model finds the true answers, token by token, beside each other."""

import math
from dataclasses import dataclass
from typing import Any

from unteach.report.answers import bare_question
from unteach.report.collect import RunResult, finite

MOST = 200


@dataclass(frozen=True)
class Tokens:
    """One answer under one model: its tokens' texts, and their probabilities (None: not a
    number)."""

    texts: list[str]
    probabilities: list[float | None]
    cut: int

    @property
    def mean(self) -> float | None:
        """The geometric mean of the probabilities."""
        logs = [math.log(p) if p else -math.inf for p in self.probabilities if p is not None]
        return math.exp(sum(logs) / len(logs)) if logs else None


@dataclass(frozen=True)
class Answer:
    """One true answer; `seen` has one entry for each run, None where that run's log does not have
    it."""

    question: str
    text: str
    seen: list[Tokens | None]


def heat(runs: list[RunResult]) -> list[Answer]:
    """The answers of every run's token file, put together by question and answer, as tokenizers and
    splits differ."""
    answers: dict[tuple[str, str], Answer] = {}
    for number, run in enumerate(runs):
        for row in run.tokens:
            key = bare_question(row, "prompt"), str(row.get("answer", ""))
            if key not in answers and len(answers) < MOST:
                answers[key] = Answer(*key, [None] * len(runs))
            if key in answers:
                answers[key].seen[number] = _tokens(row)
    return list(answers.values())


def _tokens(row: dict[str, Any]) -> Tokens:
    logs = [finite(value) for value in row["logprob"]]
    texts = [str(text) for text in row["tokens"]]
    return Tokens(
        texts,
        [None if one is None else math.exp(min(one, 0.0)) for one in logs],
        row["length"] - len(texts),
    )


def as_data(answers: list[Answer]) -> list[list[Any]]:
    """The answers as the page's script reads them."""
    return [[one.question, one.text, [_seen(tokens) for tokens in one.seen]] for one in answers]


def _seen(tokens: Tokens | None) -> list[Any] | None:
    if tokens is None:
        return None
    rounded = [None if p is None else float(f"{p:.3g}") for p in tokens.probabilities]
    mean = tokens.mean
    return [tokens.texts, rounded, tokens.cut, None if mean is None else float(f"{mean:.3g}")]
