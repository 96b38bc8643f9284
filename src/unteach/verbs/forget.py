"""`unteach forget ROWS model=MODEL`: a model that forgot some rows, tested, with a record of it.

Every step is a run of another verb, in the folder of the request: the same command again goes on
where it was stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unteach import atomic, console, fingerprints, owner, run_dir
from unteach.audits.files import FINDINGS
from unteach.audits.redaction import Redactor, load_redaction_key
from unteach.audits.session import build_stream
from unteach.audits.signing_keys import load_signer
from unteach.audits.verdict import PAST_CHANCE
from unteach.config.forget import YES, ForgetConfig
from unteach.config.schema import AuditConfig, ModelConfig
from unteach.config.verb_options import Options
from unteach.errors import Diverged, NotForgotten, UserError
from unteach.forgetting import (
    candidates,
    choice,
    exact,
    gguf_file,
    known_rows,
    leak_by_budget,
    record,
    runs,
    table,
)
from unteach.forgetting.earlier import EarlierRequest, add_earlier_rows, find_earlier
from unteach.forgetting.exact import NOT_LOOKED_FOR, ExactWay
from unteach.forgetting.kl import measure_kl
from unteach.forgetting.leak_by_budget import LeakAtBudget
from unteach.forgetting.overlap import refuse_overlap
from unteach.forgetting.recipes import Recipe, choose_recipes
from unteach.forgetting.row_form import can_have_wrong_answers
from unteach.forgetting.texts import Texts, write_own_texts, write_retain_rows, write_unseen
from unteach.json_files import read_json, read_log
from unteach.lazy import torch
from unteach.models import loading
from unteach.report.forget_page import write_forget_page
from unteach.studies import gpu_slots, local
from unteach.studies.plan import AUDIT, PlannedRun
from unteach.studies.settings import Local
from unteach.verbs import forget_job
from unteach.verbs.start_composed import start_composed
from unteach.wording import format_count

ROOT = Path("saves/forget")
REQUEST = "request.json"
FREE = ("jobs", "slurm")
"""What the same request may say otherwise when it goes on."""


@dataclass(frozen=True)
class _Outcome:
    """What a request came to.

    Attributes:
        methods: the runs that were planned.
        found: what they came to.
        failed: those that came to no model.
        not_tried: those that were not needed any more.
        chosen: which of them is given.
        leaks: what that leaves at other budgets.
    """

    methods: Sequence[PlannedRun]
    found: Sequence[choice.Candidate]
    failed: Sequence[str]
    not_tried: Sequence[str]
    chosen: choice.Candidate
    leaks: Sequence[LeakAtBudget]


def run(config: ForgetConfig) -> Path:
    """Make a model forget rows, and give the folder of the request.

    Raises:
        NotForgotten: no method meets both the budget and the audit; the best one is kept.
        Diverged: no method came to a model.
    """
    folder = find_folder(config)
    is_over = (folder / run_dir.FORGET_RECORD).exists()
    recipes: Sequence[Recipe] = []
    way = NOT_LOOKED_FOR
    # What cannot be read or done is refused now, and not after hours.
    if config.sign_key is not None:
        load_signer(Path(config.sign_key))
    redactor = Redactor(load_redaction_key())
    if config.jobs > 1 and torch.cuda.is_available():
        raise UserError(
            f"jobs={config.jobs}: on a GPU a request carries out one run at a time; leave jobs out"
        )
    if not is_over:
        look = runs.compose_audit(runs.plan_look(config, folder))
        recipes = choose_recipes(config.method, can_have_wrong_answers(look))
        if config.gguf:
            gguf_file.refuse_unfit(config)
        way = exact.find_way(config, folder)
    if config.slurm and not is_over:
        forget_job.submit(config, folder)
        return folder
    with owner.own(folder):
        _open_request(config, folder)
        if not (folder / run_dir.FORGET_RECORD).exists():
            _carry_out_request(config, folder, recipes, redactor, way)
        page = write_forget_page(folder / run_dir.FORGET_RECORD)
    written: dict[str, Any] = read_json(folder / run_dir.FORGET_RECORD, "the record of a request")
    console.say(str(written["sentence"]))
    if written["left"]["forgotten_past_chance"]:
        console.say(PAST_CHANCE)
    console.say(f"model: {written['done']['model']}")
    if config.gguf:
        console.say(f"for llama.cpp: {gguf_file.find_file(Path(written['done']['model']))}")
    console.say(f"page: {page}")
    console.say(f"record: {folder / run_dir.FORGET_RECORD}")
    if written["done"]["method"] == choice.EXACT:
        leak = written["candidates"][0]["leak"]
        for line in exact.explain_leaks(leak["is_found"], leak["is_tested"]):
            console.say(line)
    elif not written["done"]["meets_budget_and_audit"]:
        raise NotForgotten(_explain_failure(written))
    return folder


def _explain_failure(written: dict[str, Any]) -> str:
    """Explain why no model is good enough, and what may help."""
    best = f"the best one is {written['done']['model']}"
    if not any(candidate["leak"]["is_tested"] for candidate in written["candidates"]):
        return (
            f"what came out could be held against nothing, so that nothing can be said; {best}. "
            "Give columns value and kind, holdout= or retain_model="
        )
    budget = written["done"]["budget"]
    failure = f"no method meets both the budget of {budget:g} nats a token and the audit; {best}"
    larger = [one for one in written["leak_by_budget"] if one["budget"] > budget]
    for one in larger:
        if one["leak"]["is_tested"] and not one["leak"]["is_found"]:
            method = written["done"]["method"]
            return f"{failure}. At budget={one['budget']:g} no leak is found of {method}"
    if not larger:
        return f"{failure}. A larger budget may allow more: budget=…"
    return (
        f"{failure}. A larger budget allows more: at {larger[-1]['budget']:g} "
        f"{larger[-1]['leak']['worst']:.0%} still come out"
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
    asked = {**asdict(config), "files": _hash_files(config)}
    # One that was refused before anything was measured has not begun.
    if not file.exists() or not (folder / runs.BEFORE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(file, asked)
        return
    begun = read_json(file, "a request")
    changes = [name for name in asked if asked[name] != begun.get(name) and name not in FREE]
    if changes:
        raise UserError(
            f"{folder}: another request was begun there (it differs in {', '.join(changes)}); give "
            "this one a name: task_name=…"
        )


def _hash_files(config: ForgetConfig) -> dict[str, str]:
    """Hash what stands in the files of a request: with other rows it is another request."""
    files = [Path(name) for name in (config.rows, config.retain, config.holdout) if name]
    return {str(file): fingerprints.hash_files(file) for file in files if file.exists()}


def _carry_out_request(
    config: ForgetConfig,
    folder: Path,
    recipes: Sequence[Recipe],
    redactor: Redactor,
    way: ExactWay,
) -> None:
    earlier = find_earlier(config.model)
    if earlier is not None:
        console.say(
            f"{config.model} came of the request {earlier.folder}: what that took out stays out, "
            f"and both begin at {earlier.model}"
        )
        config = replace(config, model=earlier.model)

    num_steps = 3 if config.exact == YES else 5
    console.say(f"1 of {num_steps}: what does the model know of the rows?")
    look = runs.plan_look(config, folder)
    composed = runs.compose_audit(look)
    empty = loading.load_empty(composed.model)
    refuse_overlap(composed, empty, earlier)
    if not run_dir.is_done(Path(look.folder)):
        _carry_out_one(look)
    known = known_rows.write_known_rows(Path(look.folder) / FINDINGS, folder)
    _tell_known(known)
    if earlier is not None:
        add_earlier_rows(earlier, folder)

    if config.exact == YES:
        outcome = _teach_anew(config, folder, composed, empty, way, earlier)
    else:
        for line in exact.describe_way(way, f"exact=yes task_name={folder.name}-exact"):
            console.say(line)
        outcome = _search(config, folder, composed, empty, recipes)

    console.say(f"{num_steps} of {num_steps}: the model, its record and its page")
    chosen = outcome.chosen
    to = candidates.give(chosen, folder)
    if config.gguf:
        gguf_file.write_file(to)
    if not config.keep:
        candidates.delete_weights(outcome.methods)
    rows, _ = read_log(folder / known_rows.ASKED)
    request = record.Request(
        config=config,
        row_hashes=record.hash_rows(rows, redactor),
        redactor=redactor,
        known=known,
        failed=outcome.failed,
        not_tried=outcome.not_tried,
        earlier=earlier,
        exact=way,
    )
    record.write_record(folder, request, outcome.found, chosen, outcome.leaks, to)


def _search(
    config: ForgetConfig,
    folder: Path,
    composed: AuditConfig,
    empty: loading.LoadedModel,
    recipes: Sequence[Recipe],
) -> _Outcome:
    """Try methods, each landed on the budget, and choose among what came of them."""
    console.say("2 of 5: what holds it while it forgets?")
    texts = _write_texts(config, composed, empty, folder)

    num_methods = format_count(len(recipes), "method")
    console.say(f"3 of 5: {num_methods}, each landed on the budget and attacked")
    methods, audits = candidates.plan_candidates(config, folder, recipes, texts, empty)
    tried = _try_methods(config, methods, audits)
    not_tried = [method.name for method in methods if method not in tried]
    found, failed = candidates.read_candidates(tried)
    chosen = candidates.choose_once(found, folder)
    table.print_candidates(found, chosen)

    console.say(f"4 of 5: what {chosen.method} leaves at other budgets")
    leaks = _measure_other_budgets(config, folder, composed.model, chosen, texts)
    table.print_leaks(leaks)
    return _Outcome(methods, found, failed, not_tried, chosen, leaks)


def _try_methods(
    config: ForgetConfig, methods: Sequence[PlannedRun], audits: Sequence[PlannedRun]
) -> Sequence[PlannedRun]:
    """Carry out methods and their audits, and give the methods that were tried: where the search
    may end early, up to the first that leaves nothing."""

    def list_needed() -> Sequence[PlannedRun]:
        return candidates.take_needed(methods) if config.may_end_early else methods

    needed = list_needed()
    both = []
    for method, audit in zip(methods, audits, strict=True):
        if method in needed:
            both += [method, audit]
    points = leak_by_budget.list_other_budgets(config.budget)

    def is_enough() -> bool:
        return len(list_needed()) < len(needed)

    _carry_out(both, config.jobs, _carry_out_one, [AUDIT] * len(points), is_enough)
    tried = list_needed()
    left = [method.name for method in methods if method not in tried]
    if left:
        console.say(f"nothing comes out of a method before them, so not tried: {', '.join(left)}")
    return tried


def _teach_anew(
    config: ForgetConfig,
    folder: Path,
    composed: AuditConfig,
    empty: loading.LoadedModel,
    way: ExactWay,
    earlier: EarlierRequest | None,
) -> _Outcome:
    """Teach the run that taught the rows anew without them, and attack what came of it.

    Raises:
        Diverged: it came to no model.
    """
    console.say("2 of 3: the run that taught the rows, without them")
    for line in exact.describe_way(way, "it is done now"):
        console.say(line)
    planned = exact.plan_retraining(config, folder, way, earlier)
    run_folder = Path(planned.folder)
    texts = _write_texts(config, composed, empty, folder)
    audit = runs.plan_audit(config, folder, run_folder, texts, after=(planned.name,))
    _carry_out([planned, audit], config.jobs, _carry_out_one)
    if not run_dir.is_done(run_folder / run_dir.AUDIT):
        raise Diverged("the run came to no model without the rows; what happened stands above")

    given = folder / candidates.MODEL
    now = given if given.exists() else run_folder / run_dir.FINAL
    kl = measure_kl(composed.model, str(now), composed.seed, Path(composed.paths.cache_dir))
    chosen = choice.read_exact(run_folder, kl)
    table.print_candidates([chosen], chosen)
    return _Outcome([planned], [chosen], [], [], chosen, [])


def _measure_other_budgets(
    config: ForgetConfig,
    folder: Path,
    before: ModelConfig,
    chosen: choice.Candidate,
    texts: Texts,
) -> list[LeakAtBudget]:
    """Audit the chosen method where it lands on other budgets."""
    points = {
        str(leak_by_budget.get_point_dir(folder, point)): point
        for point in leak_by_budget.list_points(chosen)
    }

    def audit_point(run: PlannedRun) -> None:
        point = points[str(Path(run.folder).parent)]
        leak_by_budget.write_point_model(before, chosen, point, folder)
        _carry_out_one(run)
        leak_by_budget.delete_point_models(point, folder)

    plan = [runs.plan_audit(config, folder, Path(name), texts) for name in points]
    _carry_out(plan, config.jobs, audit_point)
    for point in points.values():  # those of a process that was killed after their audits
        leak_by_budget.delete_point_models(point, folder)
    return leak_by_budget.read_leaks(chosen, config.budget, list(points.values()), folder)


def _carry_out(
    plan: Sequence[PlannedRun],
    jobs: int,
    carry_out: local.CarryOut,
    later: Sequence[str] = (),
    is_enough: Callable[[], bool] | None = None,
) -> None:
    """Carry runs out that are not finished, until it is enough; runs of the kinds `later` follow on
    them."""
    todo = [run for run in plan if not run_dir.is_done(Path(run.folder))]
    slots = gpu_slots.build_slots(Local(jobs=jobs))
    for outcome in local.execute(todo, carry_out, slots, later, is_enough):
        if outcome.state != "done":
            console.say(f"{outcome.run.name} {outcome.state}: {outcome.reason}")


def _carry_out_one(run: PlannedRun) -> None:
    start_composed(run.config_name, list(run.overrides), Options())


def _tell_known(known: known_rows.KnownRows) -> None:
    console.say(f"it knows {format_count(known.num_known, 'row')} of them")
    if known.unknown:
        places = ", ".join(known.unknown[:5])
        more = f" and {len(known.unknown) - 5} more" if len(known.unknown) > 5 else ""
        console.say(f"left alone, as it does not know them: {places}{more}")


def _write_texts(
    config: ForgetConfig, composed: AuditConfig, empty: loading.LoadedModel, folder: Path
) -> Texts:
    """Write what holds the model while it forgets: rows to keep, else texts of its own. Nothing
    holds one that is taught anew."""
    retain, _ = build_stream(composed, empty, "retain")
    holdout, _ = build_stream(composed, empty, "holdout")
    if retain is not None:
        return write_retain_rows(retain, holdout, folder, composed.seed)
    if config.exact == YES:
        unseen, _ = write_unseen(holdout, folder)
        return Texts(None, None, None, unseen)
    return write_own_texts(composed.model, holdout, folder, composed.seed)
