"""What every model answered, put beside the truth: question by question, for each set of
questions."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unteach.config.metric_descriptions import ExamplesDescription
from unteach.report.collect import RunResult, to_finite
from unteach.report.columns import load_known_columns
from unteach.report.judging import get_column
from unteach.report.prompts import find_question
from unteach.report.result_file import TEXT, has_texts, iterate_examples

MOST_QUESTIONS, FEWEST_QUESTIONS = 500, 10
"""Questions of a set that a page shows: a browser opens no page with hundreds of thousands."""
MOST_ANSWERS = 10_000
"""Answers of all models to a set that a page shows: of many models, fewer each."""
MOST_READ = 50_000
"""Answers of all models to a set among which those are chosen: the first of each."""
MOST_LETTERS, FEWEST_LETTERS, ALL_LETTERS = 4000, 200, 8_000_000
"""Of one text, and about of all texts of a set."""
SCORE_NAMES = {
    "rougeL_recall": "ROUGE-L recall",
    "rougeL_f1": "ROUGE-L F1",
    "rouge1_recall": "ROUGE-1 recall",
}


@dataclass(frozen=True)
class Answer:
    """One model's answer and its ROUGE against the truth."""

    text: str
    score: float | None


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        answers: one entry for each run, None where that run was not asked.
    """

    text: str
    truth: str
    answers: list[Answer | None]


@dataclass(frozen=True)
class QuestionSet:
    """The questions behind one metric.

    Attributes:
        score: the name of the ROUGE that is shown.
        num_unread: how many more there are than `questions`, which are those that were read.
    """

    metric: str
    title: str
    score: str
    questions: list[Question]
    num_unread: int = 0


def collect_question_sets(runs: list[RunResult]) -> list[QuestionSet]:
    """Collect every set for which some run has generated text: the described ones first, in their
    order, then any other metric by its name."""
    metrics: set[str] = set()
    described: dict[str, None] = {}
    for run in runs:
        for metric in run.results:
            if metric not in metrics and has_texts(run.results, metric):
                metrics.add(metric)
        described.update(dict.fromkeys(run.described))
    described.update(dict.fromkeys(load_known_columns()))
    ordered = [metric for metric in described if metric in metrics]
    ordered += sorted(metrics - described.keys())
    return [_collect_question_set(runs, metric) for metric in ordered]


def _collect_question_set(runs: list[RunResult], metric: str) -> QuestionSet:
    """Collect the questions behind one metric, with the answer of each run."""
    column = get_column(runs, metric)
    examples = column.examples or ExamplesDescription("answers")
    questions: dict[tuple[str, int], Question] = {}
    most_read = max(count_shown(len(runs)), MOST_READ // len(runs))
    count = 0
    for run_index, run in enumerate(runs):
        num_seen = Counter[str]()
        rows = _iterate_rows(run, metric)
        for row in itertools.islice(rows, most_read):
            truth = _join_texts(row.get("ground_truth"))
            # Not by index or prompt: other splits number the same questions otherwise, other
            # templates word them so.
            key = (truth, num_seen[truth])
            num_seen[truth] += 1
            if key not in questions:
                text = get_bare_question(row, "input")
                unanswered: list[Answer | None] = [None] * len(runs)
                questions[key] = Question(text, truth, unanswered)
            generation = _join_texts(row.get(TEXT))
            score = to_finite(row.get(examples.score))
            questions[key].answers[run_index] = Answer(generation, score)
        if next(rows, None) is not None:
            count = max(count, run.size(metric) or 0)
    return QuestionSet(
        metric=metric,
        title=examples.title or column.label,
        score=SCORE_NAMES[examples.score],
        questions=list(questions.values()),
        num_unread=max(0, count - len(questions)),
    )


def get_bare_question(row: dict[str, Any], prompt_key: str) -> str:
    """Get the question as the data has it; of a log without it, what its prompt asks.

    Args:
        row: an example of a log, or an answer of a token file.
        prompt_key: where it has the prompt.
    """
    question = row.get("question")
    if isinstance(question, str):
        return question.strip()
    return find_question(_join_texts(row.get(prompt_key)))


def to_data(sets: list[QuestionSet]) -> list[dict[str, Any]]:
    """Give the sets as the page's script reads them; lists, as names repeated for every answer
    would double the file.

    Of a large set only some stand in the page, each with its number among all, which `count` says;
    a long text is cut, and says so.
    """
    data = []
    for question_set in sets:
        questions = []
        shown = choose_shown(question_set.questions)
        num_runs = len(question_set.questions[0].answers) if shown else 1
        num_letters = ALL_LETTERS // (num_runs * max(1, len(shown)))
        num_letters = min(MOST_LETTERS, max(FEWEST_LETTERS, num_letters))
        for number in shown:
            question = question_set.questions[number]
            answers = [_to_data(answer, num_letters) for answer in question.answers]
            row = [
                cut(question.text, num_letters),
                cut(question.truth, num_letters),
                answers,
                number,
            ]
            questions.append(row)
        set_data = {
            "title": question_set.title,
            "score": question_set.score,
            "count": len(question_set.questions) + question_set.num_unread,
            "questions": questions,
        }
        data.append(set_data)
    return data


def count_shown(num_runs: int) -> int:
    """Count the questions of a set that a page of so many models shows at most."""
    return min(MOST_QUESTIONS, max(FEWEST_QUESTIONS, MOST_ANSWERS // num_runs))


def cut(text: str, num_letters: int) -> str:
    """Cut a text that a page does not show whole, and say how long it is."""
    if len(text) <= num_letters:
        return text
    return f"{text[:num_letters]}… (the first {num_letters:,} of {len(text):,} characters)"


def choose_shown(questions: list[Question]) -> list[int]:
    """Choose the questions that a page shows, by their numbers, in order.

    All; or half of them those on which the models differ most, and the others spread evenly.
    """
    numbers = range(len(questions))
    if not questions:
        return []
    most = count_shown(len(questions[0].answers))
    if len(questions) <= most:
        return list(numbers)
    differences = [_measure_difference(question) for question in questions]
    by_difference = sorted(numbers, key=lambda number: -differences[number])
    chosen = set(by_difference[: most // 2])

    others = [number for number in numbers if number not in chosen]
    num_others = most - len(chosen)
    for step in range(num_others):
        chosen.add(others[step * len(others) // num_others])
    return sorted(chosen)


def _measure_difference(question: Question) -> float:
    """Measure how far the models' scores of a question lie apart."""
    scores = []
    for answer in question.answers:
        if answer is not None and answer.score is not None:
            scores.append(answer.score)
    if not scores:
        return 0.0
    return max(scores) - min(scores)


def _to_data(answer: Answer | None, num_letters: int) -> list[str | float | None] | None:
    if answer is None:
        return None
    score = None if answer.score is None else round(answer.score, 4)
    return [cut(answer.text, num_letters), score]


def _iterate_rows(run: RunResult, metric: str) -> Iterator[dict[str, Any]]:
    """Read a metric's examples that hold generated text, one after the other."""
    for row in iterate_examples(run.results, metric):
        if TEXT in row:
            yield row


def _join_texts(value: object) -> str:
    """Write a text, several of them with strokes between, "" of null."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " / ".join(map(_join_texts, value))
    return str(value)
