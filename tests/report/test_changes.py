"""What compare says: pairs of rows where there are any, intervals elsewhere, and the front of a
trade-off."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unteach.evals import bootstrap
from unteach.report import changes, export, table, tradeoff
from unteach.report.collect import RunResult
from unteach.verbs import compare


def entry(values: list[float], key: str = "prob", **more: Any) -> dict[str, Any]:
    rows = {str(i): {"avg_loss": 9.0, key: value} for i, value in enumerate(values)}
    return {"agg_value": float(np.mean(values)), "value_by_index": rows, **more}


def run(
    name: str, kind: str = "forget", rows: dict[str, Any] | None = None, **results: Any
) -> RunResult:
    return RunResult(name, kind, Path(name), {}, results, rows=rows or {})


def change(a: Any, b: Any, rows: dict[str, Any] | None = None) -> changes.Change:
    rows = rows or {}
    (one,) = changes.list_changes(
        run("a", rows=rows.get("a"), metric=a), run("b", rows=rows.get("b"), metric=b)
    )
    return one


def test_rows_that_both_have_are_paired() -> None:
    noise = np.random.default_rng(0).random(50).tolist()
    shifted = [value + 0.01 + 0.001 * (i % 2) for i, value in enumerate(noise)]
    found = change(entry(noise), entry(shifted))
    draws = bootstrap.draw_resamples("metric", 50)
    expected = np.percentile((np.array(shifted) - noise)[draws].mean(-1), [2.5, 97.5])
    assert [found.low, found.high] == pytest.approx(expected)
    assert found.method == "row by row" and found.is_significant
    assert found.difference == pytest.approx(0.0105)


def test_the_mean_of_a_truth_ratio_is_found_through_what_it_is_made_into() -> None:
    ratios = np.array([0.5, 4.0, 1.5])
    made = np.minimum(ratios, 1 / (ratios + 1e-10))
    a = {**entry(ratios.tolist(), "score"), "agg_value": float(made.mean())}
    b = {
        **entry((ratios * 2).tolist(), "score"),
        "agg_value": float(np.minimum(2 * ratios, 1 / (2 * ratios)).mean()),
    }
    found = change(a, b)
    assert found.method == "row by row"


def test_rows_whose_mean_is_not_the_aggregate_are_not_guessed_at() -> None:
    a, b = entry([0.1, 0.2]), entry([0.3, 0.4])
    found = change({**a, "agg_value": 0.9}, {**b, "agg_value": 0.8})
    assert (found.method, found.is_significant, found.low) == ("", False, None)


@pytest.mark.parametrize("other", ["more rows", "other words", "other digest"])
def test_other_rows_are_compared_by_their_intervals(other: str) -> None:
    a, b, rows = entry([0.1, 0.3], ci=[0.1, 0.3]), entry([0.7, 0.9], ci=[0.7, 0.9]), {}
    if other == "more rows":
        b = entry([0.7, 0.8, 0.9], ci=[0.7, 0.9])
    elif other == "other words":
        for value, log in (("x", a), ("y", b)):
            log["value_by_index"]["0"]["ground_truth"] = value
    else:
        rows = {name: {"forget.answer": {"digest": name}} for name in "ab"}
    found = change(a, b, rows)
    assert found.method == "from both intervals"
    half = np.hypot(0.1, 0.1)
    assert (found.low, found.high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))


def test_attacks_are_paired_in_both_halves() -> None:
    generator = np.random.default_rng(1)
    forget, holdout = generator.random(30), generator.random(30) + 0.2

    def log(shift: float) -> dict[str, Any]:
        halves = {
            "forget": entry((forget + shift).tolist(), "score"),
            "holdout": entry(holdout.tolist(), "score"),
        }
        return {**halves, "agg_value": bootstrap.auc(forget + shift, holdout)}

    same = change(log(0.0), log(0.0))
    assert (same.low, same.high, same.is_significant) == (0.0, 0.0, False)
    other = change(log(0.0), log(0.5))
    assert other.method == "row by row" and other.is_significant
    assert (
        other.low is not None
        and other.high is not None
        and other.low < other.difference < other.high < 0
    )


def test_a_difference_that_rounding_could_make_is_not_marked() -> None:
    assert not change(entry([0.5, 0.6]), entry([0.500001, 0.600001])).is_significant


def test_a_value_that_only_one_has_is_shown_alone() -> None:
    (found,) = changes.list_changes(run("a", metric=entry([0.5])), run("b"))
    assert (found.a, found.b, found.difference) == (0.5, None, None)


def test_settings_differ_key_by_key_and_whole_where_one_lacks_them() -> None:
    a = {"seed": 0, "trainer": {"handler": "NPO", "method_args": {"beta": 0.5}}, "same": [1]}
    b = {"seed": 0, "trainer": {"handler": "RMU"}, "same": [1], "more": None}
    assert list(changes.list_changed_settings(a, b)) == [
        ("trainer.handler", "NPO", "RMU"),
        ("trainer.method_args", {"beta": 0.5}, changes.ABSENT),
        ("more", changes.ABSENT, None),
    ]


def test_the_answers_that_changed_most_come_first() -> None:
    def said(*scores: float) -> dict[str, Any]:
        return {
            "agg_value": 0.5,
            "value_by_index": {
                str(i): {
                    "input": f"q{i}",
                    "ground_truth": f"t{i}",
                    "generation": str(value),
                    "rougeL_recall": value,
                }
                for i, value in enumerate(scores)
            },
        }

    found = changes.list_changed_answers(
        run("a", forget_Q_A_ROUGE=said(1, 0, 0.5)), run("b", forget_Q_A_ROUGE=said(0.8, 1, 0.5))
    )
    assert [(one.question.text, one.difference) for one in found] == [
        ("q1", 1.0),
        ("q0", pytest.approx(-0.2)),
    ]


# the front, the best, and the numbers for other programs


def placed(name: str, prob: float, utility: float, kind: str = "forget") -> RunResult:
    return RunResult(
        name,
        kind,
        Path(name),
        {"forget_Q_A_Prob": prob, "model_utility": utility, "forget_quality": prob},
        {},
    )


def test_the_front_is_of_those_that_none_beats_on_both_sides() -> None:
    gold = placed("retain", 0.2, 0.99, "retain")
    runs = [
        gold,
        placed("under", 0.1, 0.6),
        placed("on", 0.2, 0.5),
        placed("worse", 0.35, 0.5),
        placed("over", 0.5, 0.7),
    ]
    runs += [placed("twin", 0.5, 0.7), placed("full", 0.9, 1.0, "full")]
    near, quality = (view for view in tradeoff.list_views(runs))
    assert [point.name for point in near.front] == ["under", "on", "over", "twin"]
    assert [point.name for point in quality.front] == ["over", "twin"]
    alone = tradeoff.list_views(runs[1:-1])[0]  # without a retain model, less is more forgotten
    assert [point.name for point in alone.front] == ["under", "over", "twin"]


def test_the_best_of_a_column_is_no_reference() -> None:
    made = table.make_table(
        [placed("retain", 0.2, 0.99, "retain"), placed("a", 0.25, 0.5), placed("b", 0.1, 0.7)]
    )
    best = {
        column.label: [row.run.name for row in made.rows if row.cells[i].best]
        for i, column in enumerate(made.columns)
    }
    assert best == {"forget prob": ["a"], "forget quality": ["a"], "utility": ["b"]}
    assert not table.make_table([placed("a", 0.2, 0.5)]).has_best


def test_csv_and_json_keep_every_digit_and_every_gap() -> None:
    odd = run(
        'a,"b"\nc',
        forget_Q_A_Prob=entry([0.1, 0.2], ci=[0.1, 1 / 3]),
        model_utility={"agg_value": 2e-17},
    )
    odd.absent["privleak"] = "no log"
    suites = {
        "TOFU": [odd],
        "MUSE": [run("x", mia_loss={"agg_value": float("nan")}, privleak={"agg_value": -1.5})],
    }
    rows = list(csv.DictReader(io.StringIO(export.format_csv(suites))))
    assert [(row["suite"], row["run"], row["metric"]) for row in rows] == [
        ("TOFU", 'a,"b"\nc', "forget_Q_A_Prob"),
        ("TOFU", 'a,"b"\nc', "model_utility"),
        ("MUSE", "x", "privleak"),
    ]
    assert (
        float(rows[0]["value"]) == np.mean([0.1, 0.2])
        and float(rows[0]["high"]) == 1 / 3
        and rows[0]["n"] == "2"
    )
    assert float(rows[1]["value"]) == 2e-17 and rows[1]["low"] == "" and rows[1]["n"] == ""
    told = json.loads(json.dumps(export.to_json(suites), allow_nan=False))
    assert [row["value"] for row in told["values"]] == [float(row["value"]) for row in rows]
    assert told["absent"] == [
        {"suite": "TOFU", "run": 'a,"b"\nc', "metric": "privleak", "reason": "no log"}
    ]
    assert told["fronts"][0] == {
        "suite": "TOFU",
        "x": "forget_Q_A_Prob",
        "y": "model_utility",
        "runs": ['a,"b"\nc'],
    }


def test_no_interval_is_cut_short_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    compare._print_changes(
        [changes.Change("forget_Q_A_PERT_Prob", 6.2e-4, 3.5e-4, -6.1e-4, -5.7e-5, "row by row")]
    )
    assert "-6.1e-04 to -5.7e-05 *" in capsys.readouterr().out
