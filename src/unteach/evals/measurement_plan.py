"""The plan of a whole evaluation: the union of what all metrics need, without duplicates, in one
pass of each kind."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unteach.config.suites import SuiteConfig
from unteach.engines.base import Engine, Ids, ProgressCallback, Score
from unteach.evals.base import (
    Classed,
    Classes,
    Generated,
    GradNorms,
    Measurement,
    NormedRow,
    Progress,
    ReferenceScores,
    ScoredRow,
    Scores,
    Task,
    Texts,
    Value,
)
from unteach.evals.lm_eval import tasks
from unteach.evals.rows import EvalRows, limit_continuation
from unteach.evals.stop_strings import cut_at_stop

SCORING = "scoring"
REFERENCE_SCORING = "scoring by the reference model"
GRADIENT_NORMS = "gradient norms"
GENERATING = "generating"
CLASSIFYING = "classifying"
TASKS = "asking tasks"


@dataclass(frozen=True)
class Pass:
    """Name what all items of one pass share.

    Attributes:
        kind: one of the constants above; the progress shows it.
        argument: what tells this pass from others of its kind.
    """

    kind: str
    argument: Any = None


Outputs = dict[Any, Any]
"""What a pass yields, by item."""
Measured = dict[Measurement, list[Any]]
"""Of one suite, what was measured for each need, row by row."""


@dataclass(frozen=True)
class SuiteNeeds:
    """Hold what one suite wants measured, and of which rows."""

    rows: EvalRows
    measurements: list[Measurement]


class AuxiliaryModels(Protocol):
    """Other models than the one that is evaluated, named by their paths."""

    def score(
        self,
        path: str,
        pairs: list[tuple[Ids, Ids]],
        on_progress: ProgressCallback,
    ) -> list[Score]:
        """Score answers by a reference model."""
        ...

    def classify(
        self,
        path: str,
        texts: list[str],
        on_progress: ProgressCallback,
    ) -> list[dict[str, float]]:
        """Give texts' class probabilities by a classifier."""
        ...

    def evaluate(self, path: str, configs: dict[str, SuiteConfig]) -> dict[str, dict[str, Value]]:
        """Run whole suites on a model, for its log."""
        ...


def measure(
    suite_needs: dict[str, SuiteNeeds],
    engine: Engine,
    auxiliary_models: AuxiliaryModels | None,
    progress: Progress,
) -> dict[str, Measured]:
    """Run one pass of each kind for all suites.

    Args:
        suite_needs: by suite.
        engine: runs the model that is evaluated.
        auxiliary_models: run the others; None where nothing needs them.
        progress: shows each pass.

    Returns:
        Each suite's measurements by need.
    """
    outputs: dict[Pass, Outputs] = {}
    # The passes of the model itself come first: what is classified is the text that they generate.
    for is_classifying in (False, True):
        items_by_pass = _collect_items(suite_needs, outputs, is_classifying)
        for model_pass, items in items_by_pass.items():
            results = _run_pass(model_pass, items, engine, auxiliary_models, progress)
            outputs[model_pass] = dict(zip(items, results, strict=True))

    measured: dict[str, Measured] = {}
    for suite, needs in suite_needs.items():
        measured[suite] = {}
        for need in needs.measurements:
            measured[suite][need] = _read_measurement(needs.rows, need, outputs)
    return measured


def _collect_items(
    suite_needs: dict[str, SuiteNeeds],
    outputs: dict[Pass, Outputs],
    is_classifying: bool,
) -> dict[Pass, list[Any]]:
    """Collect the different items of each pass, in the order in which they are first needed."""
    items_by_pass: dict[Pass, dict[Any, None]] = {}
    for suite in suite_needs.values():
        needs = list(suite.measurements)
        # What is classified must be generated first.
        for need in suite.measurements:
            if isinstance(need, Classes):
                needs.append(Texts(need.column))
        for need in needs:
            if isinstance(need, Classes) is not is_classifying:
                continue
            model_pass = _choose_pass(suite.rows, need)
            items = _list_items(suite.rows, need, outputs)
            items_by_pass.setdefault(model_pass, {}).update(dict.fromkeys(items))
    return {model_pass: list(items) for model_pass, items in items_by_pass.items()}


def _choose_pass(rows: EvalRows, need: Measurement) -> Pass:
    match need:
        case Scores():
            return Pass(SCORING)
        case ReferenceScores():
            return Pass(REFERENCE_SCORING, rows.config.reference_model_path)
        case GradNorms():
            return Pass(GRADIENT_NORMS, need.p)
        case Texts():
            arguments = rows.build_generation_args(need.column)
            return Pass(GENERATING, json.dumps(arguments, sort_keys=True))
        case Classes():
            return Pass(CLASSIFYING, rows.config.classifier_path)
        case Task():
            settings = dict(vars(rows.config.simple_evaluate_args))
            settings["configured"] = rows.config.configured_tasks()
            return Pass(TASKS, (rows.template, json.dumps(settings, sort_keys=True)))


