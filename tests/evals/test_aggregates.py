"""Values made of others: memorisation, privacy, utility and overall, by their definitions, with
intervals of parts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hmean

from tests.evals.test_suites import silent, tofu
from unteach.engines.hf import HFEngine
from unteach.evals import suites
from unteach.evals.base import Value
from unteach.evals.metrics import aggregate, kolmogorov

DRAWS = np.linspace(-0.05, 0.05, 11)


def part(agg: float, n: int = 4) -> Value:
    return Value(agg, None, n, agg + DRAWS)


def test_memorisation_is_the_harmonic_mean_of_complements() -> None:
    parts = {"a": part(0.2), "b": part(0.5)}
    value = aggregate.HarmonicMean(["a", "b"], complement=True).compute("m", **parts)
    assert value.agg == pytest.approx(hmean([0.8, 0.5]))
    assert value.n == 8
    assert value.replicates == pytest.approx(hmean([0.8 - DRAWS, 0.5 - DRAWS]))


def test_privacy_is_how_near_the_areas_are_to_the_retain_models() -> None:
    areas = {
        "a": part(0.9),
        "b": part(0.45),
        "a/retain": {"agg_value": 0.5},
        "b/retain": {"agg_value": 0.5},
    }
    metric = aggregate.Privacy(["a", "b"])
    assert metric.compute("p", **areas).agg == pytest.approx(hmean([1 - 0.4 / 0.5, 1 - 0.05 / 0.5]))
    areas["a"] = part(1.0)
    assert metric.compute("p", **areas).agg == 0, "twice the retain model's is as far as it gets"
    areas |= {"a": part(0.5), "b": part(0.5)}
    value = metric.compute("p", **areas)
    assert value.agg == 1
    assert value.replicates is not None and value.replicates.max() <= 1


def test_utility_is_relative_to_the_model_before() -> None:
    measured = {
        "u": part(0.4),
        "f": part(0.9),
        "u/before": {"agg_value": 0.6},
        "f/before": {"agg_value": 0.9},
    }
    value = aggregate.RelativeUtility(["u", "f"]).compute("utility", **measured)
    assert value.agg == pytest.approx(hmean([0.4, 0.9]) / hmean([0.6, 0.9]))
    assert value.replicates == pytest.approx(hmean([0.4 + DRAWS, 0.9 + DRAWS]) / hmean([0.6, 0.9]))


def test_differences_and_arithmetic_means() -> None:
    a, b = part(0.7), part(0.4)
    assert aggregate.Difference("a", "b").compute("d", value=a, other=b).agg == pytest.approx(0.3)
    assert aggregate.DeltaToRetain("a").compute(
        "d", value=a, log={"agg_value": 0.6}
    ).agg == pytest.approx(0.1)
    assert aggregate.ArithmeticMean(["a", "b"]).compute("m", a=a, b=b).agg == pytest.approx(0.55)
    assert aggregate.ArithmeticMean(["a", "b"], complement=True).compute(
        "m", a=a, b=b
    ).agg == pytest.approx(0.45)


def test_a_part_without_replicates_counts_as_it_is() -> None:
    value = aggregate.HarmonicMean(["a", "b"]).compute("m", a=part(0.5), b=Value(0.5, None, 1))
    assert value.replicates == pytest.approx(hmean([0.5 + DRAWS, np.full(11, 0.5)]))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_ln_p_goes_on_where_p_underflows(alternative: Any) -> None:
    test = kolmogorov.ForgetQuality("t", alternative, log=True).test
    rng = np.random.default_rng(0)
    near = rng.normal(0, 1, 400), rng.normal(0.1, 1, 400)
    p, log_p = test(*near, "auto")
    assert log_p == pytest.approx(np.log(p))
    far = rng.normal(-20, 1, 4000), rng.normal(20, 1, 4000)
    if alternative == "less":
        far = far[::-1]
    p, log_p = test(*far, "asymp")
    assert p == 0
    assert log_p == pytest.approx(-4000, rel=1e-2)  # -2 D² nm/(n + m), with D 1


def test_the_suites_own_aggregates(tiny: Any, tmp_path: Path) -> None:
    """Against itself, before and beside: privacy and utility are 1; every value has n and an
    interval."""
    engine = HFEngine(tiny.model, tiny.tokenizer)
    words = "[privacy,memorization,model_utility,mia_min_k,mia_loss,mia_zlib,mia_min_k_plus_plus]"
    base = ["forget_split=forget05", f"eval.tofu.metrics={words}"]
    suites.evaluate(
        tofu(*base[:1], "eval.tofu.metrics=all"), engine, tiny.template, silent, tmp_path
    )
    found = suites.evaluate(
        tofu(*base, f"retain_logs_path={tmp_path}"), engine, tiny.template, silent, None
    )["tofu"]
    assert found["privacy"].agg == pytest.approx(1.0)
    parts = [
        found[n].agg
        for n in (
            "extraction_strength",
            "exact_memorization",
            "forget_Q_A_PARA_Prob",
            "forget_Truth_Ratio_prob",
        )
    ]
    assert found["memorization"].agg == pytest.approx(hmean(1 - np.array(parts)))
    for name, value in found.items():
        shown = value.to_json()
        assert shown["n"] > 0, name
        assert shown["ci"][0] <= value.agg <= shown["ci"][1], name
    absent = json.loads((tmp_path / "TOFU_ABSENT.json").read_text())
    assert "no retain_logs_path is set" in absent["privacy"]
    assert "no eval.tofu.classifier_path is set" in absent["forget_Q_A_gibberish"]
    assert "forget_Q_A_gibberish is absent" in absent["utility"]
    assert "is absent" in absent["overall"]
