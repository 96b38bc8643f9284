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
from typing import Any

from unteach.errors import EXIT_PREEMPTED

POLL = 0.2
FOREIGN = ("PMI_", "PMIX_", "OMPI_", "SUBMITIT_")
"""Beginnings of variables by which srun's own task would be taken for a rank of the run."""


class Unfinished(RuntimeError):
    """The run's command ended without finishing the run; the scheduler counts the job as failed."""


class Job:
    """Carries out a run's command in a process of its own."""

    def __init__(self, command: list[str]):
        self.command = command
        self.pid: int | None = None
        self.terminated = False

    def __call__(self) -> str:
        signal.signal(signal.SIGTERM, self._on_sigterm)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)
        }
        # Slurm sends it to every process of the job
        ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        child = subprocess.Popen(self.command, env=environment)
        signal.signal(signal.SIGUSR2, ignored)
        self.pid = child.pid
        code = self._wait()
        if code == 0:
            return "done"
        if code == EXIT_PREEMPTED and self.terminated and _state() == "RUNNING":
            subprocess.check_call(["scontrol", "requeue", job_id()])
            time.sleep(3600)  # until Slurm ends this job, to start it again
        raise Unfinished(f"{shlex.join(self.command)} ended with code {code}")

    def checkpoint(self) -> Any:
        """Has the run save itself; what is to be queued again, or None where it ended otherwise."""
        import submitit

        self._ask()
        code = self._wait()
        if code not in (0, EXIT_PREEMPTED):
            return None
        return submitit.helpers.DelayedSubmission(Job(self.command))

    def _on_sigterm(self, *_: object) -> None:
        self.terminated = True
        self._ask()

    def _ask(self) -> None:
        if self.pid is not None and self._ended() is None:
            os.kill(self.pid, signal.SIGTERM)

    def _wait(self) -> int:
        while (code := self._ended()) is None:
            time.sleep(POLL)
        return code

    def _ended(self) -> int | None:
        """The command's exit code, negative for a signal; None while it runs. Leaves it to be asked
        again: a signal's handler asks while the call that it interrupted is asking."""
        if self.pid is None:
            return 0
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def job_id() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _state() -> str:
    """What Slurm says of this job: a cancelled one is not RUNNING any more when its SIGTERM
    arrives."""
    asked = subprocess.run(
        ["scontrol", "show", "job", "-o", job_id()], capture_output=True, text=True, check=False
    )
    found = re.search(r"JobState=(\w+)", asked.stdout)
    return found[1] if found else ""
