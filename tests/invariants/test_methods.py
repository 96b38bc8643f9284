"""The same step everywhere, and the algebra that holds between methods."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from unteach import registry
from unteach.testing import build_method, check_method, method_loss, step_gradient

NAMES = [entry.name for entry in registry.method.entries()]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_conforms(name: str) -> None:
    check_method(name)


@pytest.mark.parametrize("name", ["GradDiff", "NPO"])
def test_kl_retain_conforms(name: str) -> None:
    check_method(name, {"retain_loss_type": "KL"})


def test_the_conformance_test_can_fail() -> None:
    """A method whose divisor counts only its own micro-batch breaks the rule, and is caught."""
    from dataclasses import dataclass

    from unteach.methods.base import Term
    from unteach.methods.finetune.sft import SFT

    @dataclass
    class MeanOfMeans(SFT):
        def terms(self, policy: Any, reference: Any) -> list[Term]:
            return [Term("train", -policy["train"].value.mean().reshape(1), "train.sequences")]

    registry.method("MeanOfMeans")(MeanOfMeans)
    try:
        with pytest.raises(AssertionError, match="changes the gradient"):
            check_method("MeanOfMeans", processes=False)
    finally:
        registry.method._entries.pop("MeanOfMeans")


@pytest.fixture(scope="module")
def batch(kit: Path) -> tuple[list[dict], list[dict]]:
    return tuple(read_rows(kit / "data" / f"{name}.jsonl")[:4] for name in ("forget10", "retain90"))  # type: ignore


def gradient(name: str, args: dict[str, Any], kit: Path, batch: Any, policy: str = "policy") -> torch.Tensor:
    """The flat gradient of one step on the kit."""
    from unteach import testing
    from unteach.models import loading
    from unteach.schema import ModelConfig

    method = build_method(name, args)
    loaded = loading.load(ModelConfig({"pretrained_model_name_or_path": str(kit / policy)}), training=True)
    frozen = loading.load_frozen(ModelConfig({"pretrained_model_name_or_path": str(kit / "reference")}))
    streams = dict(zip(("forget", "retain"), batch, strict=True))
    rows = {s: testing._examples(loaded.template, streams[s], False) for s in method.streams()}
    return step_gradient(loaded, method, rows, frozen, hands=1)[0]


def test_npo_tends_to_ascent_as_beta_vanishes(kit: Path, batch: Any) -> None:
    """grad NPO -> grad GradAscent * (answer tokens / sequences)."""
    from unteach.models import loading
    from unteach.schema import ModelConfig

    loaded = loading.load(ModelConfig({"pretrained_model_name_or_path": str(kit / "policy")}), training=False)
    tokens = sum(len(loaded.template.encode(r["question"], r["answer"]).answer) for r in batch[0])
    npo = gradient("NPO", {"beta": 1e-6, "alpha": 0}, kit, batch)
    ascent = gradient("GradAscent", {}, kit, batch) * tokens / len(batch[0])
    assert float((npo - ascent).norm() / ascent.norm()) < 1e-3


def test_grad_diff_is_ascent_plus_descent(kit: Path, batch: Any) -> None:
    whole = gradient("GradDiff", {"gamma": 0.5, "alpha": 2.0}, kit, batch)
    forget = gradient("GradAscent", {}, kit, batch)
    retain = gradient("GradDiff", {"gamma": 0.0}, kit, batch)
    assert torch.allclose(whole, 0.5 * forget + 2 * retain, atol=1e-4)


def test_kl_retain_is_zero_at_the_reference(kit: Path, batch: Any) -> None:
    loss, norm = method_loss(
        "GradDiff", {"gamma": 0.0, "retain_loss_type": "KL"}, kit / "reference", kit / "reference", *batch, {}
    )
    assert loss == pytest.approx(0, abs=1e-6)
    assert norm == pytest.approx(0, abs=1e-4)


def test_kl_is_that_of_its_formula(kit: Path, batch: Any) -> None:
    """Mean over answer tokens of KL(ref || policy), written out with the library's own full logits."""
    import transformers

    from unteach.data.template import Template

    tokenizer = transformers.AutoTokenizer.from_pretrained(kit / "policy")
    models = [transformers.AutoModelForCausalLM.from_pretrained(kit / name) for name in ("policy", "reference")]
    total, tokens = 0.0, 0
    for row in batch[1]:
        encoded = Template(tokenizer).encode(row["question"], row["answer"])
        with torch.no_grad():
            policy, reference = (m(torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1) for m in models)
        answer = slice(len(encoded.prompt) - 1, len(encoded.input_ids) - 1)
        total += float((reference[answer].exp() * (reference[answer] - policy[answer])).sum())
        tokens += len(encoded.answer)
    loss, _ = method_loss(
        "GradDiff", {"gamma": 0.0, "retain_loss_type": "KL"}, kit / "policy", kit / "reference", *batch, {}
    )
    assert loss == pytest.approx(total / tokens, rel=1e-5)


def test_npo_is_that_of_its_formula(kit: Path, batch: Any) -> None:
    """-(2/beta) mean log sigmoid(-beta (s - s_ref)), with other hyperparameters than the published ones."""
    import transformers

    from unteach.data.template import Template

    tokenizer = transformers.AutoTokenizer.from_pretrained(kit / "policy")
    sums = []
    for name in ("policy", "reference"):
        model = transformers.AutoModelForCausalLM.from_pretrained(kit / name)
        rows = []
        for row in batch[0]:
            encoded = Template(tokenizer).encode(row["question"], row["answer"])
            with torch.no_grad():
                logp = model(torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
            start = len(encoded.prompt)
            rows.append(sum(logp[start - 1 + i, token] for i, token in enumerate(encoded.answer)))
        sums.append(torch.stack(rows))
    beta = 0.37
    expected = (-2 / beta * torch.nn.functional.logsigmoid(-beta * (sums[0] - sums[1]))).mean()
    loss, _ = method_loss("NPO", {"beta": beta, "alpha": 0}, kit / "policy", kit / "reference", *batch, {})
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_alpha_zero_makes_no_retain_pass() -> None:
    assert build_method("NPO", {"alpha": 0}).streams() == ("forget",)
    assert build_method("GradAscent").streams() == ("forget",)


def test_no_reference_is_held_where_none_is_needed() -> None:
    assert build_method("GradDiff").reference() == {}
    assert build_method("NPO").reference() == {"forget": "logprobs"}
