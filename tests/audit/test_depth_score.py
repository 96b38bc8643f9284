"""The depth score: 0 for the original, 1 for the retain model, and patched only where it should."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.audit.test_logit_lens import PAIRS
from tests.audit.test_quantise import build_llama
from unteach.audits.depth_score import compute_depth_score, compute_drops
from unteach.audits.logit_lens import compute_logit_lens
from unteach.audits.patching import (
    compute_patched_logprobs,
    list_unpatched,
    record_states,
)
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals.measurement_cache import Store
from unteach.models.capabilities import Capabilities, set_capabilities
from unteach.models.forward import extend


def build_engine(tiny: Any, seed: int, packed: bool = False, **options: Any) -> HFEngine:
    """A random Llama that says other things with another seed."""
    model = build_llama(vocab_size=len(tiny.tokenizer))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    return HFEngine(extend(model, packed), tiny.tokenizer, **options)


@pytest.fixture
def full(tiny: Any) -> HFEngine:
    return build_engine(tiny, 1)


@pytest.fixture
def retain(tiny: Any) -> HFEngine:
    return build_engine(tiny, 2)


def test_full_is_0_and_retain_is_1(full: HFEngine, retain: HFEngine) -> None:
    retain_drops = compute_drops(full, record_states(retain, PAIRS), PAIRS)
    own_drops = compute_drops(full, record_states(full, PAIRS), PAIRS)
    assert (own_drops == 0).all()
    assert (retain_drops > 0.05).any()
    assert compute_depth_score(retain_drops, retain_drops).value == 1
    assert compute_depth_score(retain_drops, own_drops).value == 0


def test_states_are_put_where_the_answer_is_predicted(full: HFEngine, retain: HFEngine) -> None:
    """Against a plain hook on the library's own forward, one pair at a time."""
    found = compute_patched_logprobs(full, record_states(retain, PAIRS), PAIRS)
    for index, (prompt, answer) in enumerate(PAIRS):
        ids = torch.tensor([[*prompt, *answer]])
        first = max(len(prompt) - 1, 0)
        targets = ids[0, first + 1 :]
        for layer_index in range(2):
            outputs: list[torch.Tensor] = []
            source = retain.model.model.layers[layer_index]
            handle = source.register_forward_hook(lambda m, a, o, kept=outputs: kept.append(o))
            with torch.no_grad():
                retain.model(ids)
            handle.remove()

            def patch(m: Any, a: Any, o: Any, kept: Any = outputs, start: int = first) -> Any:
                changed = o.clone()
                changed[:, start:-1] = kept[0][:, start:-1]
                return changed

            handle = full.model.model.layers[layer_index].register_forward_hook(patch)
            with torch.no_grad():
                logp = full.model(ids).logits[0, first:-1].log_softmax(-1)
            handle.remove()
            expected = logp[torch.arange(len(targets)), targets].mean()
            assert found.patched[index, layer_index] == pytest.approx(float(expected), abs=1e-4)
    own = [-score.avg_loss for score in full.score(PAIRS)]
    assert found.own == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize("layout", ["alone", "packed", "unpadded"])
def test_how_rows_go_through_the_model_changes_nothing(
    tiny: Any, full: HFEngine, retain: HFEngine, layout: str
) -> None:
    expected = compute_drops(full, record_states(retain, PAIRS), PAIRS)
    options = {"alone": {"batch_size": 1}, "packed": {"packed": True}}.get(layout, {})
    own, other = [build_engine(tiny, seed, **options) for seed in (1, 2)]
    if layout == "unpadded":
        for engine in (own, other):
            set_capabilities(engine.model, Capabilities(right_padding=False, packing=False))
    assert np.allclose(compute_drops(own, record_states(other, PAIRS), PAIRS), expected, atol=1e-4)


def test_in_the_last_layer_all_states_are_read_by_norm_and_head(full: HFEngine) -> None:
    states = record_states(full, PAIRS, "last_layer")
    found = compute_patched_logprobs(full, states, PAIRS, "last_layer")
    assert found.patched == pytest.approx(compute_logit_lens(full, PAIRS), abs=1e-5)
    assert found.patched[:, -1] == pytest.approx(found.own, abs=1e-6)


def test_the_store_keeps_each_sources_drops_apart(
    tiny: Any, retain: HFEngine, tmp_path: Path
) -> None:
    engine = build_engine(tiny, 1, store=Store(tmp_path, "full", "float32"))
    states = record_states(retain, PAIRS)
    measured = compute_drops(engine, states, PAIRS, source_name="retain")
    own = compute_drops(engine, record_states(engine, PAIRS), PAIRS, source_name="full")
    assert (own == 0).all() and (measured != 0).any()
    # Found by the name of the source, without its states and without a model.
    again = HFEngine(None, tiny.tokenizer, store=Store(tmp_path, "full", "float32"))
    assert list_unpatched(again, PAIRS, "layer", "retain") == []
    assert list_unpatched(again, PAIRS, "layer", "other") == PAIRS
    assert np.array_equal(compute_drops(again, None, PAIRS, source_name="retain"), measured)


def test_both_models_are_left_as_they_were(full: HFEngine, retain: HFEngine) -> None:
    full.model.train()
    retain.model.train()
    compute_drops(full, record_states(retain, PAIRS), PAIRS)
    for engine in (full, retain):
        assert engine.model.training
        assert not any(layer._forward_hooks for layer in engine.model.model.layers)


def test_layers_below_the_threshold_and_facts_without_one_do_not_count() -> None:
    retain_drops = np.array([[2.0, 0.05, 1.0], [0.01, -3.0, 0.05], [0.0, 4.0, 0.0]])
    drops = np.array([[1.0, 9.0, 3.0], [5.0, 5.0, 5.0], [9.0, -1.0, 9.0]])
    score = compute_depth_score(retain_drops, drops)
    # (2 * 1/2 + 1 * 1) / 3: the second layer holds nothing, and no ratio passes 1 or falls below 0.
    assert score.by_fact == [pytest.approx(2 / 3), None, 0.0]
    assert score.value == pytest.approx(1 / 3)
    assert score.num_skipped == 1
    nothing = compute_depth_score(np.zeros((2, 3)), drops[:2])
    assert nothing.value is None and nothing.num_skipped == 2


def test_models_of_another_shape_are_refused(tiny: Any, full: HFEngine) -> None:
    deeper = build_llama(vocab_size=len(tiny.tokenizer), num_hidden_layers=3)
    with pytest.raises(UserError, match="2 layers of 32 and 3 of 32"):
        compute_drops(full, record_states(HFEngine(extend(deeper), tiny.tokenizer), PAIRS), PAIRS)
    with pytest.raises(UserError, match="answer 0: has no token"):
        record_states(full, [((5,), ())])


def test_other_tokens_are_refused(tiny: Any, full: HFEngine, retain: HFEngine) -> None:
    retain.tokenizer = copy.deepcopy(tiny.tokenizer)
    retain.tokenizer.add_tokens(["<new>"])
    states = record_states(retain, PAIRS)
    with pytest.raises(UserError, match="different tokenizers"):
        compute_drops(full, states, PAIRS)
