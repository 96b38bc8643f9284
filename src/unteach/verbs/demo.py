"""`unteach demo [seed=N]`: the smallest study, from nothing to a report, offline.

Makes the authors world, teaches a tiny Llama all of it (`full`) and all but the forget authors (`retain`, the gold
standard), unlearns the full model with GradAscent, GradDiff and NPO, and evaluates each with the TOFU suite.
"""

import os
import time
from collections.abc import Iterable

from unteach.launch.plan import expand
from unteach.verbs import study


def command(words: list[str], config_dirs: Iterable[str] = ()) -> None:
    started = time.perf_counter()
    read, extra = study.vary(study.read("demo"), words)
    study.carry_out(read["name"], expand(read, extra=extra), tuple(config_dirs), jobs=os.cpu_count() or 1)
    print(f"took {time.perf_counter() - started:.0f} s")
