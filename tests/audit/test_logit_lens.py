"""The logit lens: what each layer says of an answer, and at the last one what the model says."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from unteach.audits.logit_lens import compute_logit_lens
from unteach.audits.patching import compute_patched_logprobs, record_states
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.models.forward import extend

PAIRS = [
    ((5, 9, 33), (17, 8, 2)),
    ((7,), (41, 12, 30, 22, 19, 2)),
    ((6, 13, 14, 15), (16,)),
    ((), (21, 22, 2)),
]


def test_the_last_layer_is_the_models_own_mean_log_prob(tiny: Any) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer)
    lens = compute_logit_lens(engine, PAIRS)
    assert lens.shape == (4, 2)
    own = [-score.avg_loss for score in engine.score(PAIRS)]
    assert lens[:, -1] == pytest.approx(own, abs=1e-5)


def test_only_layers_above_a_depth_are_read(tiny: Any) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer)
    lens = compute_logit_lens(engine, PAIRS)
    assert np.array_equal(compute_logit_lens(engine, PAIRS, depth=0.5), lens[:, 1:])


def test_answers_to_one_prompt_share_it(tiny: Any) -> None:
    pairs = [((5, 9, 33), (17, last)) for last in range(40, 52)]
    engine = HFEngine(tiny.model, tiny.tokenizer)
    alone = [compute_logit_lens(engine, [pair])[0] for pair in pairs]
    assert np.allclose(compute_logit_lens(engine, pairs), alone, atol=1e-5)
    (batch,) = engine.plan_scores(pairs).plan_batches(range(12))
    assert len(batch) == 1, "one row"


def test_a_layer_is_read_through_the_norm_and_the_head(tiny: Any) -> None:
    lens = compute_logit_lens(HFEngine(tiny.model, tiny.tokenizer), PAIRS[:1])
    (prompt, answer), model = PAIRS[0], tiny.model
    with torch.no_grad():
        states = model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True).hidden_states
        logp = model.lm_head(model.model.norm(states[1]))[0, 2:-1].log_softmax(-1)
    expected = logp[torch.arange(3), torch.tensor(answer)].mean()
    assert lens[0, 0] == pytest.approx(float(expected), abs=1e-5)


def test_the_batch_size_changes_nothing(tiny: Any) -> None:
    together = compute_logit_lens(HFEngine(tiny.model, tiny.tokenizer), PAIRS)
    alone = compute_logit_lens(HFEngine(tiny.model, tiny.tokenizer, batch_size=1), PAIRS)
    assert np.allclose(together, alone, atol=1e-5)


def test_a_model_with_more_than_a_norm_above_its_layers_is_refused(tiny: Any) -> None:
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=400,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=16,
    )
    model = extend(transformers.OPTForCausalLM(config))
    with pytest.raises(UserError, match="no logit lens reads this model: OPTForCausalLM"):
        compute_logit_lens(HFEngine(model, tiny.tokenizer), PAIRS)


def test_what_is_not_finite_is_refused(tiny: Any) -> None:
    model = copy.deepcopy(tiny.model)
    model.forward = type(model).forward.__get__(model)
    engine = HFEngine(extend(model), tiny.tokenizer)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        compute_patched_logprobs(engine, record_states(engine, PAIRS), PAIRS)
