"""Clean text by a sequence classifier: its probabilities, its own store, and what is said where
there is none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.evals.test_suites import silent, tofu
from unteach.distributed.process_context import SINGLE_PROCESS
from unteach.engines.classifier import Classifier
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_plan, suites
from unteach.evals.run import evaluate_loaded

LABELS = {0: "clean", 1: "mild gibberish", 2: "noise"}


@pytest.fixture
def classifier(tiny: Any, tmp_path: Path) -> Path:
    """A tiny random BERT with three classes."""
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(tiny.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        pad_token_id=0,
        num_attention_heads=2,
        max_position_embeddings=24,
        id2label=LABELS,
        label2id={v: k for k, v in LABELS.items()},
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "classifier")
    tiny.tokenizer.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def values(tiny: Any, tmp_path: Path, *words: str) -> dict[str, Any]:
    config = tofu(
        "forget_split=forget05",
        "eval.tofu.metrics=[forget_Q_A_gibberish]",
        "eval.tofu.generation.max_new_tokens=9",
        *words,
    )
    weights = tiny.identity(tmp_path / "cache/fingerprints.json")
    evaluate_loaded(
        config, tiny, SINGLE_PROCESS, tmp_path / "out", tmp_path / "cache", weights, tell=False
    )
    return json.loads((tmp_path / "out/TOFU_EVAL.json").read_text())["forget_Q_A_gibberish"]


def test_the_probability_of_clean_text(
    tiny: Any, classifier: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    found = values(tiny, tmp_path, f"classifier_path={classifier}")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    scores = []
    for one in found["value_by_index"].values():
        ids = tiny.tokenizer(one["text"], truncation=True, max_length=24)["input_ids"] or [0]
        with torch.no_grad():
            scores.append(float(model(torch.tensor([ids])).logits.softmax(-1)[0, 0]))
    assert [one["score"] for one in found["value_by_index"].values()] == pytest.approx(
        scores, abs=1e-5
    )
    assert found["agg_value"] == pytest.approx(sum(scores) / len(scores), abs=1e-5)
    assert max(scores) - min(scores) > 1e-3
    assert found["n"] == 10 and found["ci"][0] <= found["agg_value"] <= found["ci"][1]

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", None)
    assert values(tiny, tmp_path, f"classifier_path={classifier}") == found, (
        "it is not loaded for what it said before"
    )
    other = values(
        tiny,
        tmp_path,
        f"classifier_path={classifier}",
        "eval.tofu.define.forget_Q_A_gibberish.label=Noise",
    )
    third = values(
        tiny,
        tmp_path,
        f"classifier_path={classifier}",
        "eval.tofu.define.forget_Q_A_gibberish.label=1",
    )
    assert found["agg_value"] + other["agg_value"] + third["agg_value"] == pytest.approx(
        1, abs=1e-5
    )


def test_a_special_token_in_a_text_is_text(tiny: Any, classifier: Path) -> None:
    eos = tiny.tokenizer.eos_token
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    texts = [f"so{eos}it", "so it"]
    found = Classifier(
        lambda: model, tokenizer, model.config, None, SINGLE_PROCESS, None
    ).probabilities(texts)
    for text, probabilities in zip(texts, found, strict=True):
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        assert tokenizer.eos_token_id not in ids[1:-1]
        with torch.no_grad():
            wanted = model(torch.tensor([ids])).logits.softmax(-1)[0]
        assert probabilities == pytest.approx(wanted.tolist(), abs=1e-5)
    as_token = tokenizer(texts[0])["input_ids"]
    assert len(as_token) < len(tokenizer(texts[0], split_special_tokens=True)["input_ids"])


def test_empty_continuations_are_classified_and_counted(
    tiny: Any, classifier: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(HFEngine, "generate", lambda self, prompts, *_, **__: [[] for _ in prompts])
    found = values(tiny, tmp_path, f"classifier_path={classifier}")
    assert found["empty"] == found["n"] == 10


def test_a_class_that_it_does_not_have(tiny: Any, classifier: Path, tmp_path: Path) -> None:
    define = "eval.tofu.define.forget_Q_A_gibberish.label"
    with pytest.raises(
        UserError,
        match=r"no class 'noyse'; it has clean, mild gibberish, noise; did you mean noise\?",
    ):
        values(tiny, tmp_path, f"classifier_path={classifier}", f"{define}=noyse")
    with pytest.raises(UserError, match="no class 3; it has 3"):
        values(tiny, tmp_path, f"classifier_path={classifier}", f"{define}=3")


def test_without_a_classifier_it_is_absent_or_an_error(tiny: Any, tmp_path: Path) -> None:
    made = suite_plan.plan_suite(tofu("eval.tofu.metrics=all")["tofu"], tiny.template)
    assert "eval.tofu.classifier_path" in made.absent["forget_Q_A_gibberish"]
    with pytest.raises(
        UserError,
        match=r"asks for forget_Q_A_gibberish, and .* no eval.tofu.classifier_path is set",
    ):
        values(tiny, tmp_path)
    with pytest.raises(UserError, match=r"classifier_path=/nowhere: there is no such folder"):
        values(tiny, tmp_path, "classifier_path=/nowhere")


def test_without_the_asked_metric_it_is_not_loaded(tiny: Any) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer)
    config = tofu(
        "classifier_path=/nowhere", "forget_split=forget01", "eval.tofu.metrics=[mia_loss]"
    )
    assert suites.evaluate(config, engine, tiny.template, silent, None)["tofu"]["mia_loss"].n > 0
