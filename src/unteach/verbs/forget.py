"""`unteach forget ROWS model=MODEL`: a model that forgot some rows, tested, with a record of it.

Every step is a run of another verb, in the folder of the request: the same command again goes on
where it was stopped.
"""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unteach import atomic, console, owner, run_dir
from unteach.audits.files import FINDINGS
from unteach.audits.redaction import Redactor, load_redaction_key
from unteach.audits.session import build_stream
from unteach.audits.signing_keys import load_signer
from unteach.audits.verdict import PAST_CHANCE
from unteach.config.compose import compose
from unteach.config.forget import ForgetConfig
from unteach.config.schema import AuditConfig
from unteach.config.verb_options import Options
from unteach.data.user_files import resolve_files
from unteach.errors import Diverged, NotForgotten, UserError
from unteach.forgetting import choice, known_rows, record, runs, table
from unteach.forgetting.recipes import Recipe, choose_recipes
from unteach.forgetting.texts import Texts, write_own_texts, write_retain_rows
from unteach.json_files import read_json, read_log
from unteach.models import loading
from unteach.report.forget_page import write_forget_page
from unteach.studies import gpu_slots, local
from unteach.studies.plan import AUDIT, PlannedRun
from unteach.studies.settings import Local
from unteach.verbs import relearn
from unteach.verbs.start_composed import start_composed
from unteach.wording import format_count

ROOT = Path("saves/forget")
REQUEST = "request.json"
MODEL, BEST = "model", "best_candidate"
"""The model that is given, and the name of the best one where none is good enough."""
REFERENCE = "reference"
"""The folder of a run in which its landing keeps what the model said before."""


def run(config: ForgetConfig) -> Path:
    """Make a model forget rows, and give the folder of the request.

    Raises:
        NotForgotten: no method meets both the budget and the audit; the best one is kept.
        Diverged: no method came to a model.
    """
    recipes = choose_recipes(config.method)
    # What cannot be read is refused now, and not after hours.
    if config.sign_key is not None:
        load_signer(Path(config.sign_key))
    redactor = Redactor(load_redaction_key())
    folder = find_folder(config)
    with owner.own(folder):
        _open_request(config, folder)
        if not (folder / run_dir.FORGET_RECORD).exists():
            _carry_out_request(config, folder, recipes, redactor)
        page = write_forget_page(folder / run_dir.FORGET_RECORD)
    written: dict[str, Any] = read_json(folder / run_dir.FORGET_RECORD, "the record of a request")
    console.say(str(written["sentence"]))
    if written["left"]["forgotten_past_chance"]:
        console.say(PAST_CHANCE)
    console.say(f"model: {written['done']['model']}")
    console.say(f"page: {page}")
    console.say(f"record: {folder / run_dir.FORGET_RECORD}")
    if not written["done"]["meets_budget_and_audit"]:
        raise NotForgotten(_explain_failure(written))
    return folder


def _explain_failure(written: dict[str, Any]) -> str:
    """Explain why no model is good enough, and what may help."""
    best = f"the best one is {written['done']['model']}"
    if not any(candidate["is_tested"] for candidate in written["candidates"]):
        return (
            f"what came out could be held against nothing, so that nothing can be said; {best}. "
            "Give columns value and kind, holdout= or retain_model="
        )
    return (
        f"no method meets both the budget of {written['done']['budget']:g} nats a token and the "
        f"audit; {best}. A larger budget allows more: budget=…"
    )


def find_folder(config: ForgetConfig) -> Path:
    """Find the folder of a request: by its name, else by its model and its rows."""
    name = config.task_name or f"{Path(config.model).name}-{Path(config.rows).stem}"
    return ROOT / name


def _open_request(config: ForgetConfig, folder: Path) -> None:
    """Begin a request in its folder, or go on with it.

    Raises:
        UserError: another one was begun there.
    """
    file = folder / REQUEST
    asked = asdict(config)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(file, asked)
        return
    begun = read_json(file, "a request")
    changes = [name for name in asked if asked[name] != begun.get(name) and name != "jobs"]
    if changes:
        raise UserError(
            f"{folder}: another request was begun there (it differs in {', '.join(changes)}); give "
            "this one a name: task_name=…"
        )


