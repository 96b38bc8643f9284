"""Registries from names to classes: methods, rules of surgery, perturbations, metrics, datasets,
collators, models, backends, decodings and attacks, ours and other people's.

A registry imports the package of its built-in members the first time that a name is looked up.
Those modules import torch lazily, so a listing or a configuration check costs no model library. An
installed package adds members through entry points in the group `unteach.plugins`, one for each
member, under the member's own name; it is imported when one of its names is looked up, so that a
broken one disturbs nobody else.
"""

import contextlib
import functools
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from unteach.errors import UserError, describe_unknown

ENTRY_POINTS = "unteach.plugins"


@dataclass(frozen=True)
class Entry:
    """One registered class.

    Attributes:
        name: under which it is registered.
        target: the class.
        facts: what its decorator said of it (paper, cost…).
    """

    name: str
    target: type
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The first sentence of the class's docstring."""
        return read_summary(self.target)

    @property
    def origin(self) -> str:
        """Where the class is from: its module and name."""
        return f"{self.target.__module__}.{self.target.__qualname__}"


def read_summary(target: type) -> str:
    """Read the first sentence of a class's docstring, which may have several lines."""
    paragraph = (target.__doc__ or "").strip().split("\n\n")[0]
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(paragraph.split()))[0]


class Registry:
    """The members of one kind.

    It is the decorator of its members: `@method("NPO", paper="…")`, or bare: `@dataset`.

    Args:
        kind: what messages call a member.
        home: the package of the built-in members.
    """

    def __init__(self, kind: str, home: str):
        self.kind = kind
        self.home = home
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._overrides: dict[str, Entry] = {}
        self._home_loaded = False

    def __call__(
        self, target: type | str | None = None, /, *, aliases: tuple[str, ...] = (), **facts: object
    ) -> Any:
        # Bare, the decorator is given the class itself.
        if isinstance(target, type):
            return self._add(target.__name__, target, (), {})

        def register(cls: type) -> type:
            return self._add(target or cls.__name__, cls, aliases, facts)

        return register

    def _add(self, name: str, cls: type, aliases: tuple[str, ...], facts: dict[str, Any]) -> type:
        if not cls.__module__.startswith("unteach."):
            self._load_home()  # built-in members have their names first
        for new_name in (name, *aliases):
            self._refuse_taken_name(new_name, cls)
        self._entries[name] = Entry(name, cls, facts)
        for alias in aliases:
            self._aliases[alias] = name
        return cls

    def _refuse_taken_name(self, name: str, cls: type) -> None:
        """Raise UserError where another class has a name, but for its case."""
        for taken_name in (*self._entries, *self._aliases):
            if taken_name.lower() != name.lower():
                continue
            origin = self._entries[self._aliases.get(taken_name, taken_name)].origin
            # The same class comes again where its file was changed and executed once more.
            if origin != f"{cls.__module__}.{cls.__qualname__}":
                raise UserError(
                    f"the {self.kind} name {name!r} is taken by {origin}; choose another name"
                )

    def _load_home(self) -> None:
        if self._home_loaded:
            return
        self._home_loaded = True
        home = importlib.import_module(self.home)
        for module in pkgutil.walk_packages(getattr(home, "__path__", ()), f"{self.home}."):
            importlib.import_module(module.name)

    def find_entry(self, name: str) -> Entry:
        """Find what is registered under a name.

        Raises:
            UserError: where nothing is; it offers the nearest name.
        """
        self._load_home()
        if self._look_up(name) is None and name in list_installed():
            _import_installed(name)
        entry = self._look_up(name)
        if entry is not None:
            return entry

        # A package may register more names than it has entry points.
        broken = self.list_broken()
        entry = self._look_up(name)
        if entry is None:
            known = (*self._overrides, *self._entries, *self._aliases)
            raise UserError("\n  ".join([describe_unknown(self.kind, name, known), *broken]))
        return entry

    def find_entry_of(self, cls: type) -> Entry | None:
        """Find the entry of a class; None where it is registered under no name."""
        entries = (entry for entry in self.entries() if entry.target is cls)
        return next(entries, None)

    def _look_up(self, name: str) -> Entry | None:
        return self._overrides.get(name) or self._entries.get(self._aliases.get(name, name))

    def list_broken(self) -> list[str]:
        """Import every installed plugin, and list a sentence for each that cannot be."""
        broken = []
        for name in list_installed():
            try:
                _import_installed(name)
            except UserError as error:
                broken.append(str(error))
        return broken

    def get(self, name: str) -> type:
        """Get the class that is registered under a name.

        Raises:
            UserError: where none is; it offers the nearest name.
        """
        return self.find_entry(name).target

    def __contains__(self, name: str) -> bool:
        self._load_home()
        return self._look_up(name) is not None or name in list_installed()

    def entries(self) -> list[Entry]:
        """List every member, those of installed plugins too; a broken plugin is left out, see
        `list_broken`."""
        self._load_home()
        self.list_broken()
        return sorted(self._entries.values(), key=lambda entry: entry.name.lower())

    def list_targets(self) -> list[type]:
        """List the classes that are registered by now; nothing is imported for it."""
        return [entry.target for entry in self._entries.values()]

    @contextlib.contextmanager
    def override(self, classes: dict[str, type]) -> Iterator[None]:
        """Let these classes have their names meanwhile, whatever is registered under them."""
        before = self._overrides
        self._overrides = dict(before)
        for name, cls in classes.items():
            self._overrides[name] = Entry(name, cls)
        try:
            yield
        finally:
            self._overrides = before


@functools.cache
def list_installed() -> dict[str, metadata.EntryPoint]:
    """List the entry points of installed plugins by name."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def _import_installed(name: str) -> None:
    point = list_installed()[name]
    try:
        point.load()
    except Exception as error:
        package = point.dist.name if point.dist else point.module
        raise UserError(
            f"the plugin {name!r} of the package {package} ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}; mend or uninstall it"
        ) from error


def is_trainer(cls: type) -> bool:
    """Say whether a class is a subclass of transformers.Trainer, without importing
    transformers."""
    return any(
        base.__name__ == "Trainer" and base.__module__.startswith("transformers.")
        for base in cls.__mro__
    )


method = Registry("method", "unteach.methods")
surgery = Registry("surgery", "unteach.methods.wrap.surgery")
perturbation = Registry("perturbation", "unteach.methods.wrap.perturb")
metric = Registry("metric", "unteach.evals.metrics")
dataset = Registry("dataset", "unteach.data")
collator = Registry("collator", "unteach.data.collators")
model = Registry("model", "unteach.models.model_handlers")
backend = Registry("backend", "unteach.inference.backends")
decoding = Registry("decoding", "unteach.methods.decode")
attack = Registry("attack", "unteach.audits.attacks")
