"""What a checkpoint's own files name lies beside them, or is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint

from unteach.errors import UserError
from unteach.export import weights


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_names_no_shard_elsewhere(tmp_path: Path, shard: str) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(UserError, match="only a file of the same folder"):
        weights.read(folder)


@pytest.mark.parametrize("content", ["[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "{}"])
def test_an_index_of_another_shape_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json: holds no weight_map"):
        weights.read(tmp_path)


def test_deepspeeds_latest_names_no_folder_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("../other")
    with pytest.raises(UserError, match="only a file of the same folder"):
        weights.read(tmp_path)


def test_a_sharded_checkpoint_names_no_file_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "pytorch_model_fsdp_0"
    checkpoint.save(
        {"w": torch.ones(2)}, storage_writer=checkpoint.FileSystemWriter(folder), no_dist=True
    )
    assert torch.equal(weights.read(folder)["w"], torch.ones(2))
    index = folder / ".metadata"
    whole = index.read_bytes()
    assert b"__0_0.distcp" in whole
    index.write_bytes(whole.replace(b"__0_0.distcp", b"../../passwd"))
    with pytest.raises(UserError, match="only a file of the same folder"):
        weights.read(folder)
    (folder / "__0_0.distcp").write_bytes(b"")
    index.write_bytes(whole)
    with pytest.raises(UserError, match="its shards cannot be read"):
        weights.read(folder)
    index.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"\.metadata"):
        weights.read(folder)
