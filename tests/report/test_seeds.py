"""Runs over seeds and forget sets: which belong together, their means, and how they moved while
training."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from unteach.cli import main
from unteach.report import cross_tables, families, files, sets, tradeoff, trajectories
from unteach.report.collect import RunResult, collect
from unteach.report.colours import assign_tints
from unteach.report.columns import find_column
from unteach.report.sections import build_sections
from unteach.report.table import make_table

SEEDS = (0, 1, 2)
SETS = ({"by": "book", "fraction": 0.13}, {"by": "author", "fraction": 0.1})
METHODS = {"retain": "SFT", "arc_ascent": "GradAscent", "arc_kl": "GradDiff"}
SECTIONS = (
    "numbers",
    "trade",
    "crossed",
    "moved",
    "spread",
    "tokens",
    "answers",
    "making",
)
METRICS = ("forget_mean_tr", "forget_quality_2", "retain_model_utility_3")


def value(name: str, metric: str, seed: int, chosen: dict[str, Any]) -> float:
    return (
        list(METHODS).index(name) / 4 + METRICS.index(metric) / 100 + seed / 10 + chosen["fraction"]
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed in SEEDS:
        for chosen in SETS:
            for name, handler in METHODS.items():
                folder = tmp_path / f"{name}_seed{seed}_{chosen['by']}-{chosen['fraction']}"
                found = {metric: value(name, metric, seed, chosen) for metric in METRICS}
                write(
                    folder / "evals" / "ARC_EVAL.json",
                    {metric: {"agg_value": v} for metric, v in found.items()},
                )
                write(folder / "evals" / "ARC_SUMMARY.json", found)
                for step in (10, 5):
                    earlier = {metric: v + step for metric, v in found.items()}
                    write(folder / f"checkpoint-{step}" / "evals" / "ARC_SUMMARY.json", earlier)
                write(folder / "metrics.jsonl", {"step": 12, "loss": 1.0})
                trainer = {"handler": handler, "method_args": {}, "args": {"learning_rate": 1e-4}}
                mode = "train" if name == "retain" else "unlearn"
                config = {
                    "mode": mode,
                    "seed": seed,
                    "forget_set": chosen,
                    "forget_split": "forget10",
                    "trainer": trainer,
                }
                config["data"] = {"train": {"rows": {"args": {"hf_args": {"name": "retain90"}}}}}
                (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.fixture
def runs(study: Path) -> list[RunResult]:
    kinds = {"retain": "retain", "arc_ascent": "forget", "arc_kl": "forget"}
    folders = sorted(study.iterdir())
    return collect([(f.name, kinds[f.name.partition("_seed")[0]], f) for f in folders], "ARC")


def test_runs_that_differ_in_their_seed_alone_are_one_family(runs: list[RunResult]) -> None:
    found = families.group_families(runs)
    assert {(one.method, one.data) for one in found} == {
        (m, d) for m in METHODS for d in ("book 0.13", "author 0.1")
    }
    assert all(len(one.runs) == len(SEEDS) for one in found)


def test_another_learning_rate_is_another_family(runs: list[RunResult]) -> None:
    config = runs[0].folder / "config.yaml"
    config.write_text(config.read_text().replace("0.0001", "0.001"))
    assert sorted(len(one.runs) for one in families.group_families(runs)) == [1, 2, 3, 3, 3, 3, 3]


def test_where_runs_landed_stands_beside_what_was_measured(
    study: Path, runs: list[RunResult]
) -> None:
    landed = [run for run in runs if run.name.startswith("arc_kl") and "author" in run.name]
    for run, kl in zip(landed, (0.018, 0.019, 0.02), strict=True):
        write(run.folder / "landing.json", {"a": 0.5, "kl": kl, "budget": 0.02})
    found = collect([(run.name, run.kind, run.folder) for run in landed], "ARC")
    table = make_table(found)
    assert [column.label for column in table.columns][-2:] == ["KL from before", "landed at"]
    assert [cell.text for cell in table.rows[0].cells][-2:] == ["0.0180", "0.500"]
    (family,) = families.group_families(found)
    assert family.mean("landing_kl") == pytest.approx(0.019)
    beside = collect([(run.name, run.kind, run.folder) for run in runs[:1]], "ARC")
    assert beside[0].value("landing_kl") is None


def test_a_run_that_names_another_of_its_seed_is_of_the_same_family(runs: list[RunResult]) -> None:
    for run in runs:
        config = yaml.safe_load((run.folder / "config.yaml").read_text())
        config["trainer"]["method_args"]["finetuned"] = f"saves/s/taught_seed{config['seed']}"
        (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert {len(family.runs) for family in families.group_families(runs)} == {len(SEEDS)}


def retain_configs(runs: list[RunResult]) -> list[Path]:
    return [
        run.folder / "config.yaml" for run in runs if run.kind == "retain" and "book" in run.name
    ]


def change(file: Path, **values: Any) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))


def test_runs_on_other_files_are_no_family(runs: list[RunResult]) -> None:
    change(retain_configs(runs)[0], data={"train_file": "mine.csv"})
    assert sorted(len(one.runs) for one in families.group_families(runs))[:3] == [1, 2, 3]


def test_runs_of_one_seed_are_no_family(runs: list[RunResult]) -> None:
    first, second, _ = retain_configs(runs)
    change(first, seed=yaml.safe_load(second.read_text())["seed"])
    assert sorted(len(one.runs) for one in families.group_families(runs))[:4] == [1, 1, 1, 3]


def test_means_and_deviations_are_those_of_the_values(runs: list[RunResult]) -> None:
    for one in families.group_families(runs):
        chosen = next(chosen for chosen in SETS if one.data.startswith(chosen["by"]))
        for metric in METRICS:
            values = [value(one.method, metric, seed, chosen) for seed in SEEDS]
            assert one.mean(metric) == pytest.approx(mean(values))
            assert one.deviation(metric) == pytest.approx(stdev(values))
            shown = one.merge()
            assert shown.value(metric) == pytest.approx(mean(values)) and shown.size(metric) == len(
                SEEDS
            )
            assert shown.interval(metric) == pytest.approx(
                (mean(values) - stdev(values), mean(values) + stdev(values))
            )


def test_one_seed_has_no_means_to_show(runs: list[RunResult]) -> None:
    assert families.average_over_seeds([run for run in runs if "seed0" in run.name]) == []


def test_forget_sets_and_methods_are_crossed(runs: list[RunResult]) -> None:
    tables = cross_tables.build_cross_tables(runs)
    assert [table.column.metric for table in tables] == [
        "forget_quality_2",
        "forget_mean_tr",
        "retain_model_utility_3",
    ]
    ratio = tables[1]
    assert set(ratio.forget_sets) == {"book 0.13", "author 0.1"}
    assert {row.method for row in ratio.rows} == set(METHODS)
    [row] = [row for row in ratio.rows if row.method == "arc_kl"]
    cell = row.cells[ratio.forget_sets.index("book 0.13")]
    assert cell is not None
    assert (cell.mean, cell.deviation) == pytest.approx((0.5 + 0.1 + 0.13, 0.1))
    markdown = cross_tables.format_markdown(tables)
    assert "| arc_kl | " in markdown and "0.730 ± 0.100" in markdown
    lines = {series.name: series for series in cross_tables.build_picture(ratio).series}
    points = {point.hover: point.spread for point in lines["arc_kl"].points}
    assert points["arc_kl\nbook 0.13: 0.730 ± 0.100"] == pytest.approx(0.1)


def test_one_forget_set_is_not_crossed(runs: list[RunResult]) -> None:
    assert cross_tables.build_cross_tables([run for run in runs if "book" in run.name]) == []


def test_values_are_followed_from_checkpoint_to_checkpoint_to_the_final_model(
    runs: list[RunResult],
) -> None:
    moved = trajectories.collect_trajectories(runs, "ARC")
    of_ratio = next(one for one in moved if one.column.metric == "forget_mean_tr")
    assert len(of_ratio.lines) == len(runs)
    for line in of_ratio.lines:
        final = runs[line.run_index].value("forget_mean_tr")
        assert line.steps == [5, 10, 12]
        assert line.values == pytest.approx([final + 5, final + 10, final])
    assert trajectories.collect_trajectories(runs, "TOFU") == []


def test_charts_are_drawn_and_earlier_ones_removed(runs: list[RunResult], tmp_path: Path) -> None:
    tints = assign_tints({"ARC": runs})
    files.write_charts([build_sections("ARC", runs, tints)], tmp_path)
    for name in ("forgotten", "training"):
        assert (tmp_path / f"report-{name}.png").read_bytes().startswith(b"\x89PNG")
    files.write_charts([build_sections("ARC", [], tints)], tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_the_report_of_a_study_shows_it_all(
    study: Path, tmp_path_factory: Any, capsys: Any
) -> None:
    out = tmp_path_factory.mktemp("report")
    main(["report", str(study), f"out={out}"])
    assert "means over seeds" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert '"ARC over seeds"' in page
    by_section = dict(zip(SECTIONS, page.split('<section aria-labelledby="')[1:], strict=True))
    drawn = {name: part.count("<svg") for name, part in by_section.items()}
    assert drawn["crossed"] == len(METRICS)
    assert drawn["moved"] == 3 * len(METRICS), "all of it, and each forget set"
    assert "arc_kl, book 0.13" in (out / "report.csv").read_text()
    assert "by what is forgotten" in (out / "report.md").read_text()
    assert "18 models beside each other" in page and "24 models" not in page
    assert page.count(f"Every measured value ({len(METRICS)} metrics)") == 6, (
        "all and over seeds, and two sets of each"
    )


def test_references_under_several_names_are_called_by_their_part(study: Path) -> None:
    folders = [folder for folder in sorted(study.iterdir()) if folder.name.startswith("retain")]
    named = [(f"run{number}", "retain", folder) for number, folder in enumerate(folders)]
    assert {family.method for family in families.group_families(collect(named, "ARC"))} == {
        "retain"
    }


def test_p_values_move_on_a_logarithmic_axis() -> None:
    run, line = RunResult("a", "", Path("a"), {}, {}), trajectories.Line(0, [5, 10], [1e-30, 0.5])
    shown = {}
    for metric in ("forget_quality", "model_utility"):
        moved = trajectories.Trajectory(find_column(metric, {}), [line])
        picture = trajectories.build_picture(moved, [run], {"a": 0})
        shown[metric] = (picture.y.is_log, [point.y for point in picture.series[0].points])
    assert shown == {
        "forget_quality": (True, [1e-20, 0.5]),
        "model_utility": (False, [1e-30, 0.5]),
    }


def test_full_evaluations_of_an_arc_study_are_one_over_seeds(tmp_path: Path) -> None:
    """Numbers 0 and 1 differ in the seed of the full model alone; number 2 was taught otherwise."""
    runs = []
    for number, rate in enumerate((1e-4, 1e-4, 1e-3)):
        taught = {
            "mode": "train",
            "seed": number,
            "trainer": {"handler": "SFT", "args": {"learning_rate": rate}},
        }
        path = {"model_args": {"pretrained_model_name_or_path": f"saves/x/full_{number}"}}
        for name, config in {
            f"full_{number}": taught,
            f"full_eval_{number}": {
                "mode": "eval",
                "seed": number,
                "forget_set": SETS[0],
                "model": path,
            },
        }.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        folder = tmp_path / f"full_eval_{number}"
        runs.append(RunResult(folder.name, "evaluated", folder, {}, {}, forgets="book 0.13"))
    found = families.group_families(runs)
    assert [[run.name for run in family.runs] for family in found] == [
        ["full_eval_0", "full_eval_1"],
        ["full_eval_2"],
    ]
    assert found[0].name == "full_eval, book 0.13"


def test_each_forget_set_is_shown_apart(runs: list[RunResult], tmp_path: Path) -> None:
    """What forgets one set is no better than what forgets another: among all there is no front and
    no best."""
    shown = sets.split_by_forget_set(
        {"ARC": runs, "ARC over seeds": families.average_over_seeds(runs)}
    )
    both = ["author 0.1", "book 0.13"]
    assert list(shown) == ["ARC", *(f"ARC: {data}" for data in both), "ARC over seeds"] + [
        f"ARC over seeds: {data}" for data in both
    ]
    for name, of_one in shown.items():
        single = ":" in name
        assert len({run.forgets for run in of_one}) == (1 if single else 2)
        assert all(bool(view.front) == single for view in tradeoff.list_views(of_one))
        assert make_table(of_one).has_best == single
    files.write_report({"ARC": runs}, tmp_path / "out", "sets")
    assert {file.name for file in (tmp_path / "out").glob("*.png")} >= {
        "report.png",
        "report-arc-author-0.1.png",
        "report-arc-book-0.13.png",
    }
    fronts = json.loads((tmp_path / "out" / "report.json").read_text())["fronts"]
    assert {front["suite"] for front in fronts} == {f"ARC: {data}" for data in both}
    assert (tmp_path / "out" / "report.csv").read_text().count(
        "ARC,arc_kl_seed0_book-0.13,"
    ) == len(METRICS)


def test_families_of_one_name_say_how_each_was_trained(runs: list[RunResult]) -> None:
    for run in runs:
        if run.name.startswith("arc_kl_seed0"):
            config = run.folder / "config.yaml"
            config.write_text(config.read_text().replace("0.0001", "0.001"))
    named = {one.method for one in families.group_families(runs) if one.method.startswith("arc_kl")}
    assert named == {"arc_kl (learning_rate=0.001)", "arc_kl (learning_rate=0.0001)"}
