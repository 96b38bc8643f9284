"""Words become runs: folders, folders of runs, patterns, logs; their names, and what each run
was."""

import json
from pathlib import Path

import pytest

from unteach.errors import UserError
from unteach.report import find

EVALUATED = {"model_utility": {"agg_value": 0.5}}


def log(folder: Path, *suites: str, config: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for suite in suites or ("TOFU",):
        (folder / f"{suite}_EVAL.json").write_text(json.dumps(EVALUATED))
    if config:
        home = folder.parent if folder.name == "evals" else folder
        (home / "config.yaml").write_text(config)
    return folder


def seen(*words: object) -> dict[str, str]:
    found, _ = find.find_runs(map(str, words))
    return {one.name: one.kind for one in found}


def test_a_study_is_its_runs_references_first_and_what_was_not_evaluated_is_said(
    tmp_path: Path,
) -> None:
    train = "mode: train\ndata: {train: {rows: {args: {hf_args: {name: SPLIT}}}}}"
    log(tmp_path / "NPO" / "evals", config="mode: unlearn")
    log(tmp_path / "b" / "evals", config=train.replace("SPLIT", "retain90"))
    log(tmp_path / "a" / "evals", config=train.replace("SPLIT", "full"))
    (tmp_path / "logs").mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.yaml").write_text("mode: train")
    found, notes = find.find_runs([str(tmp_path)])
    assert [(one.name, one.kind, one.suites) for one in found] == [
        ("a", "full", ("TOFU",)),
        ("b", "retain", ("TOFU",)),
        ("NPO", "forget", ("TOFU",)),
    ]
    assert notes == [f"not evaluated, so not shown: {tmp_path / 'base'}"]


def test_every_way_of_naming_a_run_means_it_once(tmp_path: Path) -> None:
    log(tmp_path / "NPO" / "evals", "TOFU", "MUSE")
    found, _ = find.find_runs(
        map(
            str,
            [
                tmp_path / "NPO",
                tmp_path / "NPO" / "evals",
                tmp_path / "N*",
                tmp_path / "NPO/evals/TOFU_EVAL.json",
            ],
        )
    )
    assert [(one.name, one.folder, one.suites) for one in found] == [
        ("NPO", tmp_path / "NPO", ("MUSE", "TOFU"))
    ]
    (alone,), _ = find.find_runs([str(tmp_path / "NPO/evals/MUSE_EVAL.json")])
    assert alone.suites == ("MUSE",)


def test_names_are_as_short_as_can_be_and_a_checkpoint_says_whose_it_is(tmp_path: Path) -> None:
    for place in ("one/a", "two/a", "two/b", "two/b/checkpoint-5/evals"):
        log(tmp_path / place)
    assert set(
        seen(tmp_path / "one", tmp_path / "two", tmp_path / "two" / "b" / "checkpoint-5")
    ) == {
        "one/a",
        "two/a",
        "b",
        "b/checkpoint-5",
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tofu_Llama-3.2-1B-Instruct_retain90", "retain"),
        ("tofu_Llama-3.2-1B-Instruct_full", "full"),
        ("unlearn_tofu_Llama-3.2-1B-Instruct_forget10_NPO_retain", "forget"),
        ("MUSE-News_retrain", "retain"),
        ("fullerene", ""),
    ],
)
def test_where_there_is_no_configuration_the_name_says_what_a_run_was(
    tmp_path: Path, name: str, kind: str
) -> None:
    assert seen(log(tmp_path / name)) == {name: kind}


def test_an_evaluation_is_of_the_kind_of_the_run_that_it_evaluated(tmp_path: Path) -> None:
    log(tmp_path / "trained" / "evals", config="mode: unlearn")
    told = "mode: eval\nmodel: {model_args: {pretrained_model_name_or_path: PATH}}"
    ours = log(tmp_path / "ours", config=told.replace("PATH", str(tmp_path / "trained")))
    theirs = tmp_path / "theirs"
    log(theirs)
    (theirs / ".hydra").mkdir()
    (theirs / ".hydra" / "config.yaml").write_text(
        told.replace("PATH", "open-unlearning/tofu_x_retain99")
    )
    other = log(tmp_path / "other", config=told.replace("PATH", "someone/model"))
    assert seen(ours, theirs, other) == {"ours": "forget", "theirs": "retain", "other": "eval"}


def test_training_on_what_a_forget_set_leaves_makes_a_retain_model(tmp_path: Path) -> None:
    told = "mode: train\ndata: {train: {rows: {args: {hf_args: {name: full, part: PART}}}}}"
    left = log(tmp_path / "left" / "evals", config=told.replace("PART", "retain"))
    whole = log(tmp_path / "whole" / "evals", config=told.replace("PART", "null"))
    assert seen(left.parent, whole.parent) == {"left": "retain", "whole": "full"}


def test_a_link_back_up_does_not_go_round_for_ever(tmp_path: Path) -> None:
    log(tmp_path / "run")
    (tmp_path / "again").symlink_to(tmp_path)
    assert seen(tmp_path) == {"run": ""}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere", "no such run"),
        ("no*", "nothing matches"),
        ("empty", "Evaluate the run first"),
        ("file.txt", "as its name says"),
    ],
)
def test_a_word_that_means_no_run_is_refused(tmp_path: Path, word: str, message: str) -> None:
    log(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError, match=message):
        find.find_runs([str(tmp_path / "run"), str(tmp_path / word)])


def test_what_a_pattern_matches_beside_runs_is_said_or_passed_over(tmp_path: Path) -> None:
    log(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "report.html").touch()
    found, notes = find.find_runs([str(tmp_path / "*")])
    assert [one.name for one in found] == ["run"]
    assert notes == [f"not evaluated, so not shown: {tmp_path / 'empty'}"]


def test_a_torn_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read as YAML"):
        seen(log(tmp_path / "run", config="mode: [unlearn"))


def test_a_run_that_was_not_evaluated_is_told_the_command_for_its_own_rows(tmp_path: Path) -> None:
    files = "data: {forget_file: f.csv, retain_file: r.csv, holdout_file: null}"
    for name, config in (("own", files), ("benchmark", "data: {train: {TOFU_QA_full: {}}}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config)
    with pytest.raises(
        UserError, match=rf"unteach eval model={tmp_path}/own eval=rows forget=f.csv retain=r.csv$"
    ):
        find.find_runs([str(tmp_path / "own")])
    with pytest.raises(
        UserError,
        match=rf"model={tmp_path}/benchmark eval=SUITE task_name=NAME \(`unteach list suites`",
    ):
        find.find_runs([str(tmp_path / "benchmark")])


def test_the_retain_model_that_runs_are_compared_with_is_found(tmp_path: Path) -> None:
    retain = log(tmp_path / "gold")
    log(
        tmp_path / "NPO" / "evals",
        config=f"mode: unlearn\nretain_logs_path: {retain}/TOFU_EVAL.json",
    )
    log(tmp_path / "DPO" / "evals", config="mode: unlearn\nretain_logs_path: gone/TOFU_EVAL.json")
    found, _ = find.find_runs([str(tmp_path / "NPO"), str(tmp_path / "DPO")])
    assert find.find_retain_models(found) == [
        find.EvaluatedRun("gold", "retain", retain, ("TOFU",))
    ]
    log(tmp_path / "retain90")
    found, _ = find.find_runs([str(tmp_path / "NPO"), str(tmp_path / "retain90")])
    assert find.find_retain_models(found) == [], "one is shown already"
