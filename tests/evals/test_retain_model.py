"""retain_model: a model evaluated first for its log, once, and what is compared with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evals.test_reference import loads, other  # noqa: F401
from tests.evals.test_suites import tofu
from unteach.distributed.process_context import SINGLE_PROCESS
from unteach.errors import UserError
from unteach.evals.run import evaluate_loaded

METRICS = "eval.tofu.metrics=[forget_quality,privleak,privacy]"


def values(tiny: Any, tmp_path: Path, *words: str) -> dict[str, Any]:
    weights = tiny.identity(tmp_path / "cache/fingerprints.json")
    config = tofu("forget_split=forget01", *words)
    evaluate_loaded(
        config, tiny, SINGLE_PROCESS, tmp_path / "out", tmp_path / "cache", weights, tell=False
    )
    return json.loads((tmp_path / "out/TOFU_EVAL.json").read_text())


def test_it_gives_what_its_log_gives(
    tiny: Any, other: Path, tmp_path: Path, loads: list[str]
) -> None:
    from unteach.config.schema import ModelConfig
    from unteach.models.loading import load

    retain = load(ModelConfig({"pretrained_model_name_or_path": str(other)}), training=False)
    values(
        retain,
        tmp_path / "retain",
        "eval.tofu.metrics=[forget_truth_ratio,mia_loss,mia_zlib,mia_min_k,mia_min_k_plus_plus]",
    )
    wanted = values(
        tiny, tmp_path / "by_log", METRICS, f"retain_logs_path={tmp_path / 'retain/out'}"
    )
    loads.clear()
    found = values(tiny, tmp_path, METRICS, f"retain_model={other}")
    assert loads == [str(other), str(other)], "its template, and once its weights"
    assert found.keys() == wanted.keys()
    for name in ("forget_quality", "privleak", "privacy"):
        assert found[name]["agg_value"] == pytest.approx(wanted[name]["agg_value"], abs=1e-5)
        assert found[name]["ci"] == pytest.approx(wanted[name]["ci"], abs=1e-4)
    loads.clear()
    again = values(tiny, tmp_path, METRICS, f"retain_model={other}")
    assert again == found
    assert loads == [str(other)], "what is measured of it is kept; no weights are read again"


def test_a_run_that_compares_nothing_does_not_evaluate_it(
    tiny: Any, tmp_path: Path, loads: list[str]
) -> None:
    values(tiny, tmp_path, "eval.tofu.metrics=[mia_loss]", "retain_model=/nowhere")
    assert loads == []


def test_a_model_that_cannot_be_loaded_names_the_key(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"retain_model=/nowhere: .*there is no such folder"):
        values(tiny, tmp_path, METRICS, "retain_model=/nowhere")


def test_a_log_and_a_model_are_one_too_many() -> None:
    with pytest.raises(
        UserError, match="retain_logs_path and retain_model both say what to compare with; give one"
    ):
        tofu("retain_logs_path=a", "retain_model=b")


def test_a_mistake_in_a_suite_is_said_before_weights_are_read(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    from tests.doors import evaluate

    load = transformers.AutoModelForCausalLM.from_pretrained

    def refused(*args: Any, **settings: Any) -> Any:
        assert settings.get("device_map") == "meta", "weights were read"
        return load(*args, **settings)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refused)
    with pytest.raises(UserError, match="asks for privleak, and it compares with a retain model"):
        evaluate(
            "model=auto",
            f"model.model_args.pretrained_model_name_or_path={tiny_folder}",
            "tofu_path=authors",
            "eval.tofu.metrics=[privleak]",
            "task_name=t",
            f"paths.output_dir={tmp_path}",
        )
