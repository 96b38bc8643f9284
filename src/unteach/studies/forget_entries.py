"""The entries of a study's `forget`: their names, and which other forget runs they wait for.

An entry starts from another with `from: NAME`. Any value of it may be another's folder:
`trainer.method_args.finetuned: {run: NAME}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from unteach.errors import UserError, describe_unknown
from unteach.studies.run_overrides import Settings
from unteach.studies.search_space import expand_entry

START, RUN = "from", "run"


@dataclass(frozen=True)
class ForgetEntry:
    """One forget run: its name, its settings, and what its own grid adds to its name."""

    name: str
    settings: Settings
    label: str


def list_entries(study: Settings) -> list[ForgetEntry]:
    """List every forget run of a study, with each entry's grid and search expanded."""
    entries = []
    for index, settings in enumerate(study.get("forget") or []):
        # A run without a name is called by its method, whether one is named or several vary.
        named_by = "" if settings.get("name") else "trainer"
        for expanded, label in expand_entry(settings, f"forget[{index}]", named_by):
            name = str(expanded.get("name") or expanded.get("trainer")) + label
            entries.append(ForgetEntry(name, expanded, label))
    return entries


def name_entries(study: Settings) -> dict[str, ForgetEntry]:
    """List every forget run of a study by its name; two of one name are refused."""
    entries: dict[str, ForgetEntry] = {}
    for entry in list_entries(study):
        if entry.name in entries:
            raise UserError(
                f"study {study['name']}: two different runs are called {entry.name}; give one a "
                "`name`"
            )
        entries[entry.name] = entry
    return entries


def list_parents(entry: ForgetEntry) -> dict[str, str]:
    """List the forget runs that an entry starts from or names, by the key that says so."""
    parents = {}
    for key, value in entry.settings.items():
        if key == START and value is not None:
            parents[key] = str(value)
        elif isinstance(value, dict) and value.keys() == {RUN}:
            parents[key] = str(value[RUN])
    return parents


def refuse_bad_parent(
    name: str,
    key: str,
    parent: str,
    entries: Mapping[str, ForgetEntry],
    waiting: tuple[str, ...],
) -> None:
    """Refuse a forget run that waits for no forget run, or for one that waits for it."""
    if parent not in entries:
        raise UserError(
            f"forget run {name}: {key}={parent}: {describe_unknown('forget run', parent, entries)}"
        )
    if parent in (*waiting, name):
        circle = " from ".join([*waiting, name, parent])
        raise UserError(f"these forget runs start from each other, so none could start: {circle}")
