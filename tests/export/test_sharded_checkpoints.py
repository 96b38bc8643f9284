"""A checkpoint of two processes, however they were spread, exported by one: the weights that the
run ended with."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.test_parallel_modes import said, together, weights, words
from tests.doors import export
from tests.recovery.conftest import corpus  # noqa: F401

KEPT = (
    "trainer=GradDiff",
    "eval=null",
    "trainer.args.save_strategy=steps",
    "trainer.args.save_steps=2",
    "trainer.args.keep_checkpoints=true",
)
ADAPTER = ("model.peft_args={r: 4, target_modules: all-linear}",)


@pytest.mark.long
@pytest.mark.parametrize("what", ["everything", "an adapter"])
@pytest.mark.parametrize("mode", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_checkpoint_is_exported(
    mode: str, what: str, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    folder, extra = tmp_path / "run", ADAPTER if what == "an adapter" else ()
    command = words(kit, corpus, folder, 1, *KEPT, *extra, f"launch={mode}")
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    form = "adapter" if extra else "model"
    for name, source in (("at-2", folder / "checkpoint-2"), ("end", folder)):
        export(str(source), str(tmp_path / name), form)
        export(str(source), str(tmp_path / f"{name}-model"))
    file, last = f"{'adapter_' if extra else ''}model.safetensors", weights(folder)
    for name in ("at-2", "end"):
        found = load_file(tmp_path / name / file)
        assert found.keys() == last.keys() and all(
            torch.equal(found[key], last[key]) for key in last
        ), name
    whole = [
        load_file(tmp_path / f"{name}-model" / "model.safetensors") for name in ("at-2", "end")
    ]
    assert all(torch.equal(whole[0][key], whole[1][key]) for key in whole[1])
