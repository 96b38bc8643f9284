"""Carries a plan out in this process, one run after the other: one import of the libraries for all of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from unteach.errors import Diverged
from unteach.launch.plan import PlannedRun


@dataclass
class Outcome:
    """How a run ended: `done`, `diverged`, or `held` because a run it waits for did."""

    run: PlannedRun
    state: str
    seconds: float = 0.0
    reason: str = ""


def execute(plan: list[PlannedRun], carry_out: Callable[[PlannedRun], object]) -> list[Outcome]:
    """Runs a plan in order; a run that diverged holds its children, and the others go on."""
    outcomes: dict[str, Outcome] = {}
    for number, run in enumerate(plan, 1):
        lost = [parent for parent in run.after if outcomes[parent].state != "done"]
        if lost:
            outcomes[run.name] = Outcome(run, "held", reason=f"waits for {', '.join(lost)}")
            continue
        print(f"[{number}/{len(plan)}] {run.name}", flush=True)
        started = time.perf_counter()
        try:
            carry_out(run)
            outcomes[run.name] = Outcome(run, "done")
        except Diverged as error:
            print(f"  diverged: {error}")
            outcomes[run.name] = Outcome(run, "diverged", reason=str(error))
        outcomes[run.name].seconds = time.perf_counter() - started
    return list(outcomes.values())
