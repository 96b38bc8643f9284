"""`unteach audit`: what a model still knows of rows that it was to forget; `unteach audit verify
STATEMENT model=MODEL [key=FILE]`: whether a statement is of this model."""

import contextlib
import functools
import logging
import shutil
from pathlib import Path

from unteach import atomic, console, fingerprints, owner, run_dir
from unteach.audits import comparison, files, session, table
from unteach.audits.attacks.base import TrainingAttack
from unteach.audits.endpoint import build_stand_in
from unteach.audits.evidence import Evidence
from unteach.audits.redaction import Redactor, load_redaction_key
from unteach.audits.statement import verify
from unteach.config.schema import AuditConfig
from unteach.config.tree import to_yaml
from unteach.config.verb_configs import VerifyConfig
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.errors import LeakFound, UserError
from unteach.evals.run import PassProgress
from unteach.inference.backend_engine import BackendEngine
from unteach.models import loading
from unteach.report.audit_page import write_audit_page
from unteach.verbs import relearn
from unteach.verbs.ask_server import ask_server
from unteach.verbs.evaluate import EVALUATING

logger = logging.getLogger(__name__)


def run(config: AuditConfig | VerifyConfig) -> Path:
    """Audit a model, and give the folder of the results, or verify the statement of an audit, and
    give its file. The same command again goes on where it was stopped.

    Raises:
        LeakFound: `audit.fail_if` is met; all files are written before.
        UserError: the statement does not hold of the model.
    """
    if isinstance(config, VerifyConfig):
        return _verify(config)
    folder = Path(config.paths.output_dir)
    if config.audit.also:
        results = {name: _run_one(own) for name, own in comparison.list_audits(config).items()}
        process_context.run_on_main(lambda: comparison.tell(folder, results))
    else:
        results = {"": _run_one(config)}
    condition = config.audit.parse_condition()
    for name, result in results.items():
        if condition is None:
            break
        rate = files.find_rate(result, condition.name)
        if condition.is_met(rate):
            raise LeakFound(
                f"audit.fail_if={config.audit.fail_if}: {condition.name} is {rate:.4g}; the "
                f"results are in {folder / name}"
            )
    return folder


def _run_one(config: AuditConfig) -> session.AuditResult:
    """Audit one model, in its folder."""
    folder = Path(config.paths.output_dir)
    with contextlib.ExitStack() as held:
        # One process (group) at a time writes into a run's folder.
        owned_folder = run_dir.find_owned_folder(folder)
        process_context.run_on_main(lambda: held.enter_context(owner.own(owned_folder)))
        process_context.run_on_main(lambda: run_dir.open_run(folder, config.tree, config.resume))
        dist = process_context.init_distributed()
        result = _audit(config, folder, dist)
        dist.barrier()
    return result


def _verify(config: VerifyConfig) -> Path:
    path = Path(config.statement)
    key = Path(config.key) if config.key else None
    verification = verify(path, config.model, key, base_path=config.base_path)
    verification.refuse_difference()
    for line in verification.describe():
        console.say(line)
    console.say(str(verification.statement.predicate.get("sentence", "")))
    return path


def _audit(config: AuditConfig, folder: Path, dist: DistContext) -> session.AuditResult:
    ask = None
    if config.backend is not None:
        config.backend.check()
        ask = functools.partial(ask_server, config.backend, dist)
    build_engine = None
    if config.engine is not None:
        config.engine.check()
        build_engine = functools.partial(BackendEngine, config.engine, dist)
    empty = build_stand_in() if ask else loading.load_empty(config.model)
    plan = session.plan_audit(config, empty)
    _refuse_trainings_in_processes(plan, dist)
    evidence = Evidence(config)
    redactor = None
    if config.audit.redact:
        key_file = config.audit.redaction_key
        redactor = Redactor(load_redaction_key(Path(key_file) if key_file else None))
    for note in (*config.data.notes, *plan.notes):
        logger.info(note)
    for line in session.describe_endpoint(plan, config):
        logger.warning(line)
    if dist.is_main:
        _write_record(config, folder, dist)
    teach = functools.partial(relearn.teach_copy, folder / relearn.FOLDER)
    stopping = process_context.stop_at_interrupt(EVALUATING)
    with stopping, PassProgress(shown=dist.is_main) as progress:
        result = session.carry_out(plan, config, dist, progress, teach, ask, build_engine)
    if dist.is_main:
        condition = config.audit.parse_condition()
        files.write_audit(folder, plan, result, condition, evidence, redactor)
        trainings = folder / relearn.FOLDER
        if redactor is not None and trainings.exists():  # they hold the rows
            shutil.rmtree(trainings)
        page = write_audit_page(folder)
        atomic.remove_stale_temp_files(folder)
        atomic.write_json(folder / run_dir.DONE, {})
        table.print_audit(plan, result)
        if evidence.reason:
            console.say(f"no statement.json: {evidence.reason}")
        console.say(f"page: {page}")
        console.say(f"results: {folder}")
    return result


def _refuse_trainings_in_processes(plan: session.AuditPlan, dist: DistContext) -> None:
    """Raise UserError where several processes would each train the same copies."""
    for name, attack in plan.battery.attacks.items():
        if dist.world_size > 1 and isinstance(attack, TrainingAttack):
            raise UserError(
                f"launch: {name} trains copies of the model in one process; leave launch out, or "
                f"the attack (audit.attacks.{name}=null)"
            )


def _write_record(config: AuditConfig, folder: Path, dist: DistContext) -> None:
    """Write what was audited, and with what, into the results' folder."""
    atomic.write_text(folder / run_dir.CONFIG, to_yaml(config.tree))
    manifest = fingerprints.build_manifest(
        config.seed, command=config.command, world=dist.world_size, mode=dist.mode
    )
    atomic.write_json(folder / run_dir.MANIFEST, manifest)
