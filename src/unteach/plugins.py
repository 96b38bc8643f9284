"""What others add without forking: one Python file (`plugins=[my_method.py]`), or an installed
package with its YAML.

A class that a file registers with a decorator is known under its name from then on, and no name is
given twice. A plain torch Dataset or transformers.Trainer subclass, as OpenUnlearning's components
are written, needs no decorator: it answers to its class name in the runs that name the file, even
where we have a handler of that name.
"""

import contextlib
import functools
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unteach import registry
from unteach.errors import UserError
from unteach.wording import shown

MODULE = "unteach_plugin_"
"""Beginning of the names of modules that plugin files become."""


def line_of(error: BaseException) -> str | None:
    """The innermost line of a plugin's file that an error passed through, `my.py, line 12`; None
    where none did."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(MODULE):
            found = f"{frame.f_code.co_filename}, line {line}"
    return found


@contextlib.contextmanager
def of_files(paths: Iterable[str]) -> Iterator[None]:
    """Within it, what the plugin files hold can be named in a configuration."""
    datasets: dict[str, type] = {}
    trainers: dict[str, type] = {}
    for path in paths:
        for cls in _plain_classes(load_file(str(Path(path).resolve()))):
            if registry.is_trainer(cls):
                trainers[cls.__name__] = cls
            elif _is_torch_dataset(cls):
                datasets[cls.__name__] = cls
    with registry.dataset.standing_in(datasets), registry.method.standing_in(trainers):
        yield


def named(value: object) -> list[str]:
    """The files that `plugins` names."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(path, str) and path for path in value):
        raise UserError(
            f"plugins: must be a list of Python files, plugins=[my_method.py]; got {shown(value)}"
        )
    return value


@functools.cache
def load_file(path: str) -> Any:
    """The module of one plugin file, executed once."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"plugins: there is no file {path}")
    name = f"{MODULE}{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"plugins: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"plugins: {path}: {error}") from error
    except Exception as error:
        raise UserError(
            f"plugins: {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return module


def _plain_classes(module: Any) -> list[type]:
    """The classes a module defines itself and no decorator registered."""
    registered = {
        entry.target
        for kind in (registry.dataset, registry.method)
        for entry in kind._entries.values()
    }
    mine = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and item.__module__ == module.__name__
    ]
    return [cls for cls in mine if cls not in registered]


def _is_torch_dataset(cls: type) -> bool:
    return any(
        base.__name__ == "Dataset" and base.__module__.startswith("torch.utils.data")
        for base in cls.__mro__
    )


@functools.cache
def config_folders() -> tuple[Path, ...]:
    """The folder `configs/` of each installed plugin package that has one; nothing is imported for
    it."""
    found: dict[Path, None] = {}
    for point in registry.installed().values():
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(point.module.partition(".")[0])
            for home in (spec.submodule_search_locations or ()) if spec else ():
                if (Path(home) / "configs").is_dir():
                    found[Path(home) / "configs"] = None
    return tuple(found)
