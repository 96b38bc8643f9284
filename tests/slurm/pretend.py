"""A run that trains nothing: `pretend.py NAME FOLDER` counts steps in files, as <study>/behave.json
says of NAME.

`ok` ends well; `fail` does not; `slow` makes 40 steps of a quarter of a second, and where it is
asked to stop it saves and ends with 75. Started again it goes on from the last step.
"""

import json
import signal
import sys
import time
from pathlib import Path

from unteach import atomic, run_dir
from unteach.errors import Preempted, UserError
from unteach.studies import states
from unteach.studies.plan import PlannedRun

STEPS = 40


def note(folder: Path, what: str) -> None:
    with (folder / f"{what}.txt").open("a") as file:
        file.write(f"{time.time()}\n")


def carry_out(name: str, folder: Path) -> None:
    behaviour = json.loads((folder.parent / "behave.json").read_text()).get(name, "ok")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_dir.CONFIG).touch()
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: asked.append(number))
    note(folder, "starts")
    if behaviour == "fail":
        raise UserError("told to fail")
    steps = folder / "steps.txt"
    made = len(steps.read_text().split()) if steps.exists() else 0
    for _ in range(made, STEPS if behaviour == "slow" else 1):
        if asked:
            raise Preempted("asked to stop")
        note(folder, "steps")
        time.sleep(0.25)
    note(folder, "ends")
    atomic.write_json(folder / run_dir.DONE, {})


if __name__ == "__main__":
    run = PlannedRun(sys.argv[1], "x", "train", (f"paths.output_dir={sys.argv[2]}",))
    try:
        with states.claim(run):
            carry_out(run.name, Path(sys.argv[2]))
    except (UserError, Preempted) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
