"""Models between the one before and the one that landed, and past it."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from unteach.config.schema import PATH, ModelConfig
from unteach.errors import UserError
from unteach.forgetting.points import Point, write_point
from unteach.models.loading import load


def copy_model(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def save_adapter(adapted: PeftModel, before: Path, to: Path) -> None:
    adapted.save_pretrained(to)
    AutoTokenizer.from_pretrained(before).save_pretrained(to)


def read_logits(folder: Path) -> torch.Tensor:
    loaded = load(ModelConfig({PATH: str(folder)}), training=False)
    return loaded.model(input_ids=torch.arange(5, 15)[None]).logits.float()


def change(folder: Path, strength: float) -> None:
    """Move every matrix of a model by something of its own."""
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, weight in weights.items():
        weights[name] = weight + strength * torch.randn(weight.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_point_of_a_whole_model_is_on_the_line(tiny_folder: Path, tmp_path: Path) -> None:
    before, landed = (
        copy_model(tiny_folder, tmp_path / "before"),
        copy_model(tiny_folder, tmp_path / "landed"),
    )
    wanted = copy_model(tiny_folder, tmp_path / "wanted")
    change(landed, 0.01)
    change(wanted, 0.015)
    config = ModelConfig({PATH: str(before)})
    write_point(config, landed, Point(0.1, 0.1, 1.5), tmp_path / "point")
    found = load_file(tmp_path / "point/model.safetensors")
    for name, weight in load_file(wanted / "model.safetensors").items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)


def test_a_point_of_a_fresh_lora_scales_what_it_adds(tiny_folder: Path, tmp_path: Path) -> None:
    before = copy_model(tiny_folder, tmp_path / "before")
    base = AutoModelForCausalLM.from_pretrained(before)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    save_adapter(adapted, before, tmp_path / "landed")
    config = ModelConfig({PATH: str(before)})
    write_point(config, tmp_path / "landed", Point(0.01, 0.01, 0.5), tmp_path / "point")
    ours = load_file(tmp_path / "point/adapter_model.safetensors")
    for name, weight in load_file(tmp_path / "landed/adapter_model.safetensors").items():
        factor = 0.5 if "lora_B" in name else 1.0
        torch.testing.assert_close(ours[name], factor * weight)
    assert not torch.equal(read_logits(tmp_path / "point"), read_logits(before))


def test_a_fresh_dora_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    before = copy_model(tiny_folder, tmp_path / "before")
    base = AutoModelForCausalLM.from_pretrained(before)
    adapted = get_peft_model(base, LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]))
    save_adapter(adapted, before, tmp_path / "landed")
    config = ModelConfig({PATH: str(before)})
    with pytest.raises(UserError, match="DoRA cannot be moved"):
        write_point(config, tmp_path / "landed", Point(0.01, 0.01, 0.5), tmp_path / "point")
    assert not (tmp_path / "point").exists()
