"""`unteach demo`: the smallest study, from nothing to a report, offline."""

import os
import time
from collections.abc import Iterable

from unteach.console import format_duration
from unteach.studies.study_file import study_of
from unteach.verbs import study_runs


def command(words: list[str], config_dirs: Iterable[str] = ()) -> None:
    started = time.perf_counter()
    demo = study_of("demo", [f"jobs={os.cpu_count() or 1}", *words], tuple(config_dirs))
    study_runs.carry_out(demo)
    print(f"took {format_duration(time.perf_counter() - started)}")
    print(f'next: unteach ask model={demo.folder / "full"} "a question"')
