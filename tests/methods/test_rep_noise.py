"""RepNoise: its parts against plain formulas, and the same step however its rows are laid out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from unteach.errors import UserError
from unteach.methods.unlearn.rep_noise import mean_discrepancy
from unteach.models.forward import extend
from unteach.models.loading import load
from unteach.testing import build_method, method_loss, step_gradient
from unteach.testing.conformance import compute_in_two_processes
from unteach.testing.tiny_world import build_tiny_world
from unteach.training.step import setup_method

NAME = "RepNoise"


@pytest.fixture(scope="module")
def rows(kit: Path) -> list[dict[str, Any]]:
    rows = read_rows(kit / "data" / "forget10.jsonl")[:4]
    return [{**row, "alternate": "I'm not sure about that."} for row in rows]


def compute(args: dict[str, Any], kit: Path, rows: Any) -> tuple[float, float]:
    return method_loss(NAME, args, kit / "policy", kit / "policy", rows, [], {}, alternate=rows)


def test_the_discrepancy_is_the_papers() -> None:
    """Every pair and every kernel by itself; 0 of a sample and itself."""
    torch.manual_seed(0)
    one, other = torch.randn(3, 5), torch.randn(3, 5)
    both = torch.cat([one, other])
    distance = torch.tensor([[float((a - b).square().sum()) for b in both] for a in both])
    width = distance.sum() / (36 - 6) / 4
    kernel = sum((-distance / (width * 2**i)).exp() for i in range(5))
    signs = torch.tensor([1.0, 1, 1, -1, -1, -1])
    expected = (signs[:, None] * signs * kernel).sum() / 9  # type: ignore[operator]
    assert float(mean_discrepancy(one, other)) == pytest.approx(float(expected), rel=1e-5)
    assert float(mean_discrepancy(one, one)) == pytest.approx(0, abs=1e-6)


def test_without_the_other_terms_it_learns_the_other_answers(kit: Path, rows: Any) -> None:
    """By a plain pass: the first token of a span counts log V, and token 0 is no label."""
    from unteach.config.schema import ModelConfig

    loss, _ = compute({"alpha": 0.0, "beta": 0.0}, kit, rows)
    loaded = load(ModelConfig({"pretrained_model_name_or_path": str(kit / "policy")}), False)
    losses = []
    for row in rows:
        encoded = [
            loaded.template.encode(row["question"], row[key]) for key in ("answer", "alternate")
        ]
        harmful, harmless = [[*one.prompt, *one.answer] for one in encoded]
        length = max(len(harmful), len(harmless))
        padded = [ids + [0] * (length - len(ids)) for ids in (harmful, harmless)]
        differs = [a != b for a, b in zip(*padded, strict=True)]
        with torch.no_grad():
            logits = loaded.model(torch.tensor([harmless])).logits[0]
        for t in range(len(harmless) - 1):
            if differs[t + 1] and harmless[t + 1] != 0:
                logp = logits[t].log_softmax(-1)[harmless[t + 1]]
                losses.append(-float(logp) if differs[t] else math.log(logits.shape[-1]))
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_equal_answers_give_nothing_to_tell_apart(kit: Path, rows: Any) -> None:
    same = [{**row, "alternate": row["answer"]} for row in rows]
    loss, norm = compute({}, kit, same)
    assert (loss, norm) == (0, 0)


def test_the_layout_of_a_micro_batch_changes_nothing_and_its_split_does() -> None:
    """Packed rows, checkpointed layers, and its gradient in two processes; noise included."""
    method = build_method(NAME, {})
    loaded, frozen, examples = build_tiny_world(method)
    setup_method(loaded.model, method, 0, {}, loaded.template)

    def step(num_micro_batches: int = 1) -> torch.Tensor:
        method.after_step({}, 0.0)
        method.load_state({"num_steps": 3})
        return step_gradient(loaded, method, examples, frozen, num_micro_batches, size=8)[0]

    def distance(other: torch.Tensor) -> float:
        return float((other - whole).norm() / whole.norm())

    whole = step()
    assert torch.isfinite(whole).all() and whole.any()
    assert torch.equal(step(), whole), "noise is a function of seed and step"
    extend(loaded.model, packed=True)
    assert distance(step()) < 1e-5
    extend(loaded.model)
    loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert distance(step()) < 1e-5
    loaded.model.gradient_checkpointing_disable()
    assert distance(step(2)) > 1e-4, "it says so: depends_on_micro_batches"
    assert "compares the rows of a micro-batch" in method.depends_on_micro_batches()

    method.after_step({}, 0.0)
    method.load_state({"num_steps": 3})
    # In two processes each has its micro-batches and draws noise as the first one does.
    one, other = compute_in_two_processes(loaded, method, examples, frozen, step=0)
    assert torch.equal(one, other)
    assert torch.isfinite(one).all() and one.any()


def test_the_noise_goes_on_with_the_steps() -> None:
    method = build_method(NAME, {})
    rows = torch.zeros(2, 3, 4)
    first = method._draw_noise(0, rows)
    method.after_step({}, 0.0)
    second = method._draw_noise(0, rows)
    again = build_method(NAME, {})
    again.load_state(method.state())
    assert torch.equal(again._draw_noise(0, rows), second)
    assert not torch.equal(first, second)
    assert not torch.equal(method._draw_noise(1, rows), second)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_negative_weight_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must not be negative"):
        build_method(NAME, {name: -1.0})
