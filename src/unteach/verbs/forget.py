"""`unteach forget ROWS model=MODEL`: a model that forgot some rows, tested, with a record of it.

Every step is a run of another verb, in the folder of the request: the same command again goes on
where it was stopped.
"""

import contextlib
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from unteach import atomic, console, owner, run_dir
from unteach.audits.files import FINDINGS, SUMMARY
from unteach.audits.redaction import Redactor, load_redaction_key
from unteach.config.compose import compose
from unteach.config.forget import ForgetConfig
from unteach.config.schema import AuditConfig
from unteach.config.verb_options import Options
from unteach.data.streams import Stream
from unteach.data.user_files import resolve_files
from unteach.errors import NotForgotten
from unteach.forget import choice, known_rows, record, runs, table
from unteach.forget.recipes import Recipe, choose_recipes
from unteach.forget.runs import Run
from unteach.forget.texts import Texts, split_retain_rows, write_own_texts
from unteach.json_files import read_json, read_log
from unteach.models import loading
from unteach.training.build_streams import build_rows
from unteach.verbs.start_composed import start_composed
from unteach.wording import format_count

logger = logging.getLogger(__name__)
ROOT = Path("saves/forget")
MODEL, BEST = "model", "best_candidate"
"""The model that is given, and the name of the best one where none is good enough."""


def run(config: ForgetConfig) -> Path:
    """Make a model forget rows, and give the folder of the request.

    Raises:
        NotForgotten: no method meets both the budget and the audit; the best one is kept.
    """
    recipes = choose_recipes(config.method)
    folder = find_folder(config)
    with owner.own(folder):
        if (folder / record.RECORD).exists():
            console.say(f"done before: {folder / record.RECORD}")
            done: dict[str, Any] = read_json(folder / record.RECORD, "a record")
            _refuse_failure(done, folder)
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        num_steps = 2 + 2 * len(recipes)

        look = runs.plan_look(config, folder)
        _carry_out(look, f"1 of {num_steps}: what the model knows of the rows")
        known = known_rows.write_known_rows(look.folder / FINDINGS, folder)
        _tell_known(known)
        plan = _plan_candidates(config, folder, recipes, look)

        candidates = []
        for number, candidate in enumerate(plan, start=1):
            _carry_out(candidate, f"{2 * number} of {num_steps}: {candidate.folder.name}")
            model = str(runs.find_model(candidate))
            audit = runs.plan_audit(config, folder, model, candidate.folder / choice.AUDIT)
            _carry_out(audit, f"{2 * number + 1} of {num_steps}: its audit")
            candidates.append(choice.read_candidate(candidate.folder.name, candidate.folder))

        console.say(f"step {num_steps} of {num_steps}: the choice")
        chosen = choice.choose(candidates)
        table.print_candidates(candidates, chosen)
        request = _describe_request(config, folder, known)
        to = _give(chosen, folder)
        if not config.keep:
            _delete_weights(candidates)
        summary = read_json(chosen.folder / choice.AUDIT / SUMMARY, "the summary of an audit")
        seconds = time.monotonic() - began
        written = record.build_record(request, candidates, chosen, to, summary, seconds)
        record.write_record(folder, written)
    console.say(chosen.sentence)
    console.say(f"model: {to}")
    console.say(f"record: {folder / record.RECORD}")
    _refuse_failure(written, folder)
    return folder


def find_folder(config: ForgetConfig) -> Path:
    """Find the folder of a request: by its name, else by its model and its rows."""
    name = config.task_name or f"{Path(config.model).name}-{Path(config.rows).stem}"
    return ROOT / name


def _carry_out(step: Run, what: str) -> None:
    """Carry one step out, unless it is finished."""
    console.say(f"step {what}")
    if run_dir.is_done(step.folder):
        console.say(f"  done before: {step.folder}")
        return
    start_composed(step.verb, list(step.words), Options())


def _tell_known(known: known_rows.KnownRows) -> None:
    console.say(f"the model knows {format_count(known.num_known, 'row')} of them")
    if known.unknown:
        places = ", ".join(known.unknown[:5])
        more = len(known.unknown) - 5
        rest = f" and {more} more" if more > 0 else ""
        console.say(f"left alone, as it does not know them: {places}{rest}")


def _plan_candidates(
    config: ForgetConfig, folder: Path, recipes: list[Recipe], look: Run
) -> list[Run]:
    """Plan the run of each method, by the size of the model, with the texts that hold it."""
    composed = compose("audit", look.words)
    assert isinstance(composed, AuditConfig)
    composed = resolve_files(composed)
    empty = loading.load_empty(composed.model)
    num_parameters = sum(parameter.numel() for parameter in empty.model.parameters())
    texts = _write_texts(composed, folder, config.holdout)
    return [
        runs.plan_candidate(config, folder, recipe, texts, num_parameters, bool(empty.adapter))
        for recipe in recipes
    ]


def _write_texts(composed: AuditConfig, folder: Path, holdout: str | None) -> Texts:
    """Write what holds the model while it forgets: rows to keep, else texts of its own."""
    parts = composed.data.streams.get("retain")
    if parts:
        empty = loading.load_empty(composed.model)
        datasets, _ = build_rows(empty, "retain", parts, composed.seed)
        return split_retain_rows(Stream("retain", datasets), folder, composed.seed, holdout)
    loaded = loading.load(composed.model, training=False)
    return write_own_texts(loaded, folder, composed.seed, holdout)


def _describe_request(
    config: ForgetConfig, folder: Path, known: known_rows.KnownRows
) -> record.Request:
    redactor = Redactor(load_redaction_key())
    rows, _ = read_log(folder / known_rows.ASKED)
    return record.Request(
        config=config,
        row_hashes=record.hash_rows(rows, redactor),
        key_id=redactor.key_id,
        known=known,
        holds_own_text=config.retain is None,
    )


def _give(chosen: choice.Candidate, folder: Path) -> Path:
    """Put the chosen model into its place."""
    to = folder / (MODEL if chosen.is_good else BEST)
    if not to.exists():
        with atomic.atomic_write_folder(to) as temporary:
            shutil.copytree(chosen.folder / run_dir.FINAL, temporary, dirs_exist_ok=True)
    return to


def _delete_weights(candidates: list[choice.Candidate]) -> None:
    """Delete the weights of all that was tried: they still know of the rows."""
    for candidate in candidates:
        for name in (run_dir.FINAL, "reference"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(candidate.folder / name)


def _refuse_failure(written: dict[str, Any], folder: Path) -> None:
    """Raise NotForgotten where the model that is given is not good enough."""
    if not written["done"]["meets_budget_and_audit"]:
        raise NotForgotten(
            f"no method meets both the budget of {written['done']['budget']:g} nats a token and "
            f"the audit; the best one is in {folder / BEST}. A larger budget allows more: "
            "budget=…"
        )
