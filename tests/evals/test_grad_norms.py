"""Gradient norms: what they are, and that nothing of a training run changes by them."""

import copy
from typing import Any

import pytest
import torch

from unteach.distributed.process_context import SINGLE_PROCESS
from unteach.engines.hf import HFEngine
from unteach.evals.measurement_cache import Store

PAIRS = [((5, 6, 7), (8, 9, 2)), ((5,), (40, 41, 42, 43, 2)), ((11, 12), (13, 2))]


def expected(model: Any, pair: tuple[Any, Any], p: float) -> float:
    prompt, answer = pair
    logp = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    loss = -logp[torch.arange(len(answer)), torch.tensor(answer)].mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return float(torch.stack([g.norm(p) for g in grads]).mean())


@pytest.fixture
def model(tiny: Any) -> Any:
    """One that a test may change."""
    from unteach.models.forward import extend

    own = copy.deepcopy(tiny.model)
    own.__dict__.pop("forward", None)  # the copied keyword still asks the original
    return extend(own)


@pytest.mark.parametrize("p", [2.0, 1.0])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_mean_over_tensors_of_the_gradients_norm(
    tiny: Any, model: Any, p: float, batch_size: int
) -> None:
    found = HFEngine(model, tiny.tokenizer, batch_size).grad_norms(PAIRS, p)
    assert found == pytest.approx([expected(model, pair, p) for pair in PAIRS], rel=1e-5)


def test_a_training_run_does_not_notice(tiny: Any, model: Any) -> None:
    model.train()
    model.model.embed_tokens.weight.requires_grad_(False)
    model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    before = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    flags = [weight.requires_grad for weight in model.parameters()]
    engine = HFEngine(model, tiny.tokenizer, 2)
    with torch.no_grad():
        engine.grad_norms(PAIRS, 2.0)
    assert model.training
    assert [weight.requires_grad for weight in model.parameters()] == flags
    after = {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }
    assert before and after.keys() == before.keys()
    assert all(torch.equal(after[name], grad) for name, grad in before.items())


def test_flags_come_back_when_it_fails(tiny: Any, model: Any) -> None:
    model.requires_grad_(False)
    with pytest.raises(IndexError):
        HFEngine(model, tiny.tokenizer, 2).grad_norms([((5,), (10**6,))], 2.0)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_frozen_weights_and_evaluation_mode_give_the_same(tiny: Any, model: Any) -> None:
    wanted = HFEngine(model, tiny.tokenizer, 2).grad_norms(PAIRS, 2.0)
    model.requires_grad_(False).eval()
    assert HFEngine(model, tiny.tokenizer, 2).grad_norms(PAIRS, 2.0) == pytest.approx(wanted)
    assert all(weight.grad is None for weight in model.parameters())


def test_under_autocast_every_weight_is_seen(tiny: Any, model: Any) -> None:
    """A scoring pass leaves casts behind that were made without gradients."""
    engine = HFEngine(model, tiny.tokenizer, 2)
    with torch.autocast("cpu", torch.bfloat16):
        engine.score(PAIRS)
        found = engine.grad_norms(PAIRS, 2.0)
    assert found == pytest.approx([expected(model, pair, 2.0) for pair in PAIRS], rel=0.1)


def test_they_are_kept_by_their_p(tiny: Any, model: Any, tmp_path: Any) -> None:
    first = HFEngine(
        model, tiny.tokenizer, 2, SINGLE_PROCESS, Store(tmp_path, "w", "float32")
    ).grad_norms(PAIRS, 2.0)
    store = Store(tmp_path, "w", "float32")
    assert [store.get("grad_norms 2.0", pair) for pair in PAIRS] == first
    assert store.get("grad_norms 1.0", PAIRS[0]) is None
