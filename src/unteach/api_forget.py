"""The Python door to proving and forgetting: `unteach.audit` and `unteach.forget`; see api.py."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unteach import objects
from unteach.config.overrides import spell_value
from unteach.config.verb_options import Options
from unteach.errors import UserError
from unteach.objects import Rows
from unteach.results import AuditResult, ForgetResult, read_audit, read_forget
from unteach.start_with import list_dirs, start_with

if TYPE_CHECKING:
    from unteach.objects import Model


def audit(
    *overrides: str,
    model: "Model | None" = None,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    holdout: "Rows | None" = None,
    data: "Rows | None" = None,
    original: "Model | None" = None,
    retain_model: "Model | None" = None,
    level: str | None = None,
    task_name: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    config_name: str = "audit",
    config_dirs: Iterable[str | Path] = (),
    verbose: str | None = None,
) -> AuditResult:
    """Ask a model by many attacks for what it was to forget.

        unteach.audit(model="saves/unlearn/mine", forget="forget.csv", original="MODEL").sentence

    The same call again measures nothing again.

    Args:
        overrides: words of the command line, `key=value`.
        model: the model that was to forget; see `train`.
        forget: the rows that it was to forget, the facts; see `train`.
        retain: rows that it was to keep.
        holdout: rows that no model was taught, as a control.
        data: instead of forget and retain: rows with a column `forget`, 1 or 0.
        original: the model that knew the facts, which says which attacks have power.
        retain_model: one that never saw them.
        level: which attacks are made: `quick`, `standard`, or one of your own.
        task_name: names the folder, saves/audit/<task_name>.
        seed: of everything that is drawn.
        settings: any other keys: {"audit.only": ["rank", "clean"]}.
        config_name: a primary configuration.
        config_dirs: folders of more configuration files.
        verbose: `debug`, `info` or `quiet`: how much is logged on the standard error output.

    Returns:
        The folder of the results, the verdict, and what each attack brought out.

    Raises:
        UserError: where the configuration or the rows are wrong, with every mistake found.
        LeakFound: where the setting `audit.fail_if` holds, once all files are written.
        Preempted: where it was asked to stop; the same call goes on.
    """
    words = objects.spell_run(model, None, None, task_name, seed, settings)
    rows = {"data": data, "forget": forget, "retain": retain, "holdout": holdout}
    words += objects.spell_rows(rows)
    for key, other in (("original", original), ("retain_model", retain_model)):
        if other is not None:
            words.append(f"{key}={spell_value(objects.place_model(other))}")
    if level is not None:
        words.append(f"audit={spell_value(level)}")
    options = Options(config_name, list_dirs(config_dirs))
    return read_audit(start_with("audit", overrides, words, options, verbose))


def forget(
    *overrides: str,
    rows: "Rows | None" = None,
    model: "Model | None" = None,
    retain: "Rows | None" = None,
    holdout: "Rows | None" = None,
    retain_model: "Model | None" = None,
    budget: float | None = None,
    method: str | Sequence[str] | None = None,
    exact: str | None = None,
    level: str | None = None,
    task_name: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    verbose: str | None = None,
) -> ForgetResult:
    """Take rows out of a model: a few methods at one budget, the best of them by attack.

        unteach.forget(rows="gone.csv", model="MODEL", retain="kept.csv").model_dir

    The same call again goes on where it was stopped, and does nothing where it was finished.

    Args:
        overrides: words of the command line, `key=value`.
        rows: to forget, as a file or in memory; see `train`.
        model: that knows them; see `train`.
        retain: rows to keep.
        holdout: rows that no model was taught.
        retain_model: one that never saw the rows.
        budget: how far the model may move, KL in nats a token.
        method: what is tried, one name or several.
        exact: `yes` teaches the run that taught the rows anew without them; `auto`, `no`.
        level: of the audits.
        task_name: names the folder, saves/forget/<task_name>.
        seed: of everything that is drawn.
        settings: any other keys: {"keep": True}.
        verbose: `debug`, `info` or `quiet`: how much is logged on the standard error output.

    Returns:
        The model, its method, and what its audit says.

    Raises:
        UserError: where a word or the rows are wrong, or the model knows none of them.
        NotForgotten: where no method meets both the budget and the audit; the best one is kept.
        Preempted: where it was asked to stop; the same call goes on.
    """
    _refuse_job(settings or {})
    words = [] if rows is None else [str(objects.place_rows(rows, "rows"))]
    words += objects.spell_run(model, None, None, task_name, seed, settings)
    for key, beside in (("retain", retain), ("holdout", holdout)):
        if beside is not None:
            words.append(f"{key}={spell_value(objects.place_rows(beside, key))}")
    if retain_model is not None:
        words.append(f"retain_model={spell_value(objects.place_model(retain_model))}")
    dials = {"budget": budget, "method": method, "exact": exact, "level": level}
    for key, value in dials.items():
        if value is not None:
            words.append(f"{key}={spell_value(value)}")
    return read_forget(start_with("forget", overrides, words, Options(), verbose))


def _refuse_job(settings: Mapping[str, object]) -> None:
    """Raise UserError where a request is to be a job of Slurm, which gives no result here."""
    if any(key.partition(".")[0] == "slurm" for key in settings):
        raise UserError(
            "settings: slurm hands a request over and gives no result; that is for the command line"
        )
