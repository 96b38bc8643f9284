"""Load what others add without forking: one Python file (`plugins=[my_method.py]`), or an installed
package with its YAML.

A class that a file registers with a decorator is known under its name from then on, and no name is
given twice. A plain torch Dataset or transformers.Trainer subclass, as OpenUnlearning's components
are written, needs no decorator: its class name is its handler in the runs that name the file, even
where we have a handler of that name.
"""

import contextlib
import functools
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from unteach import registry
from unteach.errors import UserError
from unteach.wording import quote_value

MODULE_PREFIX = "unteach_plugin_"
"""How the names of modules that plugin files become begin."""


def find_plugin_line(error: BaseException) -> str | None:
    """Find the innermost line of a plugin's file that an error passed through, `my.py, line 12`;
    None where none did."""
    innermost = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(MODULE_PREFIX):
            innermost = f"{frame.f_code.co_filename}, line {line}"
    return innermost


@contextlib.contextmanager
def use_plugins(paths: Iterable[str]) -> Iterator[None]:
    """Load plugin files, and let a configuration name their plain classes meanwhile."""
    datasets: dict[str, type] = {}
    trainers: dict[str, type] = {}
    for path in paths:
        module = load_file(str(Path(path).resolve()))
        for cls in _list_plain_classes(module):
            if registry.is_trainer(cls):
                trainers[cls.__name__] = cls
            elif _is_torch_dataset(cls):
                datasets[cls.__name__] = cls
    with registry.dataset.override(datasets), registry.method.override(trainers):
        yield


def parse_paths(value: object) -> list[str]:
    """Check the value of `plugins`, and return the paths in it."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(path, str) and path for path in value):
        raise UserError(
            "plugins: must be a list of Python files, plugins=[my_method.py]; got "
            f"{quote_value(value)}"
        )
    return value


@functools.cache
def load_file(path: str) -> ModuleType:
    """Load a plugin file as a module; it is executed once."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"plugins: there is no file {path}")
    name = f"{MODULE_PREFIX}{file.stem}"
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


def _list_plain_classes(module: ModuleType) -> list[type]:
    """List the classes that a module itself defines and that no decorator registered."""
    registered = {*registry.dataset.list_targets(), *registry.method.list_targets()}
    classes = []
    for item in vars(module).values():
        is_own_class = isinstance(item, type) and item.__module__ == module.__name__
        if is_own_class and item not in registered:
            classes.append(item)
    return classes


def _is_torch_dataset(cls: type) -> bool:
    return any(
        base.__name__ == "Dataset" and base.__module__.startswith("torch.utils.data")
        for base in cls.__mro__
    )


@functools.cache
def config_folders() -> tuple[Path, ...]:
    """List the folder `configs/` of each installed plugin package that has one, without importing
    the package."""
    folders: dict[Path, None] = {}
    for point in registry.list_installed().values():
        package = point.module.partition(".")[0]
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(package)
            package_dirs = spec.submodule_search_locations if spec else None
            for package_dir in package_dirs or ():
                folder = Path(package_dir) / "configs"
                if folder.is_dir():
                    folders[folder] = None
    return tuple(folders)
