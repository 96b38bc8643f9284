"""Several models under the same audit: one folder each, and one table for all of them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unteach import atomic, console, run_dir
from unteach.audits.session import AuditResult, configure_model_like
from unteach.audits.table import format_share, list_worst_trainings
from unteach.audits.verdict import AttackResult
from unteach.config.schema import PATH, AuditConfig
from unteach.whole_tables import print_whole

TABLE = "AUDITS.json"


def list_audits(config: AuditConfig) -> dict[str, AuditConfig]:
    """Configure the audit of each model, by a name that is its folder's: of the model itself, and
    of those of `audit.also`."""
    paths = [str(config.model.model_args[PATH]), *config.audit.also]
    audits = {}
    for path, name in zip(paths, _name_models(paths), strict=True):
        folder = str(Path(config.paths.output_dir) / name)
        tree: dict[str, Any] = copy.deepcopy(config.tree)
        tree["model"]["model_args"][PATH] = path
        tree["paths"]["output_dir"] = folder
        tree["audit"]["also"] = []
        is_first = path == paths[0]
        audits[name] = replace(
            config,
            model=config.model if is_first else configure_model_like(config.model, path),
            paths=replace(config.paths, output_dir=folder),
            audit=replace(config.audit, also=[]),
            tree=tree,
        )
    return audits


def _name_models(paths: list[str]) -> list[str]:
    """Name models by the last parts of their paths: as many as tell them apart."""
    parts = [[part for part in Path(path).parts if part != run_dir.FINAL] for path in paths]
    for num_parts in range(1, max(map(len, parts)) + 1):
        names = ["-".join(own[-num_parts:]).strip("/") for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}-{own[-1]}" for number, own in enumerate(parts, start=1)]


def tell(folder: Path, results: Mapping[str, AuditResult]) -> None:
    """Write and print what each attack brought out of each model."""
    _write_table(folder, results)
    _print_table(results)


def _write_table(folder: Path, results: Mapping[str, AuditResult]) -> None:
    models = {}
    for name, result in results.items():
        verdict = result.verdict
        models[name] = {
            "attacks": {label: attack.rate for label, attack in verdict.attacks.items()},
            "worst": verdict.worst,
            "worst_wrong": verdict.worst_wrong,
            "worst_retain": verdict.worst_retain,
            "worst_original": verdict.worst_original,
            "worst_unseen": verdict.worst_unseen,
            "leaks": verdict.leaks,
            "sentence": verdict.sentence,
        }
    atomic.write_json(folder / TABLE, {"models": models})


def _print_table(results: Mapping[str, AuditResult]) -> None:
    """Print the shares, with the retain model and the original beside the audited models."""
    verdicts = {name: result.verdict for name, result in results.items()}
    found: dict[str, dict[str, AttackResult]] = {}
    for name, verdict in verdicts.items():
        for attack, _, result in list_worst_trainings(verdict.attacks):
            found.setdefault(attack, {})[name] = result

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("attack", no_wrap=True)
    for name in (*verdicts, "retain model", "original"):
        table.add_column(name, justify="right", no_wrap=True)
    for attack, by_model in found.items():
        # The models beside are the same for all, and asked the same.
        beside = next(iter(by_model.values()))
        own = [by_model[name].rate if name in by_model else None for name in verdicts]
        table.add_row(attack, *map(format_share, [*own, beside.retain, beside.original]))
    worst: list[float | None] = [verdict.worst for verdict in verdicts.values()]
    first = next(iter(verdicts.values()))
    worst += [first.worst_retain, first.worst_original]
    table.add_row("worst case", *map(format_share, worst))
    print_whole(table)
    for name, verdict in verdicts.items():
        console.say(f"{name}: {verdict.sentence}")
