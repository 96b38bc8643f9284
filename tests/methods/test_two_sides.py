"""A loss in two sides: each from its own streams, and together the loss."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from unteach import registry
from unteach.data.batches import Batch, SlotDataset, collate, select_streams
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.steps import Steps
from unteach.methods.base import Term, TwoSided
from unteach.methods.unlearn.grad_diff import GradDiff
from unteach.models.reference import Reference
from unteach.testing import build_method
from unteach.testing.examples import build_streams
from unteach.testing.losses import _build_reference
from unteach.testing.tiny_world import build_tiny_world
from unteach.training.step import (
    count_step_units,
    micro_batch_loss,
    prepass_step,
    select_side,
    setup_method,
)

TWO_SIDED = [e.name for e in registry.method.entries() if issubclass(e.target, TwoSided)]
PADDED = torch.tensor([[0, 0, 5, 6, 7], [0, 0, 0, 8, 9], [1, 2, 3, 4, 5]])


def build_world(name: str) -> tuple[Any, Any, Batch, Reference]:
    """A method with a retain term, a tiny model, one micro-batch, and the reference."""
    args: dict[str, Any] = {"alpha": 0.7}
    if name == "PDU":
        args["retain_loss_eps"] = 0.3
    method = build_method(name, args)
    loaded, frozen, rows = build_tiny_world(method)
    streams = build_streams(rows)
    setup_method(loaded.model, method, 0, streams, loaded.template)
    anchor = next(iter(streams))
    steps = Steps(streams, anchor, 8, seed=0)
    (slots,) = steps.split_into_micro_batches(0, 0, 1)
    dataset = SlotDataset(streams, anchor)
    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    batch = collate([dataset[slot] for slot in slots], collator)
    reference = _build_reference(method, streams, steps.list_seen(1), frozen, collator)
    return method, loaded.model, batch, reference


@pytest.mark.parametrize("name", TWO_SIDED)
def test_the_two_sides_add_up_to_the_loss(name: str) -> None:
    """Loss, terms and gradient of the sides, each on the rows of its own streams."""
    method, model, batch, reference = build_world(name)
    counts = {unit: count.float() for unit, count in count_step_units(method, [batch]).items()}
    counts.update(prepass_step(model, method, [batch], reference))
    loss, shares = micro_batch_loss(model, method, batch, reference, counts)
    loss.backward()
    whole = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad(set_to_none=True)

    total, joined = 0.0, {}
    for side in ("forget", "retain"):
        part = select_side(method, batch, side)
        assert len(part["input_ids"]) < len(batch["input_ids"])
        side_loss, side_shares = micro_batch_loss(model, method, part, reference, counts, side)
        side_loss.backward()
        total += side_loss.item()
        joined.update(side_shares)
    assert total == pytest.approx(loss.item(), rel=1e-5)
    assert joined.keys() == shares.keys()
    for term, share in shares.items():
        # A divergence near 0 is a difference of numbers near 1: no better than fp32's rounding.
        assert float(joined[term]) == pytest.approx(float(share), rel=1e-5, abs=1e-7)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter, expected in zip(trained, whole, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_selected_streams_lose_the_columns_that_only_pad_them() -> None:
    batch: Any = {
        "input_ids": PADDED,
        "labels": PADDED,
        "attention_mask": (PADDED != 0).long(),
        "weight": torch.tensor([1.0, 0.0, 1.0]),
        "number": torch.tensor([3, 4, 5]),
        "epoch": torch.zeros(3),
        "rows": {"forget": (0, 2), "retain": (2, 3)},
    }
    forget = select_streams(batch, ["forget"])
    assert forget["input_ids"].tolist() == [[5, 6, 7], [0, 8, 9]]
    assert forget["rows"] == {"forget": (0, 2)}
    assert forget["number"].tolist() == [3, 4]
    turned = select_streams(batch, ["retain", "forget"])
    assert turned["rows"] == {"retain": (0, 1), "forget": (1, 3)}
    assert turned["input_ids"].tolist() == PADDED[[2, 0, 1]].tolist()


def test_a_method_that_keeps_its_sides_apart_is_told_from_one_that_does_not() -> None:
    @dataclass
    class Joint(GradDiff):
        def terms(self, policy: Any, reference: Any) -> list[Term]:
            return super().terms(policy, reference)

    assert GradDiff().find_sides_fault() == ""
    assert "forget_terms and retain_terms" in Joint().find_sides_fault()
    assert "which of its terms" in build_method("SFT", {}).find_sides_fault()
