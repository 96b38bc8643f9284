"""A plan: the runs of a study, and the order between them."""

from dataclasses import dataclass, field
from pathlib import Path

from unteach.config.overrides import unquote
from unteach.errors import UserError, describe_unknown

AUDIT = "audit"
"""The kind of run that audits another one, and lies in its folder."""


@dataclass(frozen=True)
class PlannedRun:
    """Say what one run is composed from.

    Attributes:
        name: of the run, different from all others of its study.
        kind: base, full, retain, forget, eval or audit.
        config_name: the primary configuration.
        overrides: key=value, one of which names the run's folder.
        after: the names of the runs that it waits for.
    """

    name: str
    kind: str
    config_name: str
    overrides: tuple[str, ...]
    after: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> str:
        """The run's folder, which one of its overrides names."""
        prefix = "paths.output_dir="
        values = [word for word in self.overrides if word.startswith(prefix)]
        return unquote(values[0].removeprefix(prefix))

    @property
    def study_dir(self) -> Path:
        """The folder of its study."""
        folder = Path(self.folder)
        return folder.parents[1] if self.kind == AUDIT else folder.parent


def sort_by_parents(study: str, runs: list[PlannedRun]) -> list[PlannedRun]:
    """Give each run once, in the given order with parents moved before their children.

    Args:
        study: its name, for messages.
        runs: some of them, alike, may be there several times.

    Raises:
        UserError: two different runs have one name or folder, a parent is no run, or runs wait for
            each other in a circle.
    """
    by_name = _index_by_name(study, runs)
    in_order: dict[str, PlannedRun] = {}

    def add(run: PlannedRun, waiting: tuple[str, ...]) -> None:
        """Add a run after its parents; `waiting` are the runs that wait for it, outermost first."""
        if run.name in waiting:
            start = waiting.index(run.name)
            circle = " after ".join([*waiting[start:], run.name])
            raise UserError(
                f"study {study}: these runs wait for each other, so none could start: {circle}"
            )
        for parent in run.after:
            if parent not in by_name:
                problem = describe_unknown("run", parent, by_name)
                raise UserError(f"study {study}: {run.name} waits for {problem}")
            if parent not in in_order:
                add(by_name[parent], (*waiting, run.name))
        in_order[run.name] = run

    for run in by_name.values():
        if run.name not in in_order:
            add(run, ())
    return list(in_order.values())


def _index_by_name(study: str, runs: list[PlannedRun]) -> dict[str, PlannedRun]:
    """Index runs by name; refuse different ones of one name or folder."""
    by_name: dict[str, PlannedRun] = {}
    name_by_folder: dict[str, str] = {}
    for run in runs:
        if by_name.setdefault(run.name, run) != run:
            raise UserError(
                f"study {study}: two different runs are called {run.name}; give one a `name`"
            )
        other = name_by_folder.setdefault(run.folder, run.name)
        if other != run.name:
            raise UserError(f"study {study}: {run.name} and {other} share the folder {run.folder}")
    return by_name
