"""What a Slurm job does: one run, as a command of its own, asked to save itself when the job must
end.

Slurm's signal before the end of the time (and `scancel --signal=USR2`) reaches submitit, which
calls `checkpoint` and queues the job again. After SIGTERM without that warning (a preemption) the
job queues itself again, unless it was cancelled.
"""

import os
import re
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from unteach.errors import EXIT_PREEMPTED

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

POLL = 0.2
"""Seconds between two looks at the run's command."""
FOREIGN = ("PMI_", "PMIX_", "OMPI_", "SUBMITIT_")
"""Beginnings of variables by which srun's own task would be taken for a rank of the run."""


class Unfinished(RuntimeError):
    """The run's command ended without finishing the run; the scheduler counts the job as failed."""


class Job:
    """Carry out a run's command in a process of its own; submitit calls it in the job."""

    def __init__(self, command: list[str]):
        self.command = command
        self.pid: int | None = None
        self.is_terminated = False

    def __call__(self) -> str:
        signal.signal(signal.SIGTERM, self._on_sigterm)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)
        }
        # Slurm sends the signal before the end to every process of the job; the child ignores it,
        # as this process asks it to save itself.
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        child = subprocess.Popen(self.command, env=environment)
        signal.signal(signal.SIGUSR2, handler)
        self.pid = child.pid
        code = self._wait()
        if code == 0:
            return "done"
        # A preemption sends SIGTERM without that signal, so submitit queues nothing.
        if code == EXIT_PREEMPTED and self.is_terminated and _read_job_state() == "RUNNING":
            subprocess.check_call(["scontrol", "requeue", _get_job_id()])
            time.sleep(3600)  # until Slurm ends this job, to start it again
        raise Unfinished(f"{shlex.join(self.command)} ended with code {code}")

    def checkpoint(self) -> "DelayedSubmission | None":
        """Have the run save itself; give what is to be queued again, or None where it ended
        otherwise."""
        import submitit

        self._terminate()
        code = self._wait()
        if code not in (0, EXIT_PREEMPTED):
            return None
        return submitit.helpers.DelayedSubmission(Job(self.command))

    def _on_sigterm(self, *_: object) -> None:
        self.is_terminated = True
        self._terminate()

    def _terminate(self) -> None:
        """Ask the command to save itself and end, if it runs."""
        if self.pid is not None and self._read_exit_code() is None:
            os.kill(self.pid, signal.SIGTERM)

    def _wait(self) -> int:
        code = self._read_exit_code()
        while code is None:
            time.sleep(POLL)
            code = self._read_exit_code()
        return code

    def _read_exit_code(self) -> int | None:
        """Read the command's exit code, negative for a signal; None while it runs.

        The child is left to be waited for once more: the handler of a signal reads the code while
        the call that it interrupted is reading it.
        """
        if self.pid is None:
            return 0
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _get_job_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ["SLURM_JOB_ID"]


def _read_job_state() -> str:
    """Read what Slurm says of this job: a cancelled one is not RUNNING any more when its SIGTERM
    arrives."""
    done = subprocess.run(
        ["scontrol", "show", "job", "-o", _get_job_id()],
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"JobState=(\w+)", done.stdout)
    return match[1] if match else ""
