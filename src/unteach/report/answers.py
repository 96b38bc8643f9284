"""What every model answered, put beside the truth: question by question, for each set of
questions."""

from dataclasses import dataclass
from typing import Any

from unteach.report.collect import RunResult, finite
from unteach.report.judging import column_of
from unteach.report.prompts import find_question


@dataclass(frozen=True)
class Said:
    """One model's answer and its ROUGE against the truth."""

    text: str
    score: float | None


@dataclass(frozen=True)
class Question:
    """One question; `said` has one entry for each run, None where that run was not asked."""

    text: str
    truth: str
    said: list[Said | None]


@dataclass(frozen=True)
class QuestionSet:
    """The questions behind one metric; `score` names the ROUGE that is shown."""

    metric: str
    title: str
    score: str
    questions: list[Question]


MOST_QUESTIONS = 500
"""Questions of a set that a page shows: a browser opens no page with hundreds of thousands."""
RECALL, F1 = "rougeL_recall", "rougeL_f1"
SCORES = {RECALL: "ROUGE-L recall", F1: "ROUGE-L F1"}
SETS = {
    "forget_Q_A_ROUGE": ("Forget set", RECALL),
    "retain_Q_A_ROUGE": ("Retain set", RECALL),
    "ra_Q_A_ROUGE": ("Real authors", RECALL),
    "wf_Q_A_ROUGE": ("World facts", RECALL),
    "forget_Q_A_PARA_ROUGE": ("Forget set, beside the paraphrase", RECALL),
    "forget_Q_A_PERT_ROUGE": ("Forget set, beside the false answers", RECALL),
    "forget_verbmem_ROUGE": ("Forget texts, continued", F1),
    "forget_knowmem_ROUGE": ("Forget texts, asked about", F1),
    "retain_knowmem_ROUGE": ("Retain texts, asked about", F1),
}


def question_sets(runs: list[RunResult]) -> list[QuestionSet]:
    """Every set for which some run has generated text: the known ones first, then any other metric
    by its name."""
    found = {metric for run in runs for metric in run.results if _rows(run, metric)}
    ordered = [metric for metric in SETS if metric in found] + sorted(found - SETS.keys())
    return [_question_set(runs, metric) for metric in ordered]


def _question_set(runs: list[RunResult], metric: str) -> QuestionSet:
    title, score = SETS.get(metric, (column_of(runs, metric).label, RECALL))
    questions: dict[tuple[str, int], Question] = {}
    for number, run in enumerate(runs):
        times: dict[str, int] = {}
        for row in _rows(run, metric):
            truth = _text(row.get("ground_truth"))
            # not by index or prompt: other splits number the same questions otherwise, other
            # templates word them so
            key = truth, times.get(truth, 0)
            times[truth] = key[1] + 1
            if key not in questions:
                questions[key] = Question(bare_question(row, "input"), truth, [None] * len(runs))
            questions[key].said[number] = Said(_text(row.get("generation")), finite(row.get(score)))
    return QuestionSet(metric, title, SCORES[score], list(questions.values()))


def bare_question(row: dict[str, Any], prompt_key: str) -> str:
    """Give the question as the data has it; of a log without it, what its prompt asks."""
    question = row.get("question")
    if isinstance(question, str):
        return question.strip()
    return find_question(_text(row.get(prompt_key)))


def as_data(sets: list[QuestionSet]) -> list[dict[str, Any]]:
    """The sets as the page's script reads them; lists, as names repeated for every answer would
    double the file.

    Of a large set only MOST_QUESTIONS stand in the page, each with its number among all, which
    `count` says.
    """
    data = []
    for one in sets:
        questions = []
        for number in choose_shown(one.questions):
            question = one.questions[number]
            questions.append(
                [question.text, question.truth, [_said(said) for said in question.said], number]
            )
        data.append(
            {
                "title": one.title,
                "score": one.score,
                "count": len(one.questions),
                "questions": questions,
            }
        )
    return data


def choose_shown(questions: list[Question]) -> list[int]:
    """The numbers of the questions that a page shows, in order: all; or half of them those on which
    the models differ most, and the others spread evenly."""
    if len(questions) <= MOST_QUESTIONS:
        return list(range(len(questions)))
    by_difference = sorted(
        range(len(questions)), key=lambda number: -_differs_by(questions[number])
    )
    chosen = set(by_difference[: MOST_QUESTIONS // 2])
    others = [number for number in range(len(questions)) if number not in chosen]
    num_others = MOST_QUESTIONS - len(chosen)
    chosen |= {others[place * len(others) // num_others] for place in range(num_others)}
    return sorted(chosen)


def _differs_by(question: Question) -> float:
    """How far the models' scores of a question lie apart."""
    scores = [said.score for said in question.said if said is not None and said.score is not None]
    return max(scores) - min(scores) if scores else 0.0


def _said(said: Said | None) -> list[str | float | None] | None:
    if said is None:
        return None
    return [said.text, None if said.score is None else round(said.score, 4)]


def _rows(run: RunResult, metric: str) -> list[dict[str, Any]]:
    entry = run.results.get(metric)
    rows = entry.get("value_by_index") if isinstance(entry, dict) else None
    if not isinstance(rows, dict):
        return []
    return [row for row in rows.values() if isinstance(row, dict) and "generation" in row]


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " / ".join(_text(item) for item in value)
    return "" if value is None else str(value)
