"""How probable each model finds the true answers, token by token, beside each other."""

import math
from dataclasses import dataclass
from typing import Any

from unteach.report.answers import get_bare_question
from unteach.report.collect import RunResult, to_finite

MOST_ANSWERS, FEWEST_ANSWERS = 200, 5
MOST_OF_ALL = 4000
"""Answers of all models that a page shows: of many models, fewer each."""


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


def collect_token_answers(runs: list[RunResult]) -> tuple[list[TokenAnswer], int]:
    """Collect answers of every run's token file, put together by question and answer, as tokenizers
    and splits differ; tell how many there are."""
    answers: dict[tuple[str, str], TokenAnswer] = {}
    most = max(FEWEST_ANSWERS, min(MOST_ANSWERS, MOST_OF_ALL // max(1, len(runs))))
    count = 0
    is_cut = False
    for run_index, run in enumerate(runs):
        num_rows = 0
        for row in run.tokens:
            num_rows += 1
            question = get_bare_question(row, "prompt")
            text = str(row.get("answer", ""))
            key = (question, text)
            is_cut = is_cut or (key not in answers and len(answers) >= most)
            if key not in answers and len(answers) < most:
                unknown: list[Tokens | None] = [None] * len(runs)
                answers[key] = TokenAnswer(question, text, unknown)
            if key in answers:
                answers[key].by_run[run_index] = _read_tokens(row)
        count = max(count, num_rows)
    return list(answers.values()), max(count, len(answers)) if is_cut else len(answers)


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
    """Give the answers as the page's script reads them: tokens that are those of the first run that
    has the answer are said once."""
    data: list[list[Any]] = []
    for answer in answers:
        by_run = []
        first: list[str] | None = None
        for tokens in answer.by_run:
            shown = _to_data(tokens)
            if shown is not None and first is None:
                first = shown[0]
            elif shown is not None and shown[0] == first:
                shown[0] = None
            by_run.append(shown)
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
