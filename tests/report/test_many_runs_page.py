"""A report over many runs reads values first, examples when they are shown, and shows so many as
can be read; of a few runs it shows all."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.errors import UserError
from unteach.report import answers, result_file, sets, table, token_heat, tradeoff
from unteach.report.collect import RunResult, collect, insert_starts
from unteach.report.colours import assign_tints
from unteach.report.families import Family
from unteach.report.origin import read_config
from unteach.report.page import write_page
from unteach.report.result_file import ResultFile


def build_results(num_rows: int, value: float) -> dict[str, Any]:
    texts = {
        str(index): {
            "question": f"Who is {index}?",
            "ground_truth": f"truth {index}",
            "generation": f"said {index}",
            "rougeL_recall": 0.5,
        }
        for index in range(num_rows)
    }
    scores = {str(index): {"prob": value} for index in range(num_rows)}
    return {
        "forget_Q_A_ROUGE": {"value_by_index": texts, "agg_value": value, "ci": [0.0, 1.0]},
        "forget_Q_A_Prob": {"agg_value": value, "value_by_index": scores, "n": num_rows},
        "model_utility": {"agg_value": 1 - value},
        "mia_loss": {"forget": {"value_by_index": scores}, "auc": 0.5, "agg_value": 0.5},
    }


def write_run(folder: Path, results: dict[str, Any], indent: int | None = 1) -> Path:
    folder.mkdir(parents=True)
    (folder / "TOFU_EVAL.json").write_text(json.dumps(results, indent=indent))
    return folder


def build_runs(count: int, results: dict[str, Any]) -> list[RunResult]:
    runs = []
    for number in range(count):
        kind = "retain" if number == 0 else "forget"
        name = f"run{number}"
        runs.append(RunResult(name, kind, Path(name), {}, results))
    return runs


@pytest.mark.parametrize("indent", [1, 4, None])
def test_a_file_of_results_is_read_the_same_however_it_is_laid_out(
    tmp_path: Path, indent: int | None
) -> None:
    results = build_results(500, 0.25)
    read = ResultFile(write_run(tmp_path / "a", results, indent) / "TOFU_EVAL.json", "a")
    assert dict(read) == results
    assert read.texts == {"forget_Q_A_ROUGE"}
    assert read.heads["forget_Q_A_ROUGE"] == {"agg_value": 0.25, "ci": [0.0, 1.0], "n": 500}
    assert read.heads["forget_Q_A_Prob"]["n"] == 500
    rows = list(read.iterate_examples("forget_Q_A_ROUGE"))
    assert rows == list(results["forget_Q_A_ROUGE"]["value_by_index"].values())
    assert list(read.iterate_examples("model_utility")) == []
    assert read.get("absent") is None


def test_values_are_read_without_parsing_an_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []

    def parse(text: bytes) -> dict[str, Any]:
        parsed.append(text)
        return whole(text)

    whole = result_file.parse_members
    monkeypatch.setattr(result_file, "parse_members", parse)
    write_run(tmp_path / "a", build_results(2000, 0.25))
    (run,) = collect([("a", "forget", tmp_path / "a")])
    assert run.value("forget_Q_A_Prob") == 0.25
    assert run.size("forget_Q_A_ROUGE") == 2000
    assert run.interval("forget_Q_A_ROUGE") == (0.0, 1.0)
    assert not any(b"generation" in text for text in parsed)
    first = next(run.results.iterate_examples("forget_Q_A_ROUGE"))
    assert first["generation"] == "said 0"
    assert b"said 1999" not in b"".join(parsed), "the first examples need not the last"


def test_an_example_that_is_broken_is_said_when_it_is_read(tmp_path: Path) -> None:
    file = write_run(tmp_path / "a", build_results(3, 0.25)) / "TOFU_EVAL.json"
    file.write_text(file.read_text().replace('"said 1"', '"said 1'))
    (run,) = collect([("a", "forget", tmp_path / "a")])
    with pytest.raises(UserError, match=r"run 'a': .*TOFU_EVAL.json is not whole JSON"):
        answers.collect_question_sets([run])


def test_of_many_models_a_page_shows_some_questions_and_says_of_how_many() -> None:
    few = answers.to_data(answers.collect_question_sets(build_runs(20, build_results(500, 0.5))))
    assert len(few[0]["questions"]) == few[0]["count"] == 500
    many = answers.to_data(answers.collect_question_sets(build_runs(200, build_results(500, 0.5))))
    assert len(many[0]["questions"]) == answers.MOST_ANSWERS // 200
    assert many[0]["count"] == 500


def test_of_a_large_set_only_the_first_examples_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MOST_READ", 600)
    (run,) = collect([("a", "", write_run(tmp_path / "a", build_results(5000, 0.5)))])
    (only,) = answers.collect_question_sets([run])
    assert len(only.questions) == 600
    (data,) = answers.to_data([only])
    assert data["count"] == 5000
    assert len(data["questions"]) == 500


def test_a_long_text_is_cut_and_says_how_long_it_is() -> None:
    results = build_results(2, 0.5)
    results["forget_Q_A_ROUGE"]["value_by_index"]["0"]["generation"] = "long " * 10_000
    (data,) = answers.to_data(answers.collect_question_sets(build_runs(1, results)))
    shown = data["questions"][0][2][0][0]
    assert shown.startswith("long long")
    assert shown.endswith("(the first 4,000 of 50,000 characters)")
    assert data["questions"][1][2][0][0] == "said 1"


def test_tokens_that_runs_share_are_said_once_and_of_many_runs_some_are() -> None:
    runs = build_runs(400, build_results(1, 0.5))
    for run in runs:
        for number in range(30):
            row = {
                "prompt": f"{number}?",
                "answer": f"{number}",
                "tokens": ["a", "b"],
                "logprob": [-1.0, -2.0],
                "length": 2,
            }
            run.tokens.append(row)
    shown, count = token_heat.collect_token_answers(runs)
    assert len(shown) == token_heat.MOST_OF_ALL // 400
    assert count == 30
    _, _, by_run = token_heat.to_data(shown)[0]
    assert by_run[0][0] == ["a", "b"]
    assert {seen[0] is None for seen in by_run[1:]} == {True}
    shown, count = token_heat.collect_token_answers(runs[:3])
    assert len(shown) == count == 30


def test_of_many_points_some_of_the_front_have_names_and_all_say_theirs() -> None:
    runs = []
    for number in range(100):
        values = {"forget_Q_A_Prob": number / 100, "model_utility": number / 100}
        runs.append(RunResult(f"run{number}", "forget", Path(f"run{number}"), values, {}))
    tints = assign_tints({"TOFU": runs})
    (view,) = tradeoff.list_views(runs)
    picture = tradeoff.build_picture(view, runs, tints)
    assert 0 < sum(bool(series.label) for series in picture.series) <= 16
    told = [point.hover for series in picture.series for point in series.points if point.hover]
    assert sorted(text.partition("\n")[0] for text in told) == sorted(run.name for run in runs)
    assert "Of 100 models" in picture.note
    (view,) = tradeoff.list_views(runs[:60])
    picture = tradeoff.build_picture(view, runs[:60], tints)
    assert sum(bool(series.label) for series in picture.series) == 60
    assert "models, some" not in picture.note


def test_the_front_is_what_no_other_beats() -> None:
    runs = []
    for number, (forgotten, kept) in enumerate(
        [(0.1, 0.5), (0.1, 0.5), (0.1, 0.4), (0.2, 0.5), (0.2, 0.6), (0.3, 0.9), (0.4, 0.8)]
    ):
        values = {"forget_Q_A_Prob": forgotten, "model_utility": kept}
        runs.append(RunResult(f"run{number}", "forget", Path(f"run{number}"), values, {}))
    (view,) = tradeoff.list_views(runs)
    assert [point.name for point in view.front] == ["run0", "run1", "run4", "run5"]


def test_lines_are_drawn_of_so_many_models_as_can_be_told_apart() -> None:
    runs = build_runs(500, {})
    drawn = sets.choose_drawn(runs)
    assert len(drawn) == 60 and drawn[0] == 0, "the retain model is among them"
    assert "60 of 500 models" in sets.note_drawn(runs, drawn)
    assert sets.choose_drawn(runs[:60]) == list(range(60))
    assert sets.note_drawn(runs[:60], list(range(60))) == ""


def test_a_terminal_shows_the_best_of_many_rows_and_says_how_many_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = []
    for number in range(300):
        values = {"forget_Q_A_Prob": (number + 1) / 1000, "model_utility": number / 300}
        runs.append(RunResult(f"run{number}", "forget", Path(f"run{number}"), values, {}))
    table.print_table(runs)
    printed = capsys.readouterr().out
    assert "100 more rows are not printed; report.md, .csv and .html have all" in printed
    assert "run299" in printed, "the best utility"
    table.print_table(runs[:50])
    assert "more rows" not in capsys.readouterr().out


def test_what_many_runs_started_from_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def read(path: Path) -> Any:
        opened.append(path)
        return whole(path)

    whole = result_file.read_bytes
    monkeypatch.setattr(result_file, "read_bytes", read)
    for number in range(5):
        folder = tmp_path / f"run{number}"
        write_run(folder / "evals", build_results(3, 0.1 * number))
        start = write_run(folder / "evals_before", build_results(3, 0.9))
        (start / "TOFU_BASIS.json").write_text('{"weights": "one"}')
    runs = collect([(f"run{n}", "forget", tmp_path / f"run{n}") for n in range(5)])
    assert len([path for path in opened if path.parent.name == "evals_before"]) == 1
    assert [run.name for run in insert_starts(runs)][:2] == ["before", "run0"]


def test_a_family_of_long_names_is_reported(tmp_path: Path) -> None:
    runs = tuple(build_runs(5, build_results(1, 0.5)))
    named = tuple(RunResult("x" * 100 + run.name, "forget", run.folder, {}, {}) for run in runs)
    assert read_config(Family("NPO", "", "forget", named).merge().folder) == {}


def test_a_page_of_many_runs_has_every_run_in_its_table(tmp_path: Path) -> None:
    runs = build_runs(120, build_results(300, 0.5))
    for number, run in enumerate(runs):
        run.summary.update({"forget_Q_A_Prob": number / 120, "model_utility": 0.5})
    page = write_page({"TOFU": runs}, tmp_path / "report.html", "Many").read_text()
    for run in runs:
        assert run.name in page
    assert page.count("said 0") <= 120 * 2
    assert page.count("Who is ") <= 2 * answers.count_shown(120)
