"""The corrected formulas on hand-made cases, and the published quirks by their names."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from unteach.engines.base import Score
from unteach.errors import UserError
from unteach.evals import bootstrap
from unteach.evals.base import Generated, ScoredRow, Value, average_rows
from unteach.evals.metrics import (
    aggregate,
    kolmogorov,
    membership,
    memorization,
    probability,
    rouge,
    truth_ratio,
)

EOS = 2


def score(
    logprob: list[float], hit: list[bool] | None = None, token: list[int] | None = None
) -> Score:
    n = len(logprob)
    token = token or [*range(10, 9 + n), EOS]
    return Score(
        np.array(token),
        np.array(logprob),
        np.array(hit or [True] * n),
        np.full(n, -3.0),
        np.full(n, 4.0),
    )


def row(
    index: int, *scores: Score, texts: list[str] | None = None, has_alternatives: bool = False
) -> ScoredRow:
    return ScoredRow(index, list(scores), texts or ["word"] * len(scores), has_alternatives)


def test_probability_is_the_geometric_mean_of_token_probabilities() -> None:
    rows = [row(0, score([math.log(0.5), math.log(0.125)])), row(3, score([0.0, 0.0]))]
    value = probability.Probability("x").compute("p", rows)
    assert value.by_index[0] == {
        "prob": pytest.approx(0.25),
        "avg_loss": pytest.approx(math.log(4)),
    }
    assert value.agg == pytest.approx((0.25 + 1) / 2)
    assert (value.n, list(value.by_index)) == (2, [0, 3])
    low, high = value.to_json()["ci"]
    assert low <= value.agg <= high


def test_several_answers_count_by_their_mean() -> None:
    two = row(0, score([math.log(0.2)]), score([math.log(0.4)]), has_alternatives=True)
    value = probability.Probability("x").compute("p", [two])
    assert value.by_index[0]["prob"] == pytest.approx([0.2, 0.4])
    assert value.agg == pytest.approx(0.3)


def test_normalised_probability() -> None:
    right = Value(None, {0: {"prob": 0.6}})
    wrong = Value(None, {0: {"prob": [0.1, 0.1]}})
    assert probability.ProbabilityWithOptions("a", "b").compute(
        "p", right, wrong
    ).agg == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("aggregator", "mean", "expected"),
    [
        ("closer_to_1_better", "geometric", 0.2 / 0.8),
        ("true_better", "geometric", 1 - 0.2 / 0.8),
        ("prob_mean", "geometric", 0.8 / (0.8 + 0.2)),
        ("true_better", "arith", 1 - 0.25 / 0.8),
    ],
)
def test_truth_ratio(aggregator: Any, mean: Any, expected: float) -> None:
    """Wrong answers of probability .1 and .4: geometric mean .2, arithmetic mean .25."""
    right = Value(None, {0: {"avg_loss": -math.log(0.8)}})
    wrong = Value(None, {0: {"avg_loss": [-math.log(0.1), -math.log(0.4)]}})
    found = truth_ratio.TruthRatio("a", "b", aggregator, mean).compute("t", right, wrong)
    assert found.agg == pytest.approx(expected)


def test_a_truth_ratio_above_one_counts_by_its_inverse_or_not_at_all() -> None:
    right, wrong = (
        Value(None, {0: {"avg_loss": -math.log(0.2)}}),
        Value(None, {0: {"avg_loss": [-math.log(0.8)]}}),
    )
    assert truth_ratio.TruthRatio("a", "b", "closer_to_1_better").compute(
        "t", right, wrong
    ).agg == pytest.approx(0.25)
    assert truth_ratio.TruthRatio("a", "b", "true_better").compute("t", right, wrong).agg == 0


def test_exact_memorization_leaves_eos_out_by_its_id() -> None:
    hits = [True, False, True, False]
    ends_in_eos = row(0, score([-1.0] * 4, hits))
    assert memorization.ExactMemorization("x").compute(
        "e", [ends_in_eos], eos=EOS
    ).agg == pytest.approx(2 / 3)
    without = row(0, score([-1.0] * 4, hits, token=[5, 6, 7, 8]))
    assert memorization.ExactMemorization("x").compute(
        "e", [without], eos=EOS
    ).agg == pytest.approx(2 / 4)
    assert memorization.ExactMemorization("x", drop_last_label=True).compute(
        "e", [without], eos=EOS
    ).agg == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("hits", "corrected", "published"),
    [
        ([True, True, True, True], 1.0, 1.0),
        ([False, True, False, True], 1 / 4, 1 / 4),
        ([True, True, True, False], 0.0, 1 / 4),  # even the last token is missed
        ([False, True, True, True], 3 / 4, 3 / 4),
    ],
)
def test_extraction_strength(hits: list[bool], corrected: float, published: float) -> None:
    assert memorization.ExtractionStrength("x").strength(np.array(hits)) == pytest.approx(corrected)
    assert memorization.ExtractionStrength("x", es_floor=True).strength(
        np.array(hits)
    ) == pytest.approx(published)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_extraction_strength_is_the_longest_tail_of_hits(hits: list[bool]) -> None:
    tail = next((i for i, hit in enumerate(reversed(hits)) if not hit), len(hits))
    assert memorization.ExtractionStrength("x").strength(np.array(hits)) == pytest.approx(
        tail / len(hits)
    )


def test_min_k_takes_the_lowest_tokens_without_eos() -> None:
    one = row(0, score([-1.0, -5.0, -3.0, -2.0, -4.0, -9.0]))  # the -9 is EOS
    # floor(.4 * 5) = 2 tokens
    assert membership.MinK("a", "b").score(one, EOS) == pytest.approx(4.5)
    assert membership.MinK("a", "b", k=0.1).score(one, EOS) == pytest.approx(5.0)  # at least one
    assert membership.MinK("a", "b", k=1.0).score(one, EOS) == pytest.approx(3.0)


def test_min_k_plus_plus_standardises() -> None:
    one = row(0, score([-1.0, -5.0, -7.0, 0.0]))  # mean -3, deviation 2
    assert membership.MinKPlusPlus("a", "b", k=0.34).score(one, EOS) == pytest.approx(2.0)


def test_zlib_sets_loss_against_compressibility() -> None:
    import zlib

    one = row(0, score([-2.0, -4.0]), texts=["aaaaaaaa"])
    assert membership.ZlibAttack("a", "b").score(one, EOS) == pytest.approx(
        3 / len(zlib.compress(b"aaaaaaaa"))
    )


def test_an_attack_gives_the_auc_of_forget_against_holdout() -> None:
    forget, holdout = (
        [row(i, score([-x, -x])) for i, x in enumerate(xs)] for xs in ((1.0, 2.0), (1.5, 3.0))
    )
    value = membership.LossAttack("a", "b").compute("m", forget, holdout, eos=EOS)
    assert value.agg == pytest.approx(roc_auc_score([0, 0, 1, 1], [1.0, 2.0, 1.5, 3.0]))
    assert value.to_json()["forget"]["value_by_index"]["1"]["score"] == pytest.approx(2.0)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
)
def test_auc_is_scikit_learns(forget: list[int], holdout: list[int]) -> None:
    expected = roc_auc_score([0] * len(forget) + [1] * len(holdout), forget + holdout)
    assert bootstrap.auc(np.array(forget), np.array(holdout)) == pytest.approx(expected)


def test_privleak_without_a_retain_log_needs_its_default() -> None:
    attack = Value(0.8, None, 4, np.array([0.8, 0.8]))
    assert membership.PrivLeak("a").compute("p", attack, {"agg_value": 0.6}).agg == pytest.approx(
        -50
    )
    assert membership.PrivLeak("a", privleak_default=0.5).compute(
        "p", attack, None
    ).agg == pytest.approx(-60)


def test_harmonic_mean() -> None:
    parts = {name: Value(agg, None, 1, np.array([agg])) for name, agg in (("a", 0.5), ("b", 1.0))}
    assert aggregate.HarmonicMean(["a", "b"]).compute("u", **parts).agg == pytest.approx(2 / 3)
    parts["b"].agg = 0.0
    assert aggregate.HarmonicMean(["a", "b"]).compute("u", **parts).agg == 0


def test_forget_quality_of_the_same_model_is_one() -> None:
    by_index = {i: {"score": i / 7} for i in range(20)}
    retain = {"value_by_index": {str(i): v for i, v in by_index.items()}}
    assert kolmogorov.ForgetQuality("t").compute(
        "q", Value(None, by_index), retain
    ).agg == pytest.approx(1.0)


def test_rouge() -> None:
    one = Generated(0, "Q", ["the cat sat down"], "the cats sat")
    assert rouge.Rouge("x").compute("r", [one]).agg == pytest.approx(3 / 4)  # stemmed
    assert rouge.Rouge("x", rouge_stemmer=False).compute("r", [one]).agg == 0.5
    assert rouge.Rouge("x").compute("r", [Generated(0, "Q", ["the cat"], "")]).agg == 0
    assert rouge.KnowMem("x").compute("k", [one]).agg == pytest.approx(
        2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    )


def test_rouge_of_several_answers_counts_by_its_mean() -> None:
    several = Generated(0, "Q", ["the cat", "a dog"], "the cat", has_alternatives=True)
    value = rouge.Rouge("x").compute("r", [several])
    assert value.by_index[0]["rougeL_recall"] == [1.0, 0.0]
    assert value.agg == 0.5


def test_an_answer_stands_beside_its_prompt_and_its_bare_question() -> None:
    one = Generated(0, "<|user|>Who?<|assistant|>", ["Ann"], "Bo", question="Who?")
    row = (rouge.Rouge("x").compute("r", [one]).by_index or {})[0]
    assert (row["input"], row["question"]) == ("<|user|>Who?<|assistant|>", "Who?")
    assert (row["ground_truth"], row["generation"]) == ("Ann", "Bo")


def test_values_that_are_not_finite_are_named() -> None:
    with pytest.raises(UserError, match=r"not finite at rows \[7\]"):
        probability.Probability("x").compute("p", [row(7, score([float("nan")]))])


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=30))
def test_intervals_hold_the_value_and_repeat(values: list[float]) -> None:
    replicates = bootstrap.resample_mean(np.array(values), "x")
    low, high = bootstrap.compute_interval(replicates) or (1, 0)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert np.array_equal(replicates, bootstrap.resample_mean(np.array(values), "x"))


@given(st.data())
def test_every_interval_holds_its_value(data: st.DataObject) -> None:
    """Of means, areas, distances from a bound and harmonic means alike; a p-value has none."""
    numbers = st.lists(st.floats(0.01, 1), min_size=2, max_size=12)
    first, second = data.draw(numbers), data.draw(numbers)

    def part(name: str, values: list[float]) -> Value:
        return average_rows(name, {i: {"score": value} for i, value in enumerate(values)}, "score")

    halves = [dict(enumerate(values)) for values in (first, second)]
    area = membership.build_attack_value("mia", *halves)
    one, two = part("one", first), part("two", second)
    retain = {"agg_value": data.draw(st.sampled_from([area.agg, 0.5, 0.9]))}
    made = [
        one,
        area,
        membership.PrivLeak("mia").compute("p", area, retain),
        aggregate.Privacy(["mia"]).compute("p", mia=area, **{"mia/retain": retain}),
        aggregate.HarmonicMean(["one", "two"]).compute("h", one=one, two=two),
        aggregate.Difference("one", "two").compute("d", one, two),
    ]
    for value in made:
        low, high = value.to_json()["ci"]
        assert value.agg is not None and low <= value.agg <= high
    logged = {"value_by_index": {str(i): {"score": x} for i, x in halves[1].items()}}
    scores = Value(None, {i: {"score": x} for i, x in halves[0].items()})
    assert kolmogorov.ForgetQuality("t").compute("q", scores, logged).to_json()["ci"] is None


def test_the_reference_attack_subtracts_the_reference_models_loss() -> None:
    forget, holdout = ([row(0, score([-x]))] for x in (1.0, 3.0))
    forget_reference, holdout_reference = ([row(0, score([-x]))] for x in (4.0, 2.5))
    value = membership.ReferenceAttack("a", "b").compute(
        "m", forget, holdout, forget_reference, holdout_reference
    )
    halves = [
        value.to_json()[half]["value_by_index"]["0"]["score"] for half in ("forget", "holdout")
    ]
    assert halves == pytest.approx([-3.0, 0.5])
    assert value.agg == 1.0


def test_relative_difference() -> None:
    attack = Value(0.9, None, 4, np.array([0.9, 0.9]))
    assert membership.RelativeDifference("a").compute(
        "r", attack, {"agg_value": 0.6}
    ).agg == pytest.approx(50)


def test_lowest_tokens_do_not_hide_what_is_not_finite() -> None:
    rows = [row(i, score([-1.0, float("nan"), -2.0, -3.0, -4.0])) for i in range(2)]
    with pytest.raises(UserError, match=r"m/forget.*not finite at rows \[0, 1\]"):
        membership.MinK("a", "b").compute("m", rows, rows, eos=EOS)
