"""Studies of rows of one's own, which name no benchmark."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from unteach.config import compose
from unteach.data import user_files
from unteach.data.io import sources
from unteach.errors import Diverged, UserError
from unteach.studies import compose_runs
from unteach.studies.expansion import expand
from unteach.studies.plan import PlannedRun
from unteach.verbs import study

ROWS = [(f"Who wrote book {number}?", f"Author {number} did.") for number in range(6)]
STUDY = {
    "name": "mine",
    "full": {
        "model": "MODEL",
        "data": "all.csv",
        "template": "qa",
        "trainer.args.num_train_epochs": 3,
    },
    "retain": {"data": "kept.csv"},
    "forget": [
        {"trainer": "GradDiff", "forget": "gone.csv", "retain": "kept.csv"},
        {"trainer": "GradAscent", "forget": "gone.csv", "retain": "kept.csv"},
    ],
}


@pytest.fixture
def place(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "MODEL").symlink_to(tiny_folder)
    write(tmp_path / "all.csv", ROWS)
    write(tmp_path / "gone.csv", ROWS[:2])
    write(tmp_path / "other.csv", ROWS[2:3])
    write(tmp_path / "kept.csv", ROWS[3:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(
    file: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("question", "answer")
) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(header)
        writer.writerows(rows)


def planned(**changes: Any) -> dict[str, PlannedRun]:
    return {run.name: run for run in expand({**STUDY, **changes})}


def words(run: PlannedRun) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in run.overrides)


def test_every_run_reads_its_rows_and_composes(place: Path) -> None:
    runs = planned()
    assert list(runs) == ["retain", "full", "retain_eval", "full_eval", "GradDiff", "GradAscent"]
    compose_runs.check(list(runs.values()))
    read = {name: compose.compose(run.config_name, run.overrides) for name, run in runs.items()}
    assert read["retain"].data.files.train_file == "kept.csv"
    assert read["retain"].trainer.args["num_train_epochs"] == 3
    assert not read["full"].eval
    for name in ("full_eval", "GradDiff"):
        assert list(read[name].eval) == ["rows"]
        assert (read[name].data.files.forget_file, read[name].data.files.retain_file) == (
            "gone.csv",
            "kept.csv",
        )
        assert read[name].model.template_args.kind == "qa"
    assert words(runs["GradDiff"])["retain_logs_path"] == "saves/mine/retain_eval"
    assert runs["full_eval"].after == ("full", "retain_eval")
    # The model in this folder is what full starts from; the others start from full.
    assert words(runs["GradDiff"])["model"] == "auto"


def test_a_file_with_marks_is_all_there_is_to_say(place: Path) -> None:
    marked = [(*row, str(int(number < 2))) for number, row in enumerate(ROWS)]
    write(place / "all.csv", marked, ("question", "answer", "forget"))
    runs = planned(retain=None, forget={"trainer": "GradDiff"})
    assert list(runs) == ["full", "full_eval", "GradDiff"]
    assert (
        words(runs["GradDiff"])["data.train_file"]
        == words(runs["full_eval"])["data.train_file"]
        == "all.csv"
    )
    compose_runs.check(list(runs.values()))


def test_the_retain_model_learns_what_a_file_does_not_mark(place: Path) -> None:
    """Also where all that it says is that there is one; a plan says which rows a method only
    measures."""
    marked = [(*row, str(int(number < 2))) for number, row in enumerate(ROWS)]
    write(place / "all.csv", marked, ("question", "answer", "forget"))
    for said in ({}, {"trainer.args.num_train_epochs": 5}):
        runs = planned(retain=said, forget=[{"trainer": "GradDiff"}, {"trainer": "UNDIAL"}])
        assert next(iter(runs)) == "retain" and runs["GradDiff"].after == ("full", "retain_eval")
        config, _ = user_files.resolve_files(
            compose.compose(runs["retain"].config_name, runs["retain"].overrides)
        )
        (part,) = config.data.streams["train"].values()
        assert [row["question"] for row in sources.load_rows(part.args["hf_args"])] == [
            row[0] for row in ROWS[2:]
        ]


def test_a_plan_says_which_rows_a_method_only_measures(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget = [
        {"trainer": name, "forget": "gone.csv", "retain": "kept.csv"}
        for name in ("UNDIAL", "CEU", "NPO")
    ]
    compose_runs.check(list(planned(forget=forget).values()))
    told = [line for line in capsys.readouterr().err.splitlines() if "only measured" in line]
    assert [line.split(": ")[1] for line in told] == ["UNDIAL", "CEU"]
    assert all("trainer.method_args.alpha=1" in line for line in told)


def test_models_are_taught_once_whatever_goes(place: Path) -> None:
    runs = planned(
        forget=[{"trainer": "GradDiff", "retain": "kept.csv"}],
        vary={"seed": [0, 1], "forget": ["gone.csv", "other.csv"]},
    )
    kinds = [run.kind for run in runs.values()]
    assert [kinds.count(kind) for kind in ("full", "retain", "eval", "forget")] == [2, 2, 8, 4]
    assert "GradDiff_seed1_other" in runs
    assert words(runs["full_eval_seed1_other"])["data.forget_file"] == "other.csv"
    compose_runs.check(list(runs.values()))


def test_each_set_of_rows_is_measured_apart(place: Path) -> None:
    entries = [*STUDY["forget"], {"trainer": "NPO", "forget": "other.csv", "retain": "kept.csv"}]
    runs = planned(forget=entries)
    assert words(runs["full_eval_2"])["data.forget_file"] == "other.csv"
    assert runs["NPO"].after == ("full", "retain_eval_2")
    assert runs["GradAscent"].after == ("full", "retain_eval")


def test_without_methods_each_run_is_measured_on_what_it_learned(place: Path) -> None:
    runs = planned(forget=[], retain=None, vary={"trainer.args.learning_rate": [1e-3, 1e-4]})
    assert len(runs) == 2
    assert all(
        list(compose.compose(run.config_name, run.overrides).eval) == ["rows"]
        for run in runs.values()
    )


def test_suites_may_be_named_or_left_out(place: Path) -> None:
    assert "eval=[rows]" in planned(eval="rows")["full_eval"].overrides
    runs = planned(eval=[])
    assert list(runs) == ["retain", "full", "GradDiff", "GradAscent"]
    assert all("eval=null" in run.overrides for run in runs.values())


def test_a_word_of_training_leaves_evaluations_as_they_are(place: Path) -> None:
    runs = expand(STUDY, extra=("trainer.args.logging_steps=1", "model.model_args.dtype=float32"))
    evaluated = next(run for run in runs if run.kind == "eval")
    assert "model.model_args.dtype=float32" in evaluated.overrides
    assert not any(word.startswith("trainer") for word in evaluated.overrides)
    compose_runs.check(runs)


def test_words_of_training_and_of_evaluation_reach_the_runs_that_have_their_keys(
    place: Path,
) -> None:
    words = ("trainer.args.logging_steps=1", "eval.rows.batch_size=2")
    runs = expand(STUDY, extra=words)
    compose_runs.check(runs)
    for run in runs:
        config = compose.compose(run.config_name, run.overrides)
        if run.kind == "eval":
            assert config.trainer is None
        else:
            assert config.trainer is not None
            assert config.trainer.args["logging_steps"] == 1
        assert [suite.batch_size for suite in config.eval.values()] == (
            [2] if run.kind in ("eval", "forget") else []
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"full": {"model": "MODEL"}}, "full: names neither rows nor a benchmark"),
        ({"retain": {"seed": 1}}, "data.marked=retain: all.csv has no column forget"),
        (
            {"retain": {}, "full": {"model": "MODEL", "data.train": "TOFU_QA_full"}},
            "retain: names no rows",
        ),
        ({"forget": [{"trainer": "GradDiff", "forget": "gone.csv"}]}, "retain"),
    ],
)
def test_rows_that_are_missing_are_named(place: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compose_runs.check(list(planned(**change).values()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"full": {"model": "./NONE", "data": "all.csv"}},
            r"retain, full: model=./NONE: there is no such folder",
        ),
        (
            {"full": {"model": "MODEL", "data": "al.csv"}},
            r"full: data.train_file=al.csv: there is no such file; did you mean all",
        ),
        ({"full": {"data": "all.csv"}}, r"model: no model was named"),
        (
            {"vary": {"model": ["MODEL", "./NONE"]}},
            r"2 of 12 runs cannot .*\nretain_model.*NONE, full_model.*NONE: model=./NONE: there is "
            r"no such folder$",
        ),
        (
            {
                "forget": [{"trainer": "UNDIAL", "forget": "gone.csv", "retain": "kept.csv"}],
                "eval": [],
            },
            r"UNDIAL: data.retain_file: .* trainer.method_args.alpha=1 makes the method train on "
            r"them",
        ),
        (
            {"forget": [{"trainer": "NPO", "forget": "kept.csv", "retain": "kept.csv"}]},
            r"NPO: .*data.allow_overlap",
        ),
    ],
)
def test_a_plan_is_refused_for_what_its_runs_would_be_refused(
    place: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        compose_runs.check(list(planned(**change).values()))


@pytest.mark.long
def test_a_study_of_own_rows_runs_fails_is_mended_and_reports(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {"trainer.args.max_steps": 1, "trainer.args.save_strategy": "no"}
    study_file = {
        **STUDY,
        "full": {**STUDY["full"], **short},
        "forget": [{**STUDY["forget"][0], **short}],
    }
    # A layer that there is not is found when the model is there, and not before.
    wrong = {
        "trainer.method_args.retain_loss_type": "EMBED_DIFF",
        "trainer.method_args.retain_layer": "no_such",
    }
    broken = {**study_file, "forget": [{**study_file["forget"][0], **wrong}]}
    (place / "mine.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(Diverged):
        study.command(["run", "mine.yaml"])
    study.command(["status", "mine"])
    assert "4 done, 1 failed" in capsys.readouterr().out
    (place / "mine.yaml").write_text(yaml.safe_dump(study_file))
    study.command(["retry", "mine.yaml"])
    study.command(["report", "mine"])
    study.command(["status", "mine"])
    said = capsys.readouterr().out
    assert "5 done" in said
    assert "retain_eval" in (place / "saves/mine/report.csv").read_text()
    summary = json.loads((place / "saves/mine/GradDiff/evals/ROWS_SUMMARY.json").read_text())
    assert {"forget_prob", "retain_prob"} <= summary.keys()
