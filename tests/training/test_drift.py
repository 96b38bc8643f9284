"""How far a model has moved, on texts that it wrote before."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from unteach.config.schema import ModelConfig
from unteach.models.loading import load
from unteach.training import drift
from unteach.training.drift import DriftMeter, sample_texts

OPENING = [(1,)]


@pytest.fixture
def loaded(tiny_folder: Path) -> Any:
    return load(ModelConfig({"pretrained_model_name_or_path": str(tiny_folder)}), training=True)


def test_texts_are_drawn_by_the_seed(loaded: Any) -> None:
    texts = sample_texts(loaded, OPENING * 6, 12, seed=0)
    assert (
        texts
        == sample_texts(loaded, OPENING * 6, 12, seed=0)
        != sample_texts(loaded, OPENING * 6, 12, seed=1)
    )
    assert len({text.continuation for text in texts}) > 1
    assert all(1 <= len(text.continuation) <= 12 for text in texts)


def test_it_is_the_kl_of_two_models(loaded: Any, tmp_path: Path) -> None:
    """Also of the head alone, and by what a file keeps; 0 where nothing changed."""
    before = copy.deepcopy(loaded.model)
    before.__dict__.pop("forward")
    texts = sample_texts(loaded, OPENING * 10, 12, seed=0)
    meter = DriftMeter(loaded, loaded.model.parameters(), texts)
    meter.remember()
    assert meter.measure() == 0
    for name in ("model.layers.0.mlp.up_proj.weight", "lm_head.weight"):
        loaded.model.get_parameter(name).data.mul_(1.5)

    expected = []
    for text in texts:
        ids = torch.tensor([[*text.prompt, *text.continuation]])
        positions = slice(len(text.prompt) - 1, -1)
        with torch.no_grad():
            p = before(ids).logits[0, positions].log_softmax(-1)
            q = loaded.model(ids).logits[0, positions].log_softmax(-1)
        expected += (p.exp() * (p - q)).sum(-1).tolist()
    assert meter.measure() == pytest.approx(sum(expected) / len(expected), rel=1e-4)

    meter.save(tmp_path / "reference" / "landing.safetensors")
    again = DriftMeter(loaded, [])
    again._head = meter._head
    again.load(tmp_path / "reference" / "landing.safetensors")
    assert again.measure() == meter.measure()


def test_runs_from_the_same_model_share_their_texts(
    loaded: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another seed, length or model they have others."""
    first = DriftMeter(loaded, [])
    first.prepare(OPENING * 4, 6, seed=0, cache_dir=tmp_path)
    for number, (length, seed) in enumerate([(6, 1), (5, 0)], 2):
        DriftMeter(loaded, []).prepare(OPENING * 4, length, seed=seed, cache_dir=tmp_path)
        assert len(list((tmp_path / "own_texts").iterdir())) == number

    other = load(ModelConfig({"pretrained_model_name_or_path": str(tiny_folder)}), training=True)
    other.model.config.rms_norm_eps = 1e-3
    changed = DriftMeter(other, [])
    changed.prepare(OPENING * 4, 6, seed=0, cache_dir=tmp_path)
    assert len(list((tmp_path / "own_texts").iterdir())) == 4

    monkeypatch.setattr(drift, "sample_texts", lambda *_: pytest.fail("it has them already"))
    second = DriftMeter(loaded, [])
    second.prepare(OPENING * 4, 6, seed=0, cache_dir=tmp_path)
    assert second.texts == first.texts
    assert second.measure() == first.measure() == 0
