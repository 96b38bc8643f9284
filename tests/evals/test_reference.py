"""The attack that compares with a reference model: one pass of that model, and none where its
scores are known."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.evals.test_suites import tofu
from unteach.distributed.process_context import SINGLE_PROCESS
from unteach.errors import UserError
from unteach.evals import suite_plan
from unteach.evals.run import evaluate_loaded
from unteach.models import loading, model_handlers


@pytest.fixture
def other(tiny: Any, tiny_folder: Path, tmp_path: Path) -> Path:
    """A model of other weights that reads the same tokens."""
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(tiny_folder))
    model.save_pretrained(tmp_path / "other")
    tiny.tokenizer.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the models that are loaded."""
    paths: list[str] = []
    real = loading.load

    def counting(config: Any, *args: Any, **kwargs: Any) -> Any:
        paths.append(config.model_args[model_handlers.PATH])
        return real(config, *args, **kwargs)

    monkeypatch.setattr(loading, "load", counting)
    return paths


def values(loaded: Any, tmp_path: Path, metrics: str, *words: str) -> dict[str, Any]:
    config = tofu(f"eval.tofu.metrics={metrics}", "forget_split=forget01", *words)
    weights = loaded.identity(tmp_path / "cache/fingerprints.json")
    evaluate_loaded(
        config, loaded, SINGLE_PROCESS, tmp_path / "out", tmp_path / "cache", weights, tell=False
    )
    return json.loads((tmp_path / "out/TOFU_EVAL.json").read_text())


def test_the_other_model_is_scored_once(
    tiny: Any, other: Path, tmp_path: Path, loads: list[str]
) -> None:
    named = f"eval.tofu.reference_model_path={other}"
    found = values(tiny, tmp_path, "[mia_reference,mia_loss]", named)
    assert loads == [str(other)]
    assert (
        values(tiny, tmp_path, "[mia_reference]", named)["mia_reference"] == found["mia_reference"]
    )
    assert loads == [str(other)], "what its store holds needs no model"
    theirs = values(
        loading.load(loading.ModelConfig({model_handlers.PATH: str(other)}), training=False),
        tmp_path,
        "[mia_loss]",
    )
    for half in ("forget", "holdout"):
        for index, score in found["mia_reference"][half]["value_by_index"].items():
            losses = (
                log["mia_loss"][half]["value_by_index"][index]["score"] for log in (found, theirs)
            )
            assert score["score"] == pytest.approx(next(losses) - next(losses), abs=1e-6)


def test_a_model_against_itself_is_its_own_store(
    tiny: Any, tmp_path: Path, loads: list[str]
) -> None:
    found = values(tiny, tmp_path, "[mia_loss]")
    found = values(tiny, tmp_path, "[mia_reference]", f"eval.tofu.reference_model_path={tiny.path}")
    assert loads == []
    assert {v["score"] for v in found["mia_reference"]["forget"]["value_by_index"].values()} == {
        0.0
    }


def test_a_live_model_has_its_reference_in_plain_precision(
    tiny: Any, other: Path, tmp_path: Path
) -> None:
    """Within the autocast of a training run, the other model's scores are those of an evaluation of
    it."""
    found = values(tiny, tmp_path, "[mia_reference]", f"eval.tofu.reference_model_path={other}")
    with torch.autocast("cpu", torch.bfloat16):
        autocast = values(
            tiny,
            tmp_path / "new",
            "[mia_reference,mia_loss]",
            f"eval.tofu.reference_model_path={other}",
        )
    own = values(tiny, tmp_path, "[mia_loss]")
    for index, score in autocast["mia_reference"]["forget"]["value_by_index"].items():
        moved = (
            autocast["mia_loss"]["forget"]["value_by_index"][index]["score"]
            - own["mia_loss"]["forget"]["value_by_index"][index]["score"]
        )
        before = found["mia_reference"]["forget"]["value_by_index"][index]["score"]
        assert score["score"] - before == pytest.approx(moved, abs=1e-6)


def test_without_a_reference_it_is_absent_or_refused(tiny: Any) -> None:
    made = suite_plan.plan_suite(tofu("eval.tofu.metrics=all")["tofu"], tiny.template)
    assert "no reference_model_path is set" in made.absent["mia_reference"]
    with pytest.raises(
        UserError, match=r"asks for mia_reference, and .*no reference_model_path is set"
    ):
        suite_plan.plan_suite(tofu("eval.tofu.metrics=[mia_reference]")["tofu"], tiny.template)


def test_a_model_of_other_tokens_is_refused(tiny: Any, other: Path, tmp_path: Path) -> None:
    model_handlers.learn_tokenizer(
        ["quite other words than those of the authors"] * 9, 400
    ).save_pretrained(other)
    with pytest.raises(UserError, match="its tokenizer is another"):
        values(tiny, tmp_path, "[mia_reference]", f"eval.tofu.reference_model_path={other}")
