"""How a study is carried out: the typed sections `local` and `slurm` of a study file, or of the
command line."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

from unteach.config.reader import Reader, join_problems
from unteach.errors import UserError
from unteach.wording import quote_value

Section = TypeVar("Section", "Local", "Slurm")


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
    forget, eval, audit).
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
        for name, minimum in MINIMA.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UserError(f"{name} must be {minimum} or more, got {value}")
        for name, value in self._list_texts().items():
            if any(ord(letter) < 32 for letter in value):
                raise UserError(f"{name}: must be one line, got {quote_value(value)}")
        for name in self.more:
            if not re.fullmatch(r"[\w-]+", str(name)):
                raise UserError(f"more.{name}: cannot be the name of an option of sbatch")
        more_options = self.build_more_options()
        for name in SET_BY_UNTEACH.intersection(more_options):
            raise UserError(f"more.{name}: unteach sets this option itself")
        if self.grace >= 60 * self.minutes:
            raise UserError(
                f"grace={self.grace} seconds are no less than the time, so a run would be stopped "
                f"at once"
            )

    def _list_texts(self) -> dict[str, str]:
        """List all that is written into a line of a script."""
        texts = {name: str(getattr(self, name)) for name in ONE_LINE}
        for name, value in self.more.items():
            texts[f"more.{name}"] = str(value)
        return texts

    def build_more_options(self) -> dict[str, object]:
        """Give the other options by the names that sbatch has for them."""
        options = {}
        for key, value in self.more.items():
            name = str(key).replace("_", "-").lstrip("-")
            options[name] = value
        return options

    @property
    def minutes(self) -> int:
        """The time in whole minutes, rounded up."""
        if isinstance(self.time, int):
            if self.time < 1:
                raise UserError(f"time must be 1 minute or more, got {self.time}")
            return self.time
        match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", self.time.strip())
        if not match:
            raise UserError(f"time={self.time!r}: write minutes, or D-HH:MM:SS as sbatch does")
        days = match[1]
        parts = [int(part) for part in match.groups()[1:] if part is not None]
        # After days, or with three parts, the first part is hours; else it is minutes.
        if days is None and len(parts) < 3:
            parts.insert(0, 0)
        hours, minutes, seconds = [*parts, 0, 0][:3]
        hours += 24 * int(days or 0)
        whole_minutes = 60 * hours + minutes
        if seconds > 0:
            whole_minutes += 1
        return max(1, whole_minutes)

    def for_kind(self, kind: str) -> "Slurm":
        """Give the settings of one kind of run."""
        own_settings = self.kinds.get(kind, {})
        return dataclasses.replace(self, kinds={}, **own_settings)


MINIMA = {
    "gpus": 0,
    "grace": 1,
    "requeues": 0,
    "cpus": 1,
    "throttle": 1,
    "max_array": 1,
}
ONE_LINE = (
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
SET_BY_UNTEACH = {
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
KINDS = ("base", "full", "retain", "forget", "eval", "audit")


def read_local(value: object) -> Local:
    """Read the section `local`."""
    return _read_section(Local, value, "local")


def read_slurm(value: object) -> Slurm:
    """Read the section `slurm`, each kind's own part checked like the whole."""
    slurm = _read_section(Slurm, value, "slurm")
    for kind, own_settings in slurm.kinds.items():
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise UserError(f"slurm.kinds.{kind}: no such kind of run; it may be {known}")
        _read_section(Slurm, own_settings, f"slurm.kinds.{kind}", drop=("kinds",))
    return slurm


def _read_section(
    section_class: type[Section],
    value: object,
    where: str,
    drop: tuple[str, ...] = (),
) -> Section:
    """Read a section; `drop` are fields that it may not have."""
    if value is None:
        value = {}
    reader = Reader()
    section: Section | None = reader.record(
        section_class,
        value,
        where,
        drop,
    )
    if section is None:
        raise UserError(join_problems(reader.problems))
    return section
