"""`unteach report` and `unteach compare` as they are called: files, tables, and what they say of
mistakes."""

import json
from pathlib import Path

import pytest

from tests.report.test_report import Elements, results, save
from unteach.cli import main
from unteach.errors import UserError
from unteach.studies.plan import PlannedRun
from unteach.studies.study_file import Study
from unteach.verbs import closing, study_runs
from unteach.verbs.start import start


@pytest.fixture
def study(tmp_path: Path) -> Path:
    save(tmp_path / "study" / "retain" / "evals", results(0.1, 0.64, None, "no idea"))
    save(tmp_path / "study" / "NPO" / "evals", results(0.2, 0.6, 0.3, "truth 0"))
    (tmp_path / "study" / "NPO" / "config.yaml").write_text(
        "mode: unlearn\nseed: 0\ntrainer: {handler: NPO}\n"
    )
    return tmp_path / "study"


def test_a_study_becomes_five_files_of_the_same_numbers(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study.parent / "out"
    start("report", [str(study), f"out={out}"])
    assert sorted(file.name for file in out.iterdir()) == [
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
        "report.png",
    ]
    said = capsys.readouterr().out
    assert "NPO" in said and f"report: {out / 'report.html'}" in said
    assert "# Report on study" in (out / "report.md").read_text()
    values = json.loads((out / "report.json").read_text())["values"]
    assert {(row["run"], row["kind"]) for row in values} == {
        ("retain", "retain"),
        ("NPO", "forget"),
    }


def test_a_file_that_no_report_wrote_is_not_replaced(study: Path) -> None:
    out = study.parent / "out"
    out.mkdir()
    (out / "report.md").write_text("mine")
    with pytest.raises(UserError, match=r"out: holds report\.md and no report\.json"):
        start("report", [str(study), f"out={out}"])
    assert [path.name for path in out.iterdir()] == ["report.md"] and (
        out / "report.md"
    ).read_text() == "mine"


def test_a_report_is_called_after_what_was_found(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(study.parent / "lone" / "evals", results(0.2, 0.6, 0.3, "x"))
    monkeypatch.chdir(study.parent)
    titles = {
        ("study",): "study",
        ("study/NPO",): "NPO",
        ("study/*",): "2 runs of study",
        ("study/N*",): "NPO",
        ("study/NPO", "study/retain"): "2 runs of study",
        ("*/NPO", "lone"): "2 runs",
        (str(study / "NPO"), str(study / "retain")): "2 runs of study",
    }
    for words, title in titles.items():
        start("report", [*words, "out=out"])
        assert f"# Report on {title}\n" in (study.parent / "out" / "report.md").read_text(), words
    monkeypatch.chdir(study.parent / "lone")
    start("report", [f"{study}/*", "out=out"])
    capsys.readouterr()
    assert f"# Report on 2 runs of {study}\n" in (study.parent / "lone/out/report.md").read_text()


def test_suites_share_a_page_and_a_run_may_have_one_only(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    muse = {"privleak": {"agg_value": -50.0}}
    (study / "NPO" / "evals" / "MUSE_EVAL.json").write_text(json.dumps(muse))
    out = study.parent / "out"
    start("report", [str(study), f"out={out}"])
    said = "".join(capsys.readouterr())
    assert "MUSE (1 of 2 runs have it)" in said
    assert "note: MUSE: there is no trade-off to draw" in said
    page = (out / "report.html").read_text()
    elements = Elements(page)
    assert [
        given.get("class") for tag, given in elements.found if given.get("class") == "numbers"
    ] == ["numbers"] * 2
    assert not any(
        name in given for _, given in elements.found for name in ("src", "href", "srcset")
    )
    assert [one["name"] for one in json.loads(elements.texts["script"][0])] == ["TOFU", "MUSE"]
    # one suite alone: a picture of another report does not stay
    start("report", [str(study / "NPO"), f"out={out}", "suite=muse"])
    assert not (out / "report.png").exists()


def test_a_suite_that_a_run_lacks_is_said(study: Path) -> None:
    with pytest.raises(UserError, match="no suite among these results called 'MUZE'"):
        start("report", [str(study), "suite=MUZE"])
    save(study.parent / "other", {"privleak": {"agg_value": 1.0}}, suite="MUSE")
    with pytest.raises(UserError, match=r"'other' has no TOFU results.*results of MUSE"):
        start("report", [str(study), str(study.parent / "other"), "suite=tofu"])
    with pytest.raises(UserError, match="no suite in common"):
        start("compare", [str(study / "NPO"), str(study.parent / "other")])


def test_mistakes_are_one_message_and_exit_code_two(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "NPO" / "evals" / "TOFU_EVAL.json").write_text('{"forget_Q_A_Prob": {"agg_val')
    words = [
        (["report", str(study)], "is not whole JSON"),
        (["report"], "name the runs to report"),
        (["report", str(study), "ouput=x"], "did you mean out?"),
        (["report", str(study), "out="], "out= needs a value"),
        (["compare", str(study)], "compare takes two runs, got 1"),
        (["compare", str(study), str(study)], "holds 2 runs; name one"),
        (["compare", str(study / "retain"), str(study / "retain" / "evals")], "are the same run"),
    ]
    for command, message in words:
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_compare_shows_values_settings_and_answers(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(study / "RMU" / "evals", results(0.4, 0.6, 0.3, "something else"))
    (study / "RMU" / "config.yaml").write_text(
        "mode: unlearn\nseed: 0\ntrainer: {handler: RMU}\ntask_name: x\n"
    )
    log = study / "RMU" / "evals" / "TOFU_EVAL.json"
    found = json.loads(log.read_text())
    found["forget_Q_A_ROUGE"]["value_by_index"]["0"]["rougeL_recall"] = 0.0
    log.write_text(json.dumps(found))
    start("compare", [str(study / "NPO"), str(study / "RMU")])
    said = capsys.readouterr().out
    line = next(line.split() for line in said.splitlines() if line.startswith("forget_Q_A_Prob"))
    assert line == ["forget_Q_A_Prob", "0.200", "0.400", "0.200", "0.200", "to", "0.200", "*"]
    assert "Forget set: Who is number 0?  (0.50 -> 0.00)" in said
    assert "B     something else" in said
    assert "trainer.handler: NPO -> RMU" in said
    assert "task_name" not in said


def test_a_folder_whose_name_holds_an_equals_sign_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "lr=1e-5", results(0.2, 0.6, 0.3, "truth 0"))
    monkeypatch.chdir(tmp_path)
    start("report", ["lr=1e-5"])
    assert (tmp_path / "saves" / "report" / "report.html").exists()


def test_a_finished_study_writes_the_same_report(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(name: str, kind: str, *words: str) -> PlannedRun:
        return PlannedRun(name, kind, "train", (f"paths.output_dir={study / name}", *words))

    plan = [
        planned("base", "base", "eval=null"),
        planned("retain", "retain"),
        planned("NPO", "forget"),
    ]
    written = study_runs.report(
        Study("mine", [*plan, planned("broken", "forget")]), {"base", "retain", "NPO"}
    )
    assert written == study / "report.html"
    assert "Study mine" in (study / "report.md").read_text()
    assert {row["run"] for row in json.loads((study / "report.json").read_text())["values"]} == {
        "retain",
        "NPO",
    }


def test_a_report_that_is_replaced_and_nothing_to_trade(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study.parent / "out"
    start("report", [str(study), f"out={out}"])
    start("report", [str(study), f"out={out}"])
    assert "replaces" not in "".join(capsys.readouterr()), "the same report again"
    save(study.parent / "taught" / "evals", {"train_Prob": {"agg_value": 0.9}}, suite="ROWS")
    start("report", [str(study.parent / "taught"), f"out={out}"])
    said = "".join(capsys.readouterr())
    assert f"note: {out}: replaces “Report on study”; out=FOLDER keeps both" in said
    assert "trade-off" not in said


def test_a_compare_is_proposed_only_of_the_same_rows(tmp_path: Path) -> None:
    for name, digest in (("before", "a"), ("after", "a"), ("other", "b")):
        save(tmp_path / name / "evals", results(0.2, 0.6, 0.3, "x"))
        rows = json.dumps({"forget.answer": {"of": "f.csv", "count": 2, "digest": digest}})
        (tmp_path / name / "evals" / "TOFU_ROWS.json").write_text(rows)
    judging = [
        closing._commands_to_judge(tmp_path / "after", str(tmp_path / name))
        for name in ("before", "other")
    ]
    assert [len(commands) for commands in judging] == [2, 1]
