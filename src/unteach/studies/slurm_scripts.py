"""A study as sbatch scripts, to submit by hand: <folder>/<study>/<kind>.sh, and queue_all.sh for
all of them.

A script's array has a task for each run of its kind. queue_all.sh submits it once for each group of
runs that wait for the same parents, so that a run waits for its own parents and for nothing else.
"""

import re
import shlex
import sys
from pathlib import Path

from unteach import atomic
from unteach.errors import EXIT_PREEMPTED
from unteach.studies.job_arrays import batches
from unteach.studies.plan import PlannedRun
from unteach.studies.settings import Slurm
from unteach.studies.study_file import Study

LARGEST = 1000
"""Tasks of an array where `slurm.max_array` does not say: Slurm's own default allows 1001."""
BODY = """\
{header}
{setup}cd {here}
RUNS=({names})
{python} -m unteach study run {folder}/"${{RUNS[$((${{OFFSET:-0}} + SLURM_ARRAY_TASK_ID))]}}" &
child=$!
asked=
# Its time is nearly over: it saves itself, and is queued again.
trap 'asked=1; kill -TERM $child' USR1
trap 'kill -TERM $child' TERM
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
if [ $code -eq {preempted} ] && [ -n "$asked" ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit $code
"""


def write(study: Study, folder: Path) -> Path:
    """Writes the scripts; gives their folder."""
    home = folder / study.name
    kinds: dict[str, list[PlannedRun]] = {}
    for run in study.plan:
        kinds.setdefault(run.kind, []).append(run)
    for kind, planned in kinds.items():
        atomic.write_text(home / f"{kind}.sh", script(study, kind, planned))
    atomic.write_text(home / "queue_all.sh", queue_all(study, kinds, home))
    # sbatch does not make the folder of its output
    (study.folder / "slurm").mkdir(parents=True, exist_ok=True)
    return home


def script(study: Study, kind: str, planned: list[PlannedRun]) -> str:
    """The array script of one kind of run."""
    own = study.slurm.of(kind)
    return BODY.format(
        header="\n".join(header(study, kind, own, min(len(planned), own.max_array or LARGEST))),
        setup="".join(f"{line}\n" for line in own.setup),
        here=shlex.quote(str(Path.cwd())),
        names=" ".join(shlex.quote(Path(run.folder).name) for run in planned),
        python=shlex.join(shlex.split(own.python) if own.python else [sys.executable]),
        folder=shlex.quote(str(study.folder)),
        preempted=EXIT_PREEMPTED,
    )


def header(study: Study, kind: str, own: Slurm, tasks: int) -> list[str]:
    """The lines that sbatch reads."""
    options = {
        "job-name": f"{study.name}_{kind}",
        "output": f"{Path.cwd() / study.folder}/slurm/{kind}-%A_%a.out",
        "open-mode": "append",
        "array": f"0-{tasks - 1}" + (f"%{own.throttle}" if own.throttle else ""),
        "time": own.minutes,
        "signal": f"B:USR1@{own.grace}",
        **options_of(own),
    }
    flags = [
        f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={quote_option(value)}"
        for key, value in options.items()
    ]
    return ["#!/bin/bash", *flags, "#SBATCH --requeue"]


def quote_option(value: object) -> str:
    """Write a value as sbatch reads it from a script's line: in quotes, unless nothing in it needs
    them."""
    text = str(value)
    if re.fullmatch(r"[\w.,:;=@%+/~\[\]-]*", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def options_of(own: Slurm) -> dict[str, object]:
    """The settings that are sbatch options under their own or another name; only those that are
    set."""
    named = ("partition", "account", "qos", "mem", "constraint", "exclude", "nodelist")
    found: dict[str, object] = {
        name: value for name in named if (value := getattr(own, name)) is not None
    }
    found |= {"cpus-per-task": own.cpus} if own.cpus else {}
    found |= {"gpus-per-node": own.gpus} if own.gpus else {}
    return {
        **found,
        **{str(key).lstrip("-").replace("_", "-"): value for key, value in own.more.items()},
    }


def queue_all(study: Study, kinds: dict[str, list[PlannedRun]], home: Path) -> str:
    """Submits every script, each group of runs after its own parents."""
    place = {run.name: number for planned in kinds.values() for number, run in enumerate(planned)}
    variable: dict[str, str] = {}
    lines = [
        "#!/bin/bash",
        f"# Submits the study {study.name}; a run waits for its parents alone.",
        "set -e",
    ]
    lines += [f"cd {shlex.quote(str(home.resolve()))}"]
    for number, batch in enumerate(batches(study.plan, study.slurm.max_array or LARGEST)):
        own = study.slurm.of(batch.kind)
        offset = place[batch.names[0]] // LARGEST * LARGEST
        tasks = ",".join(str(place[name] - offset) for name in batch.names)
        throttle = f"%{own.throttle}" if own.throttle else ""
        after = ":".join(variable[parent] for parent in batch.after)
        waits = f" --dependency=afterok:{after} --kill-on-invalid-dep=yes" if after else ""
        options = f"--parsable --export=ALL,OFFSET={offset} --array={tasks}{throttle}{waits}"
        lines.append(f"j{number}=$(sbatch {options} {batch.kind}.sh)")
        variable |= {name: f"${{j{number}}}_{place[name] - offset}" for name in batch.names}
    said = shlex.quote(f"submitted {len(place)} runs; unteach study status {study.name}")
    return "\n".join([*lines, f"echo {said}", ""])
