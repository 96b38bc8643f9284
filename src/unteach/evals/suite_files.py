"""The files of a suite's values.

<SUITE>_EVAL.json has every value with its examples, <SUITE>_SUMMARY.json the values that were asked
for, <SUITE>_ROWS.json the rows they are of, <SUITE>_TOKENS.json the answers of `tokens` token by
token, <SUITE>_METRICS.json how its metrics are described (label, role, which way is good),
<SUITE>_ABSENT.json why a metric is not there, <SUITE>_NOTES.json what became of rows (drawn,
skipped, cut), and <SUITE>_BASIS.json which weights and settings the values are of, so that a later
evaluation of the same adds to them.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unteach import atomic, json_files
from unteach.config.metric_descriptions import DECIMALS, Role
from unteach.evals import merge_results, retain_logs, token_table
from unteach.evals.base import Scores, Texts, Value
from unteach.evals.measurement_plan import Measured
from unteach.evals.suite_plan import SuitePlan

TOKENS = "_TOKENS.json"


def write(
    plan: SuitePlan,
    values: dict[str, Value],
    measured: Measured,
    folder: Path,
    weights: str = "",
) -> None:
    """Write the files of a suite, keeping earlier values of the same weights and settings.

    Args:
        plan: of the suite.
        values: by metric.
        measured: what each need measured.
        folder: where the files go.
        weights: what tells the measured weights from all others.
    """
    contents: merge_results.Contents = {
        retain_logs.EVAL: {name: values[name].to_json() for name in sorted(values)},
        merge_results.SUMMARY: summarize(plan.metric_names, values),
        retain_logs.ROWS: describe_rows(plan),
        merge_results.METRICS: describe_metrics(plan),
        merge_results.NOTES: collect_notes(plan),
        merge_results.ABSENT: plan.absent,
    }
    basis = merge_results.describe_basis(plan.config, weights)
    is_merged = merge_results.write_merged(contents, basis, plan.config.suite.upper(), folder)
    _write_tokens(plan, measured, folder, keep=is_merged)


def is_measured(plan: SuitePlan, folder: Path) -> bool:
    """Say whether a folder has the values of all that is planned, on the same rows, and every file
    of them."""
    prefix = plan.config.suite.upper()
    values_file = folder / f"{prefix}{retain_logs.EVAL}"
    rows_file = folder / f"{prefix}{retain_logs.ROWS}"
    files = [
        values_file,
        rows_file,
        folder / f"{prefix}{merge_results.BASIS}",
    ]
    if _get_token_need(plan) in plan.list_measurements():
        files.append(folder / f"{prefix}{TOKENS}")  # the last that is written
    for file in files:
        if not file.exists():
            return False
    values = json_files.read_json(values_file, "the evaluation before training")
    rows = json_files.read_json(rows_file, "the evaluation before training")
    has_all_values = set(plan.metrics) <= set(values)
    return has_all_values and rows == describe_rows(plan)


def summarize(metric_names: list[str], values: dict[str, Value]) -> dict[str, float | None]:
    """Give the values of the metrics that were asked for, by name."""
    summary = {}
    for name in sorted(metric_names):
        if name in values:
            summary[name] = values[name].agg
    return summary


def describe_rows(plan: SuitePlan) -> dict[str, dict[str, Any]]:
    """Say of each column that metrics are measured on where it is from, how many rows it has, and a
    digest of them."""
    columns = {}
    for metric_name in plan.metrics:
        for under in plan.list_columns_under(metric_name):
            columns[under.name] = under.column
    described = {}
    for name, column in sorted(columns.items()):
        described[name] = {
            "of": column.source,
            "count": column.num_rows,
            "digest": column.fingerprint,
        }
    return described


def describe_metrics(plan: SuitePlan) -> dict[str, dict[str, Any]]:
    """Give what a suite and the classes of its metrics say of them, measured now or not.

    Where a run learns, better answers to rows that it never saw are welcome; only unlearning should
    leave them alone.
    """
    only_learns = "train" in plan.rows.own and "forget" not in plan.rows.own
    described = {}
    for name, description in plan.config.describe.items():
        role = description.role or _infer_role(plan, name)
        better = description.better
        if only_learns and role == "holdout" and better == "near before":
            better = "higher"
        decimals = description.decimals
        if decimals is None:
            decimals = DECIMALS
        completed = replace(
            description,
            role=role,
            better=better,
            meaning=description.meaning or "",
            decimals=decimals,
        )
        described[name] = asdict(completed)
    return described


def _infer_role(plan: SuitePlan, metric_name: str) -> Role | None:
    """Give the role of the rows that a metric is measured on, where all have the same."""
    if metric_name not in plan.metrics:
        return None
    roles = set()
    for under in plan.list_columns_under(metric_name):
        rows_name = under.name.partition(".")[0]
        roles.add(plan.config.rows[rows_name].role)
    return roles.pop() if len(roles) == 1 else None


def collect_notes(plan: SuitePlan) -> dict[str, str]:
    """Say what became of the rows: drawn, skipped, cut, and how many of each."""
    rows = plan.rows
    notes = {}
    for name, (num_measured, num_rows) in rows.subset_sizes.items():
        notes[f"rows measured of {name}"] = (
            f"{num_measured:,} of {num_rows:,}, drawn by seed {plan.config.seed} "
            f"(eval.{plan.config.suite}.max_rows)"
        )
    for column, count in rows.num_skipped.items():
        notes[f"rows skipped in {column}"] = f"{count}: empty answer, or no room for it"
    for column, count in rows.num_cut.items():
        notes[f"answers cut in {column}"] = (
            f"{count}: longer than max_length allows, or than the model reads"
        )
    for column, count in rows.num_joined.items():
        notes[f"boundaries moved in {column}"] = (
            f"{count}: the tokenizer joins the end of the prompt and the beginning of the answer; "
            "scored from the token after"
        )
    for column, count in _count_short_contexts(plan):
        notes[f"continuations cut in {column}"] = f"{count}: the model's context ends before"
    return notes


def _count_short_contexts(plan: SuitePlan) -> Iterator[tuple[str, int]]:
    """Count the prompts of each column after which the context has no room for all new tokens."""
    for need in plan.list_measurements():
        if not isinstance(need, Texts):
            continue
        arguments = plan.rows.build_generation_args(need.column)
        room = plan.rows.context - arguments["max_new_tokens"]
        prompts = plan.rows.load_column(need.column).prompts
        count = sum(len(prompt) > room for prompt in prompts)
        if count:
            yield need.column, count


def _get_token_need(plan: SuitePlan) -> Scores:
    """Give the need that measures the column which `tokens` names; no metric has it where none is
    named."""
    return Scores(plan.config.tokens or "")


def _write_tokens(
    plan: SuitePlan,
    measured: Measured,
    folder: Path,
    keep: bool,
) -> None:
    """Write what the model thinks of each token of one column, where some metric measured it.

    Args:
        plan: of the suite.
        measured: what each need measured.
        folder: where the file goes.
        keep: leave an earlier file where nothing measured the column now.
    """
    file = folder / f"{plan.config.suite.upper()}{TOKENS}"
    need = _get_token_need(plan)
    if need in measured:
        column = plan.rows.load_column(need.column)
        tokenizer = plan.rows.template.tokenizer
        table = token_table.build_table(need.column, column, measured[need], tokenizer)
        atomic.write_json(file, table)
    elif not keep:
        file.unlink(missing_ok=True)