def _carry_out_request(
    config: ForgetConfig, folder: Path, recipes: Sequence[Recipe], redactor: Redactor
) -> None:
    console.say("what does the model know of the rows?")
    look = runs.plan_look(config, folder)
    if not run_dir.is_done(Path(look.folder)):
        _carry_out_one(look)
    known = known_rows.write_known_rows(Path(look.folder) / FINDINGS, folder)
    _tell_known(known)

    console.say("what holds it while it forgets?")
    plan = _plan_candidates(config, folder, recipes, look)
    console.say(f"{format_count(len(recipes), 'method')}, each landed on the budget and attacked:")
    _carry_out(plan, config.jobs)

    methods = [one for one in plan if one.kind == runs.FORGET]
    candidates, failed = [], []
    for one in methods:
        if run_dir.is_done(Path(one.folder) / run_dir.AUDIT):
            candidates.append(choice.read_candidate(one.name, Path(one.folder)))
        else:
            failed.append(one.name)
    if not candidates:
        raise Diverged("no method came to a model; what happened stands above")
    chosen = choice.choose(candidates)
    table.print_candidates(candidates, chosen)

    to = _give(chosen, folder)
    if not config.keep:
        _delete_weights(methods)
    rows, _ = read_log(folder / known_rows.ASKED)
    request = record.Request(
        config=config,
        row_hashes=record.hash_rows(rows, redactor),
        key_id=redactor.key_id,
        known=known,
        failed=failed,
    )
    record.write_record(folder, request, candidates, chosen, to)


def _carry_out(plan: Sequence[PlannedRun], jobs: int) -> None:
    """Carry runs out that are not finished."""
    todo = [run for run in plan if not run_dir.is_done(Path(run.folder))]
    slots = gpu_slots.build_slots(Local(jobs=jobs))
    for outcome in local.execute(todo, _carry_out_one, slots):
        if outcome.state != "done":
            console.say(f"{outcome.run.name} {outcome.state}: {outcome.reason}")


def _carry_out_one(run: PlannedRun) -> None:
    verb = AUDIT if run.kind == AUDIT else "unlearn"
    start_composed(verb, list(run.overrides), Options())


def _tell_known(known: known_rows.KnownRows) -> None:
    console.say(f"it knows {format_count(known.num_known, 'row')} of them")
    if known.unknown:
        places = ", ".join(known.unknown[:5])
        more = f" and {len(known.unknown) - 5} more" if len(known.unknown) > 5 else ""
        console.say(f"left alone, as it does not know them: {places}{more}")


def _plan_candidates(
    config: ForgetConfig, folder: Path, recipes: Sequence[Recipe], look: PlannedRun
) -> list[PlannedRun]:
    """Plan a run and an audit of each method, by the size of the model and what holds it."""
    composed = compose("audit", look.overrides)
    assert isinstance(composed, AuditConfig)
    composed = resolve_files(composed)
    empty = loading.load_empty(composed.model)
    num_parameters = sum(parameter.numel() for parameter in empty.model.parameters())
    texts = _write_texts(composed, empty, folder)
    plan = []
    for recipe in recipes:
        candidate = runs.plan_candidate(
            config, folder, recipe, texts, num_parameters, empty.adapter is not None
        )
        plan += [candidate, runs.plan_audit(config, folder, candidate, texts)]
    return plan


def _write_texts(composed: AuditConfig, empty: loading.LoadedModel, folder: Path) -> Texts:
    """Write what holds the model while it forgets: rows to keep, else texts of its own."""
    retain, _ = build_stream(composed, empty, "retain")
    holdout, _ = build_stream(composed, empty, "holdout")
    if retain is not None:
        return write_retain_rows(retain, holdout, folder, composed.seed)
    loaded = loading.load(composed.model, training=False)
    return write_own_texts(loaded, holdout, folder, composed.seed)


def _give(chosen: choice.Candidate, folder: Path) -> Path:
    """Put the chosen model into its place."""
    to = folder / (MODEL if chosen.is_good else BEST)
    if not to.exists():
        with atomic.atomic_write_folder(to) as temporary:
            shutil.copytree(chosen.folder / run_dir.FINAL, temporary, dirs_exist_ok=True)
    return to


def _delete_weights(methods: Sequence[PlannedRun]) -> None:
    """Delete the weights of all that was tried, and of the trainings of its audits: they still know
    of the rows."""
    for method in methods:
        for name in (run_dir.FINAL, REFERENCE, f"{run_dir.AUDIT}/{relearn.FOLDER}"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(Path(method.folder) / name)
