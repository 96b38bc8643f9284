"""`unteach audit`: what a model still knows of rows that it was to forget."""

import contextlib
import logging
from pathlib import Path

from unteach import atomic, console, fingerprints, owner, run_dir
from unteach.audit import files, session, table
from unteach.config.schema import AuditConfig
from unteach.config.tree import to_yaml
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.errors import LeakFound
from unteach.evals.run import PassProgress
from unteach.models import loading
from unteach.verbs.evaluate import EVALUATING

logger = logging.getLogger(__name__)


def run(config: AuditConfig) -> Path:
    """Audit a model, and give the folder of the results. The same command again goes on where it
    was stopped.

    Raises:
        LeakFound: `audit.fail_if` is met; all files are written before.
    """
    folder = Path(config.paths.output_dir)
    with contextlib.ExitStack() as held:
        # One process (group) at a time writes into a run's folder.
        owned_folder = run_dir.find_owned_folder(folder)
        process_context.run_on_main(lambda: held.enter_context(owner.own(owned_folder)))
        process_context.run_on_main(lambda: run_dir.open_run(folder, config.tree, config.resume))
        dist = process_context.init_distributed()
        result = _audit(config, folder, dist)
        dist.barrier()
    condition = config.audit.parse_condition()
    if condition is not None:
        rate = files.find_rate(result, condition.name)
        if condition.is_met(rate):
            raise LeakFound(
                f"audit.fail_if={config.audit.fail_if}: {condition.name} is {rate:.4g}; the "
                f"results are in {folder}"
            )
    return folder


def _audit(config: AuditConfig, folder: Path, dist: DistContext) -> session.AuditResult:
    plan = session.plan_audit(config, loading.load_empty(config.model))
    for note in (*config.data.notes, *plan.notes):
        logger.info(note)
    if dist.is_main:
        _write_record(config, folder, dist)
    stopping = process_context.stop_at_interrupt(EVALUATING)
    with stopping, PassProgress(shown=dist.is_main) as progress:
        result = session.carry_out(plan, config, dist, progress)
    if dist.is_main:
        files.write_audit(folder, plan, result)
        atomic.remove_stale_temp_files(folder)
        atomic.write_json(folder / run_dir.DONE, {})
        table.print_audit(plan, result)
        console.say(f"results: {folder}")
    return result


def _write_record(config: AuditConfig, folder: Path, dist: DistContext) -> None:
    """Write what was audited, and with what, into the results' folder."""
    atomic.write_text(folder / run_dir.CONFIG, to_yaml(config.tree))
    manifest = fingerprints.build_manifest(
        config.seed, command=config.command, world=dist.world_size, mode=dist.mode
    )
    atomic.write_json(folder / run_dir.MANIFEST, manifest)
