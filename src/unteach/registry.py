"""Names to classes: methods, metrics, datasets, collators and models register here, ours and other people's alike.

A registry imports the package that holds its built-in members the first time it is asked for a name. Those modules
import torch only inside functions, so a listing or a configuration check costs no model library.
"""

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any

from unteach.errors import UserError, unknown


@dataclass(frozen=True)
class Entry:
    """One registered class: its name, the class, the facts its decorator gave (paper, cost…) and where it is from."""

    name: str
    target: type
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The first line of the class's docstring."""
        return (self.target.__doc__ or "").strip().split("\n")[0]

    @property
    def origin(self) -> str:
        return f"{self.target.__module__}.{self.target.__qualname__}"


class Registry:
    """The members of one kind. Used as a decorator: `@method("NPO", paper="…")`, or bare: `@dataset`."""

    def __init__(self, kind: str, home: str):
        self.kind, self.home = kind, home
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._home_loaded = False

    def __call__(self, target: Any = None, /, *, aliases: tuple[str, ...] = (), **facts: Any) -> Any:
        if isinstance(target, type):
            return self._add(target.__name__, target, (), {})

        def register(cls: type) -> type:
            return self._add(target or cls.__name__, cls, aliases, facts)

        return register

    def _add(self, name: str, cls: type, aliases: tuple[str, ...], facts: dict[str, Any]) -> type:
        for new in (name, *aliases):
            for taken in (*self._entries, *self._aliases):
                if taken.lower() == new.lower():
                    owner = self._entries[self._aliases.get(taken, taken)].origin
                    raise UserError(f"the {self.kind} name {new!r} is taken by {owner}; choose another name")
        self._entries[name] = Entry(name, cls, facts)
        self._aliases.update(dict.fromkeys(aliases, name))
        return cls

    def _load_home(self) -> None:
        if self._home_loaded:
            return
        self._home_loaded = True
        home = importlib.import_module(self.home)
        for module in pkgutil.walk_packages(getattr(home, "__path__", ()), f"{self.home}."):
            importlib.import_module(module.name)

    def entry(self, name: str) -> Entry:
        self._load_home()
        found = self._entries.get(self._aliases.get(name, name))
        if found is None:
            raise UserError(unknown(self.kind, name, (*self._entries, *self._aliases)))
        return found

    def get(self, name: str) -> type:
        """The class registered under `name`, or a UserError that offers the nearest name."""
        return self.entry(name).target

    def __contains__(self, name: str) -> bool:
        self._load_home()
        return self._aliases.get(name, name) in self._entries

    def entries(self) -> list[Entry]:
        self._load_home()
        return sorted(self._entries.values(), key=lambda entry: entry.name.lower())


method = Registry("method", "unteach.methods")
metric = Registry("metric", "unteach.evals.metrics")
dataset = Registry("dataset", "unteach.data.datasets")
collator = Registry("collator", "unteach.data.collators")
model = Registry("model", "unteach.models.handlers")
