"""Best-fit packing: its laws, and that no document of a row sees, or follows on, another."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unteach.data.batches import collate
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.examples import SEGMENT
from unteach.data.handlers.text import PretrainingDataset
from unteach.data.packing import pack_best_fit
from unteach.data.steps import Slot
from unteach.methods.finetune.sft import SFT, Pretrain
from unteach.models.forward import extend
from unteach.training.step import count_step_units, micro_batch_loss

TEXTS = [
    "The river is long. " * 3,
    "Ann lives in the north, and writes.",
    "Short.",
    "Books of " * 12,
    "a",
    "Where is it?",
]


@given(st.lists(st.integers(1, 20), max_size=60))
def test_the_laws_of_packing(lengths: list[int]) -> None:
    rows = pack_best_fit(lengths, 20)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths))), (
        "each piece once"
    )
    sizes = [sum(lengths[piece] for piece in row) for row in rows]
    assert all(size <= 20 for size in sizes), "no row is fuller than it can be"
    assert sum(size <= 10 for size in sizes) <= 1, "two rows half empty would have been one"
    assert rows == sorted(sorted(row) for row in rows)


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    )
    return {"path": str(tmp_path / "texts.jsonl")}


def batch_of(tiny: Any, examples: list[Any], side: Any = "right") -> dict[str, Any]:
    items = [(Slot("train", number, 0, 1.0), example) for number, example in enumerate(examples)]
    return collate(items, DataCollatorForSupervisedDataset(tiny.tokenizer, side))


@pytest.mark.parametrize("max_length", [8, 24, 64])
def test_every_document_is_there_once(tiny: Any, texts: dict[str, Any], max_length: int) -> None:
    apart = PretrainingDataset(tiny.template, texts, max_length=max_length, packing="apart")
    packed = PretrainingDataset(tiny.template, texts, max_length=max_length, packing="best_fit")
    assert len(packed) < len(apart)
    pieces: list[list[int]] = []
    for example in packed:
        ids, segments = example["input_ids"], example.get(SEGMENT, [1] * len(example["input_ids"]))
        assert len(ids) == len(example["labels"]) == len(segments) <= max_length
        for number in range(1, max(segments) + 1):
            place = [k for k, segment in enumerate(segments) if segment == number]
            assert place == list(range(place[0], place[-1] + 1))
            assert len(place) == len(ids) or example["labels"][place[0]] == -100, (
                "nothing before it tells it"
            )
            pieces.append([ids[k] for k in place])
    assert sorted(pieces) == sorted(example["input_ids"] for example in apart)


@pytest.mark.parametrize("method", [SFT(), Pretrain()], ids=["completion", "all"])
@pytest.mark.parametrize("way", ["padded right", "padded left", "end to end"])
def test_packed_documents_are_learned_as_if_alone(
    tiny: Any, texts: dict[str, Any], method: Any, way: str
) -> None:
    """The same loss and gradient as one document a row, although rows are shared."""
    apart = list(PretrainingDataset(tiny.template, texts, max_length=48, packing="apart"))
    packed = list(PretrainingDataset(tiny.template, texts, max_length=48, packing="best_fit"))
    assert any(SEGMENT in example for example in packed) and len(packed) > 1
    gradients, losses = [], []
    for examples in (apart, packed):
        batch = batch_of(tiny, examples, "left" if way == "padded left" else "right")
        forward = tiny.model.forward
        extend(tiny.model, packed=way == "end to end")
        counts = count_step_units(method, [batch])
        loss, _ = micro_batch_loss(tiny.model, method, batch, NoReference(), counts)
        tiny.model.forward = forward
        tiny.model.requires_grad_(True)
        gradients.append(torch.autograd.grad(loss, tiny.model.lm_head.weight)[0])
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


class NoReference:
    def compute(self, batch: Any) -> dict[str, Any]:
        return {}
