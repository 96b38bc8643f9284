"""`unteach demo`: the smallest study, from nothing to a report, offline."""

import os
import time

from unteach.config.verb_configs import DemoConfig
from unteach.console import format_duration
from unteach.studies.study_file import read_study
from unteach.verbs import study_runs


def run(config: DemoConfig) -> None:
    """Carry the shipped study out, a run for each processor at a time."""
    started = time.perf_counter()
    words = [f"jobs={os.cpu_count() or 1}", *config.overrides]
    demo = read_study("demo", words, config.config_dirs)
    study_runs.carry_out(demo)
    print(f"took {format_duration(time.perf_counter() - started)}")
    print(f'next: unteach ask model={demo.folder / "full"} "a question"')
