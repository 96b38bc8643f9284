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
from unteach.studies.job_arrays import JobArray, group_into_arrays
from unteach.studies.plan import PlannedRun
from unteach.studies.settings import Slurm
from unteach.studies.study_file import Study

MAX_ARRAY = 1000
"""Tasks of an array where `slurm.max_array` does not say: Slurm's own default allows 1001."""
BODY = """\
{header}
{setup}cd {working_dir}
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


def write_scripts(study: Study, folder: Path) -> Path:
    """Write the scripts of a study into a folder, each study's into one of its own; give that."""
    script_dir = folder / study.name
    runs_by_kind = _group_by_kind(study.plan)
    for kind, runs in runs_by_kind.items():
        atomic.write_text(script_dir / f"{kind}.sh", build_script(study, kind, runs))
    queue_script = build_queue_script(study, runs_by_kind, script_dir)
    atomic.write_text(script_dir / "queue_all.sh", queue_script)
    # sbatch does not make the folder of its output
    output_dir = study.folder / "slurm"
    output_dir.mkdir(parents=True, exist_ok=True)
    return script_dir


def _group_by_kind(plan: list[PlannedRun]) -> dict[str, list[PlannedRun]]:
    groups: dict[str, list[PlannedRun]] = {}
    for run in plan:
        groups.setdefault(run.kind, []).append(run)
    return groups


def build_script(
    study: Study,
    kind: str,
    runs: list[PlannedRun],
) -> str:
    """Build the array script of one kind of run."""
    settings = study.slurm.for_kind(kind)
    num_tasks = min(len(runs), settings.max_array or MAX_ARRAY)
    run_names = [run.name for run in runs]
    python = shlex.split(settings.python) if settings.python else [sys.executable]
    header = build_header(study, kind, settings, num_tasks)
    return BODY.format(
        header="\n".join(header),
        setup="".join(f"{line}\n" for line in settings.setup),
        working_dir=shlex.quote(str(Path.cwd())),
        names=shlex.join(run_names),
        python=shlex.join(python),
        folder=shlex.quote(str(study.folder)),
        preempted=EXIT_PREEMPTED,
    )


def build_header(
    study: Study,
    kind: str,
    settings: Slurm,
    num_tasks: int,
) -> list[str]:
    """Build the lines that sbatch reads."""
    options: dict[str, object] = {
        "job-name": f"{study.name}_{kind}",
        "output": f"{Path.cwd() / study.folder}/slurm/{kind}-%A_%a.out",
        "open-mode": "append",
        "array": f"0-{num_tasks - 1}{_spell_throttle(settings)}",
        "time": settings.minutes,
        "signal": f"B:USR1@{settings.grace}",
        **build_options(settings),
    }
    lines = ["#!/bin/bash"]
    for name, value in options.items():
        flag = f"--{name}" if value is True else f"--{name}={quote_option(value)}"
        lines.append(f"#SBATCH {flag}")
    lines.append("#SBATCH --requeue")
    return lines


def quote_option(value: object) -> str:
    """Write a value as sbatch reads it from a script's line: in quotes, unless nothing in it needs
    them."""
    text = str(value)
    if re.fullmatch(r"[\w.,:;=@%+/~\[\]-]*", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def build_options(settings: Slurm) -> dict[str, object]:
    """Give the settings that are sbatch options under their own or another name; only those that
    are set."""
    options: dict[str, object] = {}
    for name in ("partition", "account", "qos", "mem", "constraint", "exclude", "nodelist"):
        value = getattr(settings, name)
        if value is not None:
            options[name] = value
    if settings.cpus:
        options["cpus-per-task"] = settings.cpus
    if settings.gpus:
        options["gpus-per-node"] = settings.gpus
    return {**options, **settings.build_more_options()}


def _spell_throttle(settings: Slurm) -> str:
    return f"%{settings.throttle}" if settings.throttle else ""


def build_queue_script(
    study: Study,
    runs_by_kind: dict[str, list[PlannedRun]],
    script_dir: Path,
) -> str:
    """Build the script that submits all others, each group of runs after its own parents."""
    index_in_script = {}
    for runs in runs_by_kind.values():
        for run_index, run in enumerate(runs):
            index_in_script[run.name] = run_index
    lines = [
        "#!/bin/bash",
        f"# Submits the study {study.name}; a run waits for its parents alone.",
        "set -e",
        f"cd {shlex.quote(str(script_dir.resolve()))}",
    ]
    job_by_run: dict[str, str] = {}
    arrays = group_into_arrays(study.plan, study.slurm.max_array or MAX_ARRAY)
    for number, array in enumerate(arrays):
        # An array's task ids are small; the offset tells the script where among its runs it is.
        offset = index_in_script[array.names[0]] // MAX_ARRAY * MAX_ARRAY
        tasks = [index_in_script[name] - offset for name in array.names]
        options = _build_array_options(study, array, offset, tasks, job_by_run)
        lines.append(f"j{number}=$(sbatch {options} {array.kind}.sh)")
        for name, task in zip(array.names, tasks, strict=True):
            job_by_run[name] = f"${{j{number}}}_{task}"
    message = f"submitted {len(index_in_script)} runs; unteach study status {study.name}"
    lines += [f"echo {shlex.quote(message)}", ""]
    return "\n".join(lines)


def _build_array_options(
    study: Study,
    array: JobArray,
    offset: int,
    tasks: list[int],
    job_by_run: dict[str, str],
) -> str:
    """Build the options by which one array is submitted.

    Args:
        study: whose settings say how many tasks run at a time.
        array: the runs, and what they wait for.
        offset: where the tasks' numbers start in the script's list of runs.
        tasks: the tasks' numbers.
        job_by_run: of the runs submitted before, the shell's word for the job.
    """
    throttle = _spell_throttle(study.slurm.for_kind(array.kind))
    task_list = ",".join(map(str, tasks))
    options = f"--parsable --export=ALL,OFFSET={offset} --array={task_list}{throttle}"
    if array.after:
        parent_jobs = [job_by_run[parent] for parent in array.after]
        dependency = ":".join(["afterok", *parent_jobs])
        options += f" --dependency={dependency} --kill-on-invalid-dep=yes"
    return options
