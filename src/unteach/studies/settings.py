"""How a study is carried out: the typed sections `local` and `slurm` of a study file, or of the
command line."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from unteach.config.reader import Reader, join_problems
from unteach.errors import UserError
from unteach.wording import shown


@dataclass
class Local:
    """On this machine. jobs: runs at a time; null: one, or as many as there are GPUs for. gpus:
    GPUs that each run gets for itself; null: every run sees all."""

    jobs: int | None = None
    gpus: int | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"jobs must be 1 or more, got {self.jobs}")
        if self.gpus is not None and self.gpus < 0:
            raise UserError(f"gpus must be 0 or more, got {self.gpus}")


@dataclass
class Slurm:
    """A run's Slurm job, by sbatch's own names.

    time: minutes, or sbatch's D-HH:MM:SS. gpus, cpus, mem: of one run. setup: shell lines before
    the run (modules, an environment). throttle: runs of a kind at a time. max_array: tasks of an
    array; null: what the cluster allows.
    grace: seconds between the signal to stop and the end of the time, for the checkpoint. requeues:
    how often a run may reach its time and go on. python: what starts Python; null: this one. more:
    other sbatch options, by name. kinds: any of these for one kind of run (base, full, retain,
    forget, eval).
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int | str = 240
    gpus: int = 0
    cpus: int | None = None
    mem: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    setup: list[str] = field(default_factory=list)
    throttle: int | None = None
    max_array: int | None = None
    grace: int = 120
    requeues: int = 20
    python: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (
            ("gpus", 0),
            ("grace", 1),
            ("requeues", 0),
            ("cpus", 1),
            ("throttle", 1),
            ("max_array", 1),
        ):
            if (value := getattr(self, name)) is not None and value < least:
                raise UserError(f"{name} must be {least} or more, got {value}")
        for name, value in self._texts():
            if any(ord(letter) < 32 for letter in value):
                raise UserError(f"{name}: must be one line, got {shown(value)}")
        for name in self.more:
            if not re.fullmatch(r"[\w-]+", str(name)):
                raise UserError(f"more.{name}: cannot be the name of an option of sbatch")
        for name in OURS & {str(key).replace("_", "-").lstrip("-") for key in self.more}:
            raise UserError(f"more.{name}: unteach sets this option itself")
        if self.grace >= 60 * self.minutes:
            raise UserError(
                f"grace={self.grace} seconds are no less than the time, so a run would be stopped "
                f"at once"
            )

    def _texts(self) -> list[tuple[str, str]]:
        """All that is written into a line of a script."""
        named = (
            "partition",
            "account",
            "qos",
            "time",
            "mem",
            "constraint",
            "exclude",
            "nodelist",
            "python",
        )
        texts = [(name, str(getattr(self, name))) for name in named]
        return [*texts, *((f"more.{name}", str(value)) for name, value in self.more.items())]

    @property
    def minutes(self) -> int:
        """The time in whole minutes, rounded up."""
        if isinstance(self.time, int):
            if self.time < 1:
                raise UserError(f"time must be 1 minute or more, got {self.time}")
            return self.time
        found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", self.time.strip())
        if not found:
            raise UserError(f"time={self.time!r}: write minutes, or D-HH:MM:SS as sbatch does")
        days, *parts = found.groups()
        given = [int(part) for part in parts if part is not None]
        if days is not None or len(given) == 3:
            hours, minutes, seconds = [*given, 0, 0][:3]
        else:
            hours, (minutes, seconds) = 0, [*given, 0][:2]
        return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0))

    def of(self, kind: str) -> "Slurm":
        """The settings of one kind of run."""
        return dataclasses.replace(self, kinds={}, **self.kinds.get(kind, {}))


OURS = {
    "array",
    "dependency",
    "job-name",
    "kill-on-invalid-dep",
    "output",
    "error",
    "open-mode",
    "signal",
    "requeue",
}


def read_local(value: object) -> Local:
    return _read(Local, value, "local")


def read_slurm(value: object) -> Slurm:
    """The section `slurm`, each kind's own part checked like the whole."""
    found = _read(Slurm, value, "slurm")
    for kind, own in found.kinds.items():
        if kind not in KINDS:
            raise UserError(
                f"slurm.kinds.{kind}: no such kind of run; it may be {', '.join(KINDS)}"
            )
        _read(Slurm, own, f"slurm.kinds.{kind}", drop=("kinds",))
    return found


KINDS = ("base", "full", "retain", "forget", "eval")


def _read(cls: type, value: object, where: str, drop: tuple[str, ...] = ()) -> Any:
    reader = Reader()
    found = reader.record(cls, {} if value is None else value, where, drop)
    if found is None:
        raise UserError(join_problems(reader.problems))
    return found
