"""Curves against what is counted by hand, and the token probabilities that a page shows."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unteach.config import compose
from unteach.engines.base import Score
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import bootstrap, suites, token_table
from unteach.evals.base import ScoredRow
from unteach.evals.rows import TokenizedColumn
from unteach.report import distributions, token_heat
from unteach.report.collect import RunResult, collect


def scored(*values: float | None) -> dict[str, Any]:
    return {
        "agg_value": 0.5,
        "value_by_index": {str(i): {"score": value} for i, value in enumerate(values)},
    }


def run(name: str, kind: str = "forget", **results: Any) -> RunResult:
    return RunResult(name, kind, Path(name), {}, results)


def test_a_cdf_steps_at_each_value_and_counts_what_lies_beyond_the_axis() -> None:
    x, y = distributions.build_cdf(np.array([0.0, 0.5, 0.5, 2.0, 1e9]))
    assert x == [1e-4, 0.5, 2.0, 1e4]
    assert y == [0.2, pytest.approx(0.6), pytest.approx(0.8), 0.8]


def test_truth_ratios_are_compared_with_the_retain_model(tmp_path: Path) -> None:
    runs = [
        run("retain", "retain", forget_truth_ratio=scored(1.0, 2.0, 3.0, 4.0)),
        run("near", forget_truth_ratio=scored(1.0, 2.0, 3.0, float("nan"), 3.5)),
        run("far", forget_truth_ratio=scored(0.1, 0.2)),
        run("none"),
    ]
    shown = distributions.collect_truth_ratios(runs)
    assert shown is not None
    assert [(curve.run_index, curve.figure) for curve in shown.curves] == [
        (0, None),
        (1, 0.25),
        (2, 1.0),
    ]
    assert shown.left_out == ["none"]
    assert distributions.collect_truth_ratios([run("none")]) is None


def test_ratios_that_all_lie_beyond_the_axis_are_drawn_on_the_shortest_one() -> None:
    runs = [run("forgot", forget_truth_ratio=scored(1e9, 1e10))]
    ratios = distributions.collect_truth_ratios(runs)
    assert ratios is not None
    picture = distributions.build_ratio_picture(ratios, runs, {"forgot": 0})
    assert picture.x.limits == (pytest.approx(0.1 / 1.5), 15.0)


def test_a_roc_curve_by_hand_ties_slanted() -> None:
    forget, holdout = np.array([1.0, 2.0, 2.0, 5.0]), np.array([2.0, 3.0, 4.0, 4.0])
    # at 1: one member of four; at 2: three members, one other; 3 and 4: the others; 5: all
    x, y = distributions.build_roc(forget, holdout)
    assert list(zip(x, y, strict=True)) == [(0, 0), (0, 0.25), (0.25, 0.75), (1, 0.75), (1, 1)]
    assert np.trapezoid(y, x) == pytest.approx(bootstrap.auc(forget, holdout)) == 0.6875


def test_the_area_under_every_roc_curve_is_the_logs_auc() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        forget, holdout = (
            generator.integers(0, 9, 13).astype(float),
            generator.integers(2, 11, 7).astype(float),
        )
        x, y = distributions.build_roc(forget, holdout)
        assert np.trapezoid(y, x) == pytest.approx(bootstrap.auc(forget, holdout))


def test_attacks_that_more_runs_have_come_first() -> None:
    both = {"forget": scored(1.0, 2.0), "holdout": scored(3.0, 4.0), "agg_value": 1.0}
    found = distributions.collect_attacks(
        [
            run("a", mia_loss=both, mia_min_k=both),
            run("b", mia_min_k=both),
            run("c", mia_loss={"auc": 1}),
        ]
    )
    assert [
        (one.title, [curve.run_index for curve in one.curves], one.left_out) for one in found
    ] == [
        ("min-k", [0, 1], ["c"]),
        ("loss", [0], ["b", "c"]),
    ]
    assert found[0].curves[0].figure == 1.0


# tokens


def score(ids: list[int], logs: list[float]) -> Score:
    many = np.array(logs)
    return Score(np.array(ids), many, many > -1, many, many)


def test_token_texts_put_together_are_the_answer(tiny: Any) -> None:
    text = "She wrote 12 books, and won.\nTwice"
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(token_table.spell_tokens(tuple(ids), tiny.tokenizer)).strip() == text
    assert token_table.spell_tokens((), tiny.tokenizer) == []


def test_long_answers_and_many_are_cut_and_counted(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_table, "MAX_TOKENS", 2)
    monkeypatch.setattr(token_table, "MAX_ROWS", 1)
    ids = tiny.tokenizer("one two three four", add_special_tokens=False)["input_ids"]
    rows = [
        ScoredRow(i, [score(ids, [-0.12345] * len(ids))], ["one two three four"], False)
        for i in (3, 4)
    ]
    column = TokenizedColumn(
        "w",
        2,
        False,
        "d",
        row_indices=[3, 4],
        prompt_texts=["Question: A?\nAnswer:\n", "B"],
        questions=["A?", "B"],
    )
    listed = token_table.build_table("forget.answer", column, rows, tiny.tokenizer)
    assert (listed["of"], listed["count"], len(listed["rows"])) == ("forget.answer", 2, 1)
    row = listed["rows"][0]
    assert (row["prompt"], row["question"]) == ("Question: A?\nAnswer:\n", "A?")
    assert (row["index"], row["length"], row["logprob"]) == (3, len(ids), [-0.123, -0.123])
    assert "".join(row["tokens"]).strip() and len(row["tokens"]) == 2


def test_the_answers_of_two_logs_stand_beside_each_other() -> None:
    def row(prompt: str, answer: str, *logs: float | None) -> dict[str, Any]:
        return {
            "prompt": prompt,
            "answer": answer,
            "tokens": ["a", "b"][: len(logs)],
            "logprob": list(logs),
            "length": 3,
        }

    one, other = run("one"), run("other")
    one.tokens.extend(
        [row("Question: A?\nAnswer:\n", "x", math.log(0.5), math.log(0.125)), row("B?", "y", None)]
    )
    other.tokens.append(row("A?", "x", 0.0))
    (first, second), _ = token_heat.collect_token_answers([one, other])
    assert (first.question, first.text) == ("A?", "x")
    left, right = first.by_run
    assert left is not None and right is not None
    assert left.probabilities == [pytest.approx(0.5), pytest.approx(0.125)]
    assert left.mean == pytest.approx(0.25)
    assert (left.num_cut, right.num_cut) == (1, 2)
    assert (
        second.by_run[1] is None and second.by_run[0] is not None and second.by_run[0].mean is None
    )
    assert token_heat.to_data([first])[0][2][0] == [["a", "b"], [0.5, 0.125], 1, 0.25]


def test_a_suite_writes_the_tokens_that_a_metric_measured(tiny: Any, tmp_path: Path) -> None:
    words = [
        "task_name=t",
        "model=tiny",
        "tofu_path=authors",
        "eval.tofu.generation.max_new_tokens=4",
    ]
    engine = HFEngine(tiny.model, tiny.tokenizer, 16)

    def evaluate(metric: str, folder: Path = tmp_path) -> None:
        suite = compose.compose("eval", [*words, f"eval.tofu.metrics=[{metric}]"]).eval
        suites.evaluate(suite, engine, tiny.template, lambda what, total: lambda done: None, folder)

    evaluate("forget_Q_A_Prob")
    (read,) = collect([("one", "", tmp_path)])
    probs = read.results["forget_Q_A_Prob"]["value_by_index"]
    assert len(list(read.tokens)) == len(probs)
    for row in read.tokens:
        assert -np.mean(row["logprob"]) == pytest.approx(
            probs[str(row["index"])]["avg_loss"], abs=1e-3
        )
    (tmp_path / "TOFU_TOKENS.json").write_text('{"rows": [{"tokens": ["a"]}]}')
    with pytest.raises(UserError, match=r"TOFU_TOKENS\.json does not list answers token by token"):
        list(collect([("one", "", tmp_path)])[0].tokens)
    evaluate("ra_Q_A_Prob", tmp_path / "other")  # no forget answers
    assert not (tmp_path / "other" / "TOFU_TOKENS.json").exists()


def test_a_page_draws_no_more_points_than_a_screen_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "MOST_POINTS", 10)
    x = [n / 104 for n in range(105)]
    curves = distributions.Curves("t", "AUC", [distributions.Curve(0, x, x, None)], [])
    picture = distributions.build_attack_picture(curves, [run("a")], {"a": 0})
    [series] = [series for series in picture.series if series.name == "a"]
    assert len(series.points) <= 11
    assert [(point.x, point.y) for point in (series.points[0], series.points[-1])] == [
        (0.0, 0.0),
        (1.0, 1.0),
    ], "both ends stay"
