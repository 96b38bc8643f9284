"""A suite of one's own: its names, roles and directions are read from its files, and judged like
any benchmark's."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from unteach.errors import UserError
from unteach.report import changes, export, files, find, table, tradeoff, trajectories
from unteach.report.collect import RunResult, collect, insert_starts
from unteach.verbs.start import start

DESCRIBED = {
    "gone_said": {
        "label": "forget ROUGE",
        "role": "forget",
        "better": "near retain",
        "meaning": "What it still says",
        "decimals": 2,
    },
    "gone_loss": {
        "label": "forget loss",
        "role": "forget",
        "better": "higher",
        "meaning": "",
        "decimals": 3,
    },
    "kept_said": {
        "label": "kept ROUGE",
        "role": "retain",
        "better": "near before",
        "meaning": "",
        "decimals": 3,
    },
    "kept_loss": {
        "label": "kept loss",
        "role": "retain",
        "better": "lower",
        "meaning": "",
        "decimals": 3,
    },
    "odd": {"label": "odd", "role": None, "better": None, "meaning": "", "decimals": 3},
}


def save(
    folder: Path, values: dict[str, float], described: dict[str, Any] | None = DESCRIBED
) -> Path:
    """An evaluation's files of the suite `own`, as a run writes them."""
    folder.mkdir(parents=True)
    rows = {
        "0": {
            "input": "<|user|>Who?<|assistant|>",
            "question": "Who?",
            "ground_truth": "Ann",
            "generation": "Bo",
        }
    }
    found: dict[str, Any] = {
        name: {"agg_value": value, "n": 4, "ci": None} for name, value in values.items()
    }
    found["gone_said"]["value_by_index"] = rows
    (folder / "OWN_EVAL.json").write_text(json.dumps(found))
    (folder / "OWN_SUMMARY.json").write_text(json.dumps(values))
    if described is not None:
        (folder / "OWN_METRICS.json").write_text(json.dumps(described))
    return folder


def values(said: float, loss: float, kept: float, kept_loss: float) -> dict[str, float]:
    return {
        "gone_said": said,
        "gone_loss": loss,
        "kept_said": kept,
        "kept_loss": kept_loss,
        "odd": 1.0,
    }


