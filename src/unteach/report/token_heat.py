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
        known = [p for p in self.probabilities if p is not None]
        if not known:
            return None
        logs = [math.log(p) if p else -math.inf for p in known]
        return math.exp(sum(logs) / len(logs))


@dataclass(frozen=True)
class TokenAnswer:
    """One true answer.

    Attributes:
        by_run: one entry for each run, None where that run's log does not have it.
    """

    question: str
    text: str
    by_run: list[Tokens | None]


def collect_token_answers(runs: list[RunResult]) -> list[TokenAnswer]:
    """Collect the answers of every run's token file, put together by question and answer, as
    tokenizers and splits differ."""
    answers: dict[tuple[str, str], TokenAnswer] = {}
    for run_index, run in enumerate(runs):
        for row in run.tokens:
            question = get_bare_question(row, "prompt")
            text = str(row.get("answer", ""))
            key = (question, text)
            if key not in answers and len(answers) < MOST_ANSWERS:
                unknown: list[Tokens | None] = [None] * len(runs)
                answers[key] = TokenAnswer(question, text, unknown)
            if key in answers:
                answers[key].by_run[run_index] = _read_tokens(row)
    return list(answers.values())


def _read_tokens(row: dict[str, Any]) -> Tokens:
    """Read one answer of a token file, whose numbers are log-probabilities."""
    texts = [str(text) for text in row["tokens"]]
    probabilities: list[float | None] = []
    for value in row["logprob"]:
        log = to_finite(value)
        if log is None:
            probabilities.append(None)
        else:
            # Rounding may leave a sure token a little above 0.
            probabilities.append(math.exp(min(log, 0.0)))
    num_cut = row["length"] - len(texts)
    return Tokens(texts, probabilities, num_cut)


def to_data(answers: list[TokenAnswer]) -> list[list[Any]]:
    """Give the answers as the page's script reads them."""
    data: list[list[Any]] = []
    for answer in answers:
        by_run = [_to_data(tokens) for tokens in answer.by_run]
        data.append([answer.question, answer.text, by_run])
    return data


def _to_data(tokens: Tokens | None) -> list[Any] | None:
    if tokens is None:
        return None
    probabilities = [_round(p) for p in tokens.probabilities]
    return [
        tokens.texts,
        probabilities,
        tokens.num_cut,
        _round(tokens.mean),
    ]


def _round(value: float | None) -> float | None:
    """Keep three digits, which is more than a shade can show."""
    if value is None:
        return None
    return float(f"{value:.3g}")
