"""`unteach demo`: the smallest study, from nothing to a report, offline."""

import os
import time
from pathlib import Path

from unteach import json_files, run_dir
from unteach.config.verb_configs import DemoConfig
from unteach.console import format_duration
from unteach.studies.plan import AUDIT, PlannedRun
from unteach.studies.study_file import read_study
from unteach.verbs import study_runs

AUDIT_WORDS = ("audit=quick", "audit.only=[rank,clean,prefill]", "audit.max_facts=20")
"""A few of the quick attacks, on a few facts: seconds."""
SHOWN = "NPO"
"""The method whose audit is shown."""


def run(config: DemoConfig) -> None:
    """Carry the shipped study out with audits, a run for each processor at a time."""
    started = time.perf_counter()
    words = [f"jobs={os.cpu_count() or 1}", *AUDIT_WORDS, *config.overrides]
    demo = read_study("demo", words, config.config_dirs)
    study_runs.carry_out(demo)
    audits = [run for run in demo.plan if run.kind == AUDIT and run.name.startswith(SHOWN)]
    if audits and run_dir.is_done(Path(audits[0].folder)):
        print(describe_audit(audits[0]))
    print(f"took {format_duration(time.perf_counter() - started)}")
    print(f'next: unteach ask model={demo.folder / "full"} "a question"')


def describe_audit(run: PlannedRun) -> str:
    """Describe in one line what an audit of the demo brought out."""
    file = Path(run.folder) / run_dir.AUDIT_SUMMARY
    summary = json_files.read_mapping(file, "the summary of an audit")
    attacks = summary["attacks"]
    forgetter = Path(run.folder).parent.name
    return (
        f"audit: of {summary['num_facts']} facts, {len(attacks)} attacks bring "
        f"{summary['worst']:.0%} out of {forgetter} (ranked first {attacks['rank']['rate']:.0%}, "
        f"asked politely {attacks['clean']['rate']:.0%}) and {summary['worst_retain']:.0%} out of "
        "retain, which never saw them; read on: docs/audit.md"
    )
