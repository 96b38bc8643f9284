"""The plan of a whole evaluation: the union of what all metrics need, without duplicates, in one pass of each kind."""

import json
from collections.abc import Callable
from typing import Any, Protocol

from unteach.engines.base import Engine, Ids, Said, Score
from unteach.evals.base import Generated, GradNorms, Measurement, NormedRow, ReferenceScores, ScoredRow, Scores, Texts
from unteach.evals.rows import Rows

Progress = Callable[[str, int], Callable[[int], None]]
"""progress(what, total) -> a function told how many more are done."""
Pass = tuple[str, Any]
"""What all items of one pass share: its kind, and the argument that tells it from others of that kind."""
Measured = dict[Measurement, list[Any]]


class References(Protocol):
    """Scores by other models, named by their path."""

    def score(self, path: str, pairs: list[tuple[Ids, Ids]], said: Said) -> list[Score]: ...


def measure(
    asking: dict[str, tuple[Rows, list[Measurement]]],
    engine: Engine,
    references: References | None,
    progress: Progress,
) -> dict[str, Measured]:
    """Runs one pass of each kind for all suites; gives back each suite's measurements by need."""
    items: dict[Pass, dict[Any, None]] = {}
    for rows, needs in asking.values():
        for need in needs:
            items.setdefault(_pass(rows, need), {}).update(dict.fromkeys(_items(rows, need)))
    results = {
        key: dict(zip(wanted, _run(key, list(wanted), engine, references, progress), strict=True))
        for key, wanted in items.items()
    }
    return {
        suite: {need: _measurement(rows, need, results[_pass(rows, need)]) for need in needs}
        for suite, (rows, needs) in asking.items()
    }


def _pass(rows: Rows, need: Measurement) -> Pass:
    match need:
        case Scores():
            return "scoring", None
        case ReferenceScores():
            return "scoring by the reference model", rows.config.reference_model_path
        case GradNorms():
            return "gradient norms", need.p
        case Texts():
            return "generating", json.dumps(rows.generation(need.of), sort_keys=True)


def _items(rows: Rows, need: Measurement) -> list[Any]:
    asked = rows.asked(need.of)
    match need:
        case Texts():
            return asked.prompts
        case GradNorms():
            return [pair for pair in _first_answers(rows, need) if pair[1]]
        case _:
            return [
                (prompt, answer)
                for prompt, answers in zip(asked.prompts, asked.answers, strict=True)
                for answer in answers
            ]


def _first_answers(rows: Rows, need: GradNorms) -> list[tuple[Ids, Ids]]:
    asked = rows.asked(need.of)
    end = -1 if need.drop_last_label else None
    return [(prompt, answers[0][:end]) for prompt, answers in zip(asked.prompts, asked.answers, strict=True)]


def _run(key: Pass, items: list[Any], engine: Engine, references: References | None, progress: Progress) -> list[Any]:
    kind, argument = key
    said = progress(kind, len(items))
    match kind:
        case "scoring":
            return engine.score(items, said)
        case "gradient norms":
            return engine.grad_norms(items, argument, said)
        case "generating":
            return engine.generate(items, said=said, **json.loads(argument))
        case _:
            assert references is not None
            return references.score(argument, items, said)


def _measurement(rows: Rows, need: Measurement, results: dict[Any, Any]) -> list[Any]:
    """What a need asked for, row by row."""
    asked = rows.asked(need.of)
    match need:
        case GradNorms():
            pairs = zip(asked.index, _first_answers(rows, need), strict=True)
            return [NormedRow(index, results[pair] if pair[1] else 0.0) for index, pair in pairs]
        case Texts():
            return _generated(rows, need, results)
        case _:
            return [
                ScoredRow(index, [results[prompt, answer] for answer in answers], texts, asked.several)
                for index, prompt, answers, texts in zip(
                    asked.index, asked.prompts, asked.answers, asked.texts, strict=True
                )
            ]


def _generated(rows: Rows, need: Texts, results: dict[Ids, list[int]]) -> list[Generated]:
    asked, stops, text = rows.asked(need.of), rows.settings(need.of).stop, rows.template.text
    made = []
    for i, index in enumerate(asked.index):
        truths = asked.texts[i]
        if need.truth_tokens is not None:
            truths = [text(answer[: need.truth_tokens]).strip() for answer in asked.answers[i]]
        said = _until(text(results[asked.prompts[i]]), stops).strip()
        made.append(Generated(index, asked.prompt_texts[i], truths, said, asked.several))
    return made


def _until(text: str, stops: list[str]) -> str:
    """The text up to the first of the stop strings in it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]
