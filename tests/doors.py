"""Verbs in this process, by the words of the command line: what a test starts, and the folder or the
file that it gives."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach.config.verb_configs import ExportConfig, ExportModelArgs
from unteach.config.verb_options import Options
from unteach.verbs import export as export_verb
from unteach.verbs.start import start


def train(*words: str, config_name: str = "train", config_dirs: Iterable[str] = ()) -> Path:
    return start("train", words, Options(config_name, tuple(map(str, config_dirs))))


def evaluate(*words: str, config_name: str = "eval", config_dirs: Iterable[str] = ()) -> Path:
    return start("eval", words, Options(config_name, tuple(map(str, config_dirs))))


def infer(*words: str, config_dirs: Iterable[str] = ()) -> Path:
    return start("infer", words, Options(None, tuple(map(str, config_dirs))))


def export(
    what: str | Path,
    to: str | Path | None = None,
    form: str = "model",
    dtype: str | None = None,
    base: str | None = None,
    peft_args: dict[str, Any] | None = None,
    push: str | None = None,
    private: bool = True,
) -> Path | None:
    model = ExportModelArgs(base, peft_args)
    folder = str(to) if to else None
    config = ExportConfig([str(what)], folder, form, dtype, push, private, model)
    return export_verb.run(config)