def _list_items(
    rows: EvalRows,
    need: Measurement,
    outputs: dict[Pass, Outputs],
) -> Sequence[object]:
    """List what a pass runs over for one need."""
    match need:
        case Task():
            return [need.name]
        case Classes():
            generated = _read_texts(rows, Texts(need.column), outputs)
            return [row.text for row in generated]
        case Texts():
            return rows.load_column(need.column).prompts
        case GradNorms():
            # An answer of no tokens has no gradient, and is not asked for.
            pairs = _list_first_answers(rows, need)
            return [pair for pair in pairs if pair[1]]
        case _:
            pairs_by_row = rows.load_column(need.column).pairs
            return list(itertools.chain.from_iterable(pairs_by_row))


def _list_first_answers(rows: EvalRows, need: GradNorms) -> list[tuple[Ids, Ids]]:
    """List each row's prompt with its first answer."""
    end = -1 if need.drop_last_label else None
    first_answers = []
    for pairs in rows.load_column(need.column).pairs:
        prompt, answer = pairs[0]
        first_answers.append((prompt, answer[:end]))
    return first_answers


def _run_pass(
    model_pass: Pass,
    items: list[Any],
    engine: Engine,
    auxiliary_models: AuxiliaryModels | None,
    progress: Progress,
) -> list[Any]:
    """Run a pass, giving a result for each item."""
    argument = model_pass.argument
    if model_pass.kind == TASKS:
        template, settings = argument
        return tasks.run_tasks(items, json.loads(settings), engine, template, progress)
    advance = progress(model_pass.kind, len(items))
    if model_pass.kind == SCORING:
        return engine.score(items, advance)
    if model_pass.kind == GRADIENT_NORMS:
        return engine.grad_norms(items, argument, advance)
    if model_pass.kind == GENERATING:
        return engine.generate(items, on_progress=advance, **json.loads(argument))
    assert auxiliary_models is not None
    if model_pass.kind == CLASSIFYING:
        return auxiliary_models.classify(argument, items, advance)
    return auxiliary_models.score(argument, items, advance)


def _read_measurement(
    rows: EvalRows,
    need: Measurement,
    outputs: dict[Pass, Outputs],
) -> list[Any]:
    """Read what was measured for a need from the outputs of its pass, row by row."""
    results = outputs[_choose_pass(rows, need)]
    match need:
        case Task():
            return [results[need.name]]
        case Texts():
            return _read_texts(rows, need, outputs)
        case Classes():
            classed = []
            for row in _read_texts(rows, Texts(need.column), outputs):
                classed.append(Classed(row.index, row.text, results[row.text]))
            return classed
        case GradNorms():
            return _read_norms(rows, need, results)
        case _:
            return _read_scores(rows, need, results)


def _read_norms(
    rows: EvalRows,
    need: GradNorms,
    results: Outputs,
) -> list[NormedRow]:
    """Read the gradient norm of each row's answer; it is 0 where there is nothing to learn."""
    column = rows.load_column(need.column)
    pairs = _list_first_answers(rows, need)
    normed = []
    for index, pair in zip(column.row_indices, pairs, strict=True):
        _, answer = pair
        norm = results[pair] if answer else 0.0
        normed.append(NormedRow(index, norm))
    return normed


def _read_scores(
    rows: EvalRows,
    need: Scores | ReferenceScores,
    results: Outputs,
) -> list[ScoredRow]:
    """Read the scores of all answers of each row."""
    column = rows.load_column(need.column)
    scored = []
    for position, index in enumerate(column.row_indices):
        scored_row = ScoredRow(
            index,
            scores=[results[pair] for pair in column.pairs[position]],
            texts=column.answer_texts[position],
            has_alternatives=column.has_alternatives,
        )
        scored.append(scored_row)
    return scored


def _read_texts(
    rows: EvalRows,
    need: Texts,
    outputs: dict[Pass, Outputs],
) -> list[Generated]:
    """Read the continuation of each row's prompt, cut where it no longer counts."""
    results: dict[Ids, list[int]] = outputs[_choose_pass(rows, need)]
    column = rows.load_column(need.column)
    stops = rows.get_config(need.column).stop
    decode = rows.template.decode
    generated = []
    for position, index in enumerate(column.row_indices):
        answers = [answer for _, answer in column.pairs[position]]
        truths = column.answer_texts[position]
        if need.truth_tokens is not None:
            truths = [decode(answer[: need.truth_tokens]).strip() for answer in answers]
        continuation = results[column.prompts[position]]
        if need.adaptive:
            longest = max(len(answer) for answer in answers)
            continuation = continuation[: limit_continuation(longest)]
        text = cut_at_stop(decode(continuation), stops)
        generated_row = Generated(
            index,
            prompt=column.prompt_texts[position],
            truths=truths,
            text=text.strip(),
            has_alternatives=column.has_alternatives,
            question=column.questions[position],
        )
        generated.append(generated_row)
    return generated
