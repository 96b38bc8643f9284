"""What must agree before a run is spread, and whose checkpoint may be gone on from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unteach.config import compose
from unteach.data.streams import Stream
from unteach.distributed import extension_builds
from unteach.distributed.process_context import SINGLE_PROCESS, DistContext
from unteach.errors import UserError
from unteach.models.placement import place_model
from unteach.training import checkpoint, parallelism
from unteach.training.build_args import build_training_args

WRITTEN = {"mode": "zero3", "world": 2, "rows": 8}


def args(world: int = 2, accumulation: int = 2) -> Any:
    return SimpleNamespace(
        per_device_train_batch_size=2, gradient_accumulation_steps=accumulation, world_size=world
    )


@pytest.mark.parametrize(
    ("written", "mode", "world", "refused"),
    [
        (WRITTEN, "zero3", 2, None),
        (WRITTEN, "zero2", 2, r"2 processes as zero3.*this run has 2 as zero2"),
        (WRITTEN, "fsdp2", 2, "as fsdp2"),
        ({**WRITTEN, "rows": 16}, "zero3", 4, "this run has 4 as zero3"),
        ({**WRITTEN, "mode": "fsdp2"}, "fsdp2", 2, None),
        ({**WRITTEN, "mode": "fsdp2", "world": 1, "rows": 8}, "fsdp2", 2, None),
        ({**WRITTEN, "mode": "fsdp2"}, "fsdp2", 1, r"has 4 rows.*steps of 8"),
        ({**WRITTEN, "mode": "one", "world": 1, "rows": 8}, "ddp", 2, None),
        ({**WRITTEN, "mode": "ddp", "rows": 8}, "one", 1, r"has 4 rows.*steps of 8"),
        (None, "ddp", 2, None),
    ],
)
def test_whose_checkpoint_is_gone_on_from(
    written: Any, mode: str, world: int, refused: str | None, tmp_path: Path
) -> None:
    checkpoint.write_state(tmp_path, {"spread": written} if written else {})
    if refused is None:
        parallelism.refuse_other_parallelism(tmp_path, args(world), mode)
        return
    with pytest.raises(UserError, match=refused):
        parallelism.refuse_other_parallelism(tmp_path, args(world), mode)


def arguments(tmp_path: Path, *words: str) -> Any:
    config = compose.compose(
        "train",
        ("experiment=finetune/tofu/default", "task_name=t", f"paths.output_dir={tmp_path}", *words),
    )
    anchor = Stream("train", [[{"input_ids": [0]}] * 8])
    return build_training_args(config, "float32", anchor, tmp_path)


def test_what_the_launch_says_must_be_what_the_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments(tmp_path, "trainer.args.ddp_bucket_cap_mb=10")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(
        UserError, match="ddp_bucket_cap_mb is for data parallelism, and this run is fsdp2"
    ):
        arguments(tmp_path, "trainer.args.ddp_bucket_cap_mb=10")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(
        UserError, match=r"mixed_precision in bfloat16, and this run computes in float32"
    ):
        arguments(tmp_path)


def test_a_device_map_is_for_one_process(tiny: Any) -> None:
    assert place_model(tiny.model, SINGLE_PROCESS) is tiny.model
    tiny.model.hf_device_map = {"": "cpu"}
    try:
        assert place_model(tiny.model, DistContext(0, 1, None, torch.device("meta"))) is tiny.model
        assert tiny.model.device.type == "cpu", "it stays where the map put it"
        with pytest.raises(UserError, match=r"device_map spreads one model .* and this run has 2"):
            place_model(tiny.model, DistContext(0, 2, None, torch.device("cpu")))
    finally:
        del tiny.model.hf_device_map


def test_what_the_libraries_made_of_it_is_verified(tiny: Any) -> None:
    trainer = SimpleNamespace(model_wrapped=tiny.model)
    parallelism.verify(trainer, "one")
    with pytest.raises(UserError, match=r"started as fsdp2, and the libraries made one of it"):
        parallelism.verify(trainer, "fsdp2")


def test_only_a_lock_that_nobody_holds_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    left, held = tmp_path / "py" / "left" / "lock", tmp_path / "py" / "held" / "lock"
    for lock in (left, held):
        lock.parent.mkdir(parents=True)
        lock.touch()
    with held.open():
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert extension_builds.remove_abandoned_locks() == [], (
            "of several machines: another may hold it"
        )
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert extension_builds.remove_abandoned_locks() == [left]
        assert held.exists()
        assert not left.exists()