STARTED = values(0.95, 0.1, 0.9, 0.1)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three runs that started from one model, and the retain model of what they forget."""
    study = tmp_path / "study"
    save(study / "retain" / "evals", values(0.3, 2.0, 0.92, 0.1))
    for name, measured in {
        "near": values(0.35, 1.5, 0.88, 0.2),
        "far": values(0.6, 1.0, 0.95, 0.15),
        "wreck": values(0.3, 40.0, 0.1, 9.0),
    }.items():
        save(study / name / "evals", measured)
        save(study / name / "evals_before", STARTED)
        (study / name / "config.yaml").write_text("mode: unlearn\ntrainer: {handler: NPO}\n")
    return study


def read(study: Path) -> list[RunResult]:
    kinds = {"retain": "retain", "near": "forget", "far": "forget", "wreck": "forget"}
    return insert_starts(
        collect([(name, kind, study / name) for name, kind in kinds.items()], "OWN")
    )


def test_columns_are_called_and_ordered_as_the_suite_says(study: Path) -> None:
    made = table.make_table(read(study))
    heads = [(column.label, column.better, column.role) for column in made.columns]
    assert heads == [
        (one["label"], one["better"] or "", one["role"] or "") for one in DESCRIBED.values()
    ]
    # two decimals
    assert next(row.cells[0].text for row in made.rows if row.run.name == "near") == "0.35"


def test_what_runs_started_from_is_one_reference(study: Path) -> None:
    runs = read(study)
    assert [(run.name, run.kind) for run in runs] == [
        ("retain", "retain"),
        ("before", "start"),
        ("near", "forget"),
        ("far", "forget"),
        ("wreck", "forget"),
    ]
    save(study / "other" / "evals", STARTED)
    save(study / "other" / "evals_before", values(0.5, 0.5, 0.5, 0.5))
    alone = insert_starts(collect([("other", "forget", study / "other")], "OWN"))
    assert [(run.name, run.kind) for run in alone] == [
        ("other, before", "start"),
        ("other", "forget"),
    ]
    found, _ = find.find_runs([str(study)])
    assert sorted(one.name for one in found) == ["far", "near", "other", "retain", "wreck"]


def test_the_best_is_judged_as_the_suite_says_and_no_wreck_is_the_best(study: Path) -> None:
    made = table.make_table(read(study))
    best = {
        column.metric: [row.run.name for row in made.rows if row.cells[place].best]
        for place, column in enumerate(made.columns)
    }
    # wreck says as little as the retain model and has the highest forget loss, but it has lost what
    # it was to keep
    assert best == {
        "gone_said": ["near"],
        "gone_loss": ["near"],
        "kept_said": ["near"],
        "kept_loss": ["far"],
        "odd": [],
    }
    assert [row.run.name for row in made.rows if row.is_gone] == ["wreck"]
    assert "| wreck (utility gone) | 0.30 |" in table.format_markdown(read(study))


def test_utility_is_judged_by_each_runs_own_start(tmp_path: Path) -> None:
    for name, started in {"same": 0.4, "lost": 0.9}.items():
        save(tmp_path / name / "evals", values(0.2, 1.0, 0.4, 0.1))
        save(tmp_path / name / "evals_before", values(0.9, 0.1, started, 0.1))
    runs = collect([(name, "forget", tmp_path / name) for name in ("same", "lost")], "OWN")
    assert [row.run.name for row in table.make_table(runs).rows if row.is_gone] == ["lost"]


def utilities(**utility: float) -> set[str]:
    kinds = {"full": "full", "retain": "retain"}
    runs = [
        RunResult(name, kinds.get(name, "forget"), Path(name), {"model_utility": value}, {})
        for name, value in utility.items()
    ]
    return {row.run.name for row in table.make_table(runs).rows if row.is_gone}


def test_utility_is_gone_below_half_of_what_there_was() -> None:
    assert utilities(full=0.8, a=0.41, b=0.39, c=0.0) == {"b", "c"}
    assert utilities(full=0.2, a=0.15, b=0.9) == set()
    assert utilities(retain=0.8, a=0.3) == {"a"}
    assert utilities(a=0.6, b=0.1) == {"b"}  # with no reference, beside the best of them
    assert utilities(full=0.1, retain=0.0) == set()
    assert utilities(a=0.0) == set()


def test_any_forget_metric_is_plotted_against_any_kept_one(study: Path) -> None:
    shown = {(view.x.metric, view.y.metric): view for view in tradeoff.list_views(read(study))}
    assert list(shown) == [
        (x, y) for y in ("kept_said", "kept_loss") for x in ("gone_said", "gone_loss")
    ]
    default = shown["gone_said", "kept_said"]
    assert (default.x.label, default.y.label) == ("forget ROUGE", "kept ROUGE")
    assert default.gold_x == [0.3]
    assert (
        default.better == "↖ better: kept ROUGE near what it was before, and nearer the gold line"
    )
    assert [point.name for point in default.front] == ["near"]
    losses = shown["gone_loss", "kept_loss"]
    assert losses.better == "↘ better: down and to the right"
    assert losses.gold_x == []
    assert [point.name for point in losses.front] == ["far", "near"]


def test_every_file_of_a_report_names_what_the_suite_names(study: Path, tmp_path: Path) -> None:
    page, notes = files.write_report({"OWN": read(study)}, tmp_path / "out", "Own")
    assert notes == []
    assert {file.name for file in page.parent.iterdir()} >= {
        "report.png",
        "report.html",
        "report.csv",
        "report.md",
    }
    text = page.read_text(encoding="utf-8")
    assert "What it still says (<code>gone_said</code>; good: near retain)" in text
    assert "where it started" in text and "unlearned, utility gone" in text
    rows = list(csv.DictReader(io.StringIO((page.parent / "report.csv").read_text())))
    near = next(row for row in rows if (row["run"], row["metric"]) == ("near", "kept_said"))
    assert (near["label"], near["role"], near["better"]) == ("kept ROUGE", "retain", "near before")
    assert (
        "| run | forget ROUGE | forget loss | kept ROUGE | kept loss | odd |"
        in (page.parent / "report.md").read_text()
    )


def test_the_bare_question_heads_an_answer(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start("report", [str(study), f"out={study.parent / 'out'}"])
    capsys.readouterr()
    data = (study.parent / "out" / "report.html").read_text(encoding="utf-8")
    assert '["Who?","Ann",' in data and "|user|" not in data


def test_a_run_moves_from_what_it_started_from(study: Path) -> None:
    (study / "near" / "metrics.jsonl").write_text('{"step": 30, "loss": 1.0}\n')
    collected = trajectories.collect_trajectories(read(study), "OWN")
    moved = {one.column.metric: one.lines for one in collected}
    place = [run.name for run in read(study)].index("near")
    assert moved["gone_said"] == [trajectories.Line(place, [0, 30], [0.95, 0.35])]


def test_compare_still_takes_two_runs_one_by_one(study: Path) -> None:
    first, second = collect([(name, "forget", study / name) for name in ("near", "far")], "OWN")
    found = {one.metric: one for one in changes.list_changes(first, second)}
    assert (found["kept_said"].a, found["kept_said"].b) == (0.88, 0.95)


def test_counts_of_rows_are_no_metrics(tmp_path: Path) -> None:
    """Neither in files of today, which keep them apart, nor in older ones, which have them among
    what is absent."""
    new = save(tmp_path / "new", values(0.1, 0.1, 0.1, 0.1), described=None)
    (new / "OWN_NOTES.json").write_text(
        json.dumps({"2 rows skipped in keep.answer": "empty answer"})
    )
    old = save(tmp_path / "old", values(0.1, 0.1, 0.1, 0.1), described=None)
    counts = [
        f"{what} in keep.answer"
        for what in ("rows skipped", "answers cut", "boundaries moved", "continuations cut")
    ]
    absent = {**dict.fromkeys(counts, "1: why"), "privleak": "no retain log"}
    (old / "OWN_ABSENT.json").write_text(json.dumps(absent))
    runs = collect([("new", "", new), ("old", "", old)], "OWN")
    metrics = [column.metric for column in table.make_table(runs).columns]
    assert metrics == sorted([*STARTED, "privleak"])
    assert runs[0].notes == {"2 rows skipped in keep.answer": "empty answer"}
    assert list(runs[1].notes) == counts and runs[1].absent == {"privleak": "no retain log"}
    told = export.to_json({"OWN": runs})
    assert [one["metric"] for one in told["absent"]] == ["privleak"]
    assert len(told["notes"]) == 5
    page, _ = files.write_report({"OWN": runs}, tmp_path / "out", "Own")
    assert "What was left out or cut" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("forget", "odd: must be a mapping, got .forget."),
        (
            {"label": "a", "better": "up"},
            r"odd\.better: must be one of higher, lower, near retain, near before, near 0, got .up.",
        ),
        (
            {"label": "a", "role": "keep"},
            r"odd\.role: must be one of train, forget, retain, holdout, got .keep.",
        ),
    ],
)
def test_a_description_that_says_nothing_is_refused(
    tmp_path: Path, entry: Any, message: str
) -> None:
    folder = save(tmp_path / "run", STARTED, {"odd": entry})
    with pytest.raises(UserError, match=message):
        collect([("run", "", folder)], "OWN")


def test_a_suite_that_describes_a_part_adds_its_columns_to_the_known_ones() -> None:
    from unteach.report.columns import read_descriptions

    described = read_descriptions({"mine": {"label": "my own"}}, "run", Path("x"))
    run = RunResult(
        "a",
        "",
        Path("a"),
        {"mine": 1.0, "model_utility": 0.5, "other": 2.0},
        {},
        described=described,
    )
    assert [column.label for column in table.make_table([run]).columns] == ["utility", "my own"]


HOSTILE = "=1+1|<script>alert(1)</script>\x1b[2J"


def test_names_of_others_are_neutral_wherever_they_go(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {
        **DESCRIBED,
        "gone_said": {**DESCRIBED["gone_said"], "label": HOSTILE, "meaning": HOSTILE},
    }
    for run in study.iterdir():
        evals = run / "evals"
        (evals / "OWN_METRICS.json").write_text(json.dumps(described))
        rows = json.loads((evals / "OWN_EVAL.json").read_text())
        rows["gone_said"]["value_by_index"]["0"] |= {
            "question": HOSTILE,
            "ground_truth": HOSTILE,
            "generation": HOSTILE,
        }
        (evals / "OWN_EVAL.json").write_text(json.dumps(rows))
    start("report", [str(study), f"out={study.parent / 'out'}"])
    assert "\x1b" not in capsys.readouterr().out
    page = (study.parent / "out" / "report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "\\u003cscript" in page
    assert "=1+1\\|\\<script\\>" in (study.parent / "out" / "report.md").read_text()
    cells = list(csv.reader(io.StringIO((study.parent / "out" / "report.csv").read_text())))
    assert any(f"'{HOSTILE}" in row for row in cells)
    assert not any(cell.startswith("=") for row in cells for cell in row)
