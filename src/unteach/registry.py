"""Names to classes: methods, metrics, datasets, collators, models, backends register here, ours and
other people's.

A registry imports the package that holds its built-in members the first time it is asked for a
name. Those modules import torch only inside functions, so a listing or a configuration check costs
no model library. An installed package adds members through entry points in the group
`unteach.plugins`, one a member, under the member's own name; it is imported when one of its names
is asked for, and so a broken one disturbs nobody else.
"""

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from unteach.errors import UserError, unknown

ENTRY_POINTS = "unteach.plugins"


@dataclass(frozen=True)
class Entry:
    """One registered class: its name, the class, the facts its decorator gave (paper, cost…) and
    where it is from."""

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
    """The members of one kind. Used as a decorator: `@method("NPO", paper="…")`, or bare:
    `@dataset`."""

    def __init__(self, kind: str, home: str):
        self.kind, self.home = kind, home
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._standing_in: dict[str, Entry] = {}
        self._home_loaded = False

    def __call__(
        self, target: Any = None, /, *, aliases: tuple[str, ...] = (), **facts: Any
    ) -> Any:
        if isinstance(target, type):
            return self._add(target.__name__, target, (), {})

        def register(cls: type) -> type:
            return self._add(target or cls.__name__, cls, aliases, facts)

        return register

    def _add(self, name: str, cls: type, aliases: tuple[str, ...], facts: dict[str, Any]) -> type:
        if not cls.__module__.startswith("unteach."):
            self._load_home()  # what is ours has its names first
        for new in (name, *aliases):
            for taken in (*self._entries, *self._aliases):
                owner = self._entries[self._aliases.get(taken, taken)].origin
                # a file executed once more, mended
                again = owner == f"{cls.__module__}.{cls.__qualname__}"
                if taken.lower() == new.lower() and not again:
                    raise UserError(
                        f"the {self.kind} name {new!r} is taken by {owner}; choose another name"
                    )
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
        """What is registered under `name`, or a UserError that offers the nearest name."""
        self._load_home()
        if self._find(name) is None and name in installed():
            _import_installed(name)
        found = self._find(name)
        if found is None:
            broken = self._load_all_installed()
            found = self._find(name)
        if found is None:
            known = (*self._standing_in, *self._entries, *self._aliases)
            raise UserError("\n  ".join([unknown(self.kind, name, known), *broken]))
        return found

    def _find(self, name: str) -> Entry | None:
        return self._standing_in.get(name) or self._entries.get(self._aliases.get(name, name))

    def _load_all_installed(self) -> list[str]:
        """Imports every installed plugin; gives a sentence for each that is broken."""
        broken = []
        for name in installed():
            try:
                _import_installed(name)
            except UserError as error:
                broken.append(str(error))
        return broken

    def get(self, name: str) -> type:
        """The class registered under `name`, or a UserError that offers the nearest name."""
        return self.entry(name).target

    def __contains__(self, name: str) -> bool:
        self._load_home()
        return self._find(name) is not None or name in installed()

    def entries(self) -> list[Entry]:
        """Every member, those of installed plugins too; a broken plugin is left out, see
        `broken`."""
        self._load_home()
        self._load_all_installed()
        return sorted(self._entries.values(), key=lambda entry: entry.name.lower())

    def broken(self) -> list[str]:
        """A sentence for each installed plugin that cannot be imported."""
        return self._load_all_installed()

    @contextlib.contextmanager
    def standing_in(self, classes: dict[str, type]) -> Iterator[None]:
        """Within it, these classes answer to their names, whatever is registered under them."""
        before = self._standing_in
        self._standing_in = before | {name: Entry(name, cls) for name, cls in classes.items()}
        try:
            yield
        finally:
            self._standing_in = before


@functools.cache
def installed() -> dict[str, metadata.EntryPoint]:
    """The entry points of installed plugins by name."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def _import_installed(name: str) -> None:
    point = installed()[name]
    try:
        point.load()
    except Exception as error:
        package = point.dist.name if point.dist else point.module
        raise UserError(
            f"the plugin {name!r} of the package {package} ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}; mend or uninstall it"
        ) from error


def is_trainer(cls: type) -> bool:
    """Whether a class is a subclass of transformers.Trainer, told without importing
    transformers."""
    return any(
        base.__name__ == "Trainer" and base.__module__.startswith("transformers.")
        for base in cls.__mro__
    )


method = Registry("method", "unteach.methods")
metric = Registry("metric", "unteach.evals.metrics")
dataset = Registry("dataset", "unteach.data")
collator = Registry("collator", "unteach.data.collators")
model = Registry("model", "unteach.models.model_handlers")
backend = Registry("backend", "unteach.inference.backends")
