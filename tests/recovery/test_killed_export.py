"""An export killed at any moment leaves its folder whole or absent, and what it exports as it was;
the same again ends it."""

import importlib
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.doors import export
from tests.recovery.conftest import after, spawn
from unteach import fingerprints
from unteach.verbs.export import RECORD


@pytest.mark.parametrize("moment", ["reading", "writing", "renaming"])
def test_it_is_whole_or_absent(moment: str, tiny_folder: Path, tmp_path: Path) -> None:
    target, reached, before = (
        tmp_path / "out",
        tmp_path / "reached",
        fingerprints.hash_files(tiny_folder),
    )
    names = {
        "reading": "unteach.export.weights.read",
        "writing": "unteach.export.trained.save_tokenizer_and_template",
        "renaming": "unteach.fingerprints.hash_value",
    }

    def work() -> None:
        owner, _, name = names[moment].rpartition(".")
        module = importlib.import_module(owner)
        real = getattr(module, name)

        def slowly(*given: object) -> object:
            found = real(*given)
            reached.touch()
            signal.pause()
            return found

        setattr(module, name, slowly)
        export(str(tiny_folder), str(target))

    assert after(spawn(work, tmp_path / "log"), 0.05, once=reached) == -9
    assert not target.exists(), "it was not whole yet"
    export(str(tiny_folder), str(target))
    assert (target / RECORD).exists() and not list(tmp_path.glob(".out*"))
    one, other = (
        load_file(target / "model.safetensors"),
        load_file(tiny_folder / "model.safetensors"),
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert fingerprints.hash_files(tiny_folder) == before
