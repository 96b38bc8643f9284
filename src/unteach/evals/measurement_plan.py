"""The plan of a whole evaluation: the union of what all metrics need, without duplicates, in one
pass of each kind."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from unteach.engines.base import Engine, Ids, ProgressCallback, Score
from unteach.evals.base import (
    Classed,
    Classes,
    Generated,
    GradNorms,
    Measurement,
    NormedRow,
    ReferenceScores,
    ScoredRow,
    Scores,
    Task,
    Texts,
)
from unteach.evals.lm_eval import tasks
from unteach.evals.rows import LEAST, MORE, Rows

Progress = tasks.Progress
"""progress(what, total) -> a function told how many more are done."""
Pass = tuple[str, Any]
"""What all items of one pass share: its kind, and the argument that tells it from others of that
kind."""
Results = dict[Any, Any]
"""What a pass found, by item."""
Measured = dict[Measurement, list[Any]]


class Others(Protocol):
    """Other models than the one that is evaluated, named by their path."""

    def score(
        self, path: str, pairs: list[tuple[Ids, Ids]], on_progress: ProgressCallback
    ) -> list[Score]: ...
    def classify(
        self, path: str, texts: list[str], on_progress: ProgressCallback
    ) -> list[dict[str, float]]: ...


def measure(
    asking: dict[str, tuple[Rows, list[Measurement]]],
    engine: Engine,
    others: Others | None,
    progress: Progress,
) -> dict[str, Measured]:
    """Runs one pass of each kind for all suites; gives back each suite's measurements by need.

    Texts are classified after all passes of the model itself.
    """
    found: dict[Pass, Results] = {}
    texts = {
        suite: (rows, [*needs, *(Texts(need.of) for need in needs if isinstance(need, Classes))])
        for suite, (rows, needs) in asking.items()
    }
    for later in (False, True):
        items: dict[Pass, dict[Any, None]] = {}
        for rows, needs in texts.values():
            for need in needs:
                if isinstance(need, Classes) is later:
                    items.setdefault(_pass(rows, need), {}).update(
                        dict.fromkeys(_items(rows, need, found))
                    )
        for key, wanted in items.items():
            found[key] = dict(
                zip(wanted, _run(key, list(wanted), engine, others, progress), strict=True)
            )
    return {
        suite: {need: _measurement(rows, need, found) for need in needs}
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
        case Classes():
            return "classifying", rows.config.classifier_path
        case Task():
            settings = {
                **vars(rows.config.simple_evaluate_args),
                "configured": rows.config.configured_tasks(),
            }
            return "asking tasks", (rows.template, json.dumps(settings, sort_keys=True))


def _items(rows: Rows, need: Measurement, found: dict[Pass, Results]) -> Sequence[Any]:
    match need:
        case Task():
            return [need.name]
        case Classes():
            return [one.text for one in _generated(rows, Texts(need.of), found)]
        case Texts():
            return rows.asked(need.of).prompts
        case GradNorms():
            return [pair for pair in _first_answers(rows, need) if pair[1]]
        case _:
            return [pair for pairs in rows.asked(need.of).pairs for pair in pairs]


def _first_answers(rows: Rows, need: GradNorms) -> list[tuple[Ids, Ids]]:
    end = -1 if need.drop_last_label else None
    return [(pairs[0][0], pairs[0][1][:end]) for pairs in rows.asked(need.of).pairs]


def _run(
    key: Pass, items: list[Any], engine: Engine, others: Others | None, progress: Progress
) -> list[Any]:
    kind, argument = key
    if kind == "asking tasks":
        template, settings = argument
        return tasks.ask(items, json.loads(settings), engine, template, progress)
    on_progress = progress(kind, len(items))
    match kind:
        case "scoring":
            return engine.score(items, on_progress)
        case "gradient norms":
            return engine.grad_norms(items, argument, on_progress)
        case "generating":
            return engine.generate(items, on_progress=on_progress, **json.loads(argument))
    assert others is not None
    return (
        others.classify(argument, items, on_progress)
        if kind == "classifying"
        else others.score(argument, items, on_progress)
    )


def _measurement(rows: Rows, need: Measurement, found: dict[Pass, Results]) -> list[Any]:
    """What a need asked for, row by row."""
    results = found[_pass(rows, need)]
    match need:
        case Task():
            return [results[need.name]]
        case Texts():
            return _generated(rows, need, found)
        case Classes():
            said = _generated(rows, Texts(need.of), found)
            return [Classed(one.index, one.text, results[one.text]) for one in said]
    asked = rows.asked(need.of)
    if isinstance(need, GradNorms):
        firsts = zip(asked.index, _first_answers(rows, need), strict=True)
        return [NormedRow(index, results[pair] if pair[1] else 0.0) for index, pair in firsts]
    return [
        ScoredRow(index, [results[pair] for pair in pairs], texts, asked.several)
        for index, pairs, texts in zip(asked.index, asked.pairs, asked.texts, strict=True)
    ]


def _generated(rows: Rows, need: Texts, found: dict[Pass, Results]) -> list[Generated]:
    results: dict[Ids, list[int]] = found[_pass(rows, need)]
    asked, stops, text = rows.asked(need.of), rows.settings(need.of).stop, rows.template.text
    made = []
    for i, index in enumerate(asked.index):
        truths, answers = asked.texts[i], [answer for _, answer in asked.pairs[i]]
        if need.truth_tokens is not None:
            truths = [text(answer[: need.truth_tokens]).strip() for answer in answers]
        said = results[asked.prompts[i]]
        if need.adaptive:
            said = said[: max(LEAST, MORE + max(map(len, answers)))]
        continued = _until(text(said), stops).strip()
        prompt, question = asked.prompt_texts[i], asked.questions[i]
        made.append(Generated(index, prompt, truths, continued, asked.several, question))
    return made


def _until(text: str, stops: list[str]) -> str:
    """The text up to the first of the stop strings in it."""
    return text[
        : min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))
    ]
