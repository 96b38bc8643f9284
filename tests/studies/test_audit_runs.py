"""The audits of a study: planned after the forget runs, in their folders, held against full and
retain."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from unteach import atomic, run_dir
from unteach.config import compose
from unteach.config.schema import AuditConfig
from unteach.errors import LeakFound, UserError
from unteach.report import audits
from unteach.studies import compose_runs, local, saved_plan, slurm, states, status_board, study_file
from unteach.studies.expansion import expand
from unteach.studies.plan import PlannedRun
from unteach.studies.settings import Slurm
from unteach.verbs import demo
from unteach.verbs.start import start

DEMO = study_file.read("demo")


def plan_audits(study: dict[str, Any], *extra: str) -> dict[str, PlannedRun]:
    return {run.name: run for run in expand(study, extra=extra) if run.kind == "audit"}


def compose_audit(run: PlannedRun) -> AuditConfig:
    config = compose.compose(run.config_name, run.overrides)
    assert isinstance(config, AuditConfig)
    return config


def test_every_forget_run_is_audited_in_its_folder() -> None:
    runs = plan_audits({**DEMO, "audit": "quick"})
    assert list(runs) == ["GradAscent_audit", "GradDiff_audit", "NPO_audit"]
    run = runs["NPO_audit"]
    assert run.folder == "saves/demo/NPO/audit" and run.study_dir == Path("saves/demo")
    assert run.after == ("NPO", "full", "retain")
    settings = compose_audit(run).audit
    assert settings.level == "quick"
    assert settings.original == "saves/demo/full" and settings.retain_model == "saves/demo/retain"
    assert states.get_state_file(run) == Path("saves/demo/states/NPO_audit.json")
    assert status_board.get_log_path(run) == Path("saves/demo/logs/NPO_audit.log")
    assert slurm.build_command(run, Slurm())[-1] == "saves/demo/NPO_audit"


def test_an_audit_asks_for_what_its_run_was_to_forget() -> None:
    """Of each retain model of a split, and with the overrides of the audits alone."""
    study = {
        **DEMO,
        "vary": {"seed": [3], "forget_split": ["forget01", "forget05"]},
        "audit": {"audit": "standard", "audit.max_facts": 7},
    }
    runs = plan_audits(study, "audit.only=[rank]", "trainer.args.logging_steps=1", "eval.x=1")
    config = compose_audit(runs["NPO_forget01_audit"])
    assert config.seed == 3 and config.audit.level == "standard"
    assert config.audit.only == ["rank"] and config.audit.max_facts == 7
    assert config.audit.retain_model == "saves/demo/retain_forget01"
    (part,) = config.data.streams["forget"].values()
    assert part.args["hf_args"]["name"] == "forget01_perturbed"
    for run in expand(study, extra=("audit.only=[rank]",)):
        assert (run.kind == "audit") == ("audit.only=[rank]" in run.overrides)


def test_a_forget_set_by_entity_has_an_audit_of_its_own_rows() -> None:
    study = study_file.read("granularity")
    run = plan_audits({**study, "audit": "quick"})["arc_kl_seed0_book-0.13_audit"]
    (part,) = compose_audit(run).data.streams["forget"].values()
    assert part.args["hf_args"]["forget_set"] == {"by": "book", "fraction": 0.13}


def test_a_word_has_any_study_audited() -> None:
    assert not plan_audits(DEMO)
    for study, word in ((DEMO, "audit=standard"), ({**DEMO, "audit": "quick"}, "audit=standard")):
        runs = plan_audits(study, word)
        assert {compose_audit(run).audit.level for run in runs.values()} == {"standard"}
    named = plan_audits({**DEMO, "evaluate": ["base", "audit"]})
    assert compose_audit(named["NPO_audit"]).audit.level == "quick"
    for study in ({**DEMO, "audit": "quick"}, {**DEMO, "evaluate": ["audit"]}):
        assert not plan_audits(study, "audit=null")


def test_a_begun_study_may_leave_its_audits_out() -> None:
    audited, plain = expand({**DEMO, "audit": "quick"}), expand(DEMO)
    assert not saved_plan.compare(audited, plain) and not saved_plan.compare(plain, audited)


def test_rows_of_ones_own_are_audited(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.csv").write_text("question,answer\nWho has it?,Ann has.\nWhere is it?,At home.\n")
    Path("gone.csv").write_text("question,answer\nWho has it?,Ann has.\n")
    Path("kept.csv").write_text("question,answer\nWhere is it?,At home.\n")
    study = {
        "name": "mine",
        "full": {"model": str(tiny_folder), "data": "all.csv", "template": "qa"},
        "retain": {"data": "kept.csv"},
        "forget": {"trainer": "GradDiff", "forget": "gone.csv", "retain": "kept.csv"},
        "audit": "quick",
    }
    compose_runs.check(expand(study))
    config = compose_audit(plan_audits(study)["GradDiff_audit"])
    assert config.data.files is not None
    assert config.data.files.forget_file == "gone.csv"
    assert config.data.files.retain_file == "kept.csv"
    assert config.audit.original == "saves/mine/full"
    assert config.audit.retain_model == "saves/mine/retain"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retain": None}, "never saw the rows, and this study has none: add `retain`"),
        ({"forget": None}, "the study has no `forget`"),
        ({"audit": ["quick"]}, "must be a level or a mapping of overrides"),
        ({"audit": {"level": "quick"}}, "audit: level: overrides of the audits are written in"),
        ({"audit": {"original": "x"}}, "original is the folder of `full` by itself"),
        ({"evaluate": ["audits"]}, r"may be \[base\], \[audit\] or both"),
        ({"forget": [{"experiment": "mine", "trainer": "NPO"}]}, "name an audit's"),
    ],
)
def test_what_cannot_be_audited_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand({**DEMO, "audit": "quick", **change})


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ("quik", "NPO_audit: audit=quik: there is no level of an audit called 'quik'; did you"),
        ({"audit.max_facts": 0}, "NPO_audit: audit: max_facts must be at least 1"),
        ({"audit.only": ["ranc"]}, "did you mean rank?"),
    ],
)
def test_a_bad_audit_is_refused_before_any_run(audit: object, message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_runs.check(expand({**DEMO, "audit": audit}))
    assert message in str(refused.value) and "none was started" in str(refused.value)


def test_an_audit_shows_its_pass(tmp_path: Path) -> None:
    folder = f"paths.output_dir={tmp_path}/s/NPO/audit"
    run = PlannedRun("NPO_audit", "audit", "audit", (folder,))
    log = status_board.get_log_path(run)
    log.parent.mkdir(parents=True)
    log.write_text("original: scoring: 1,024 of 2,048, 0:10 left\n")
    phase = status_board.read_phase(run)
    assert (phase.what, phase.done, phase.total) == ("original: scoring", 1024, 2048)


def test_audits_of_a_study_are_carried_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They stand in the study's table; what is done is not even started again. A leak is a result:
    the audit is done, and the study says at its end that there is one."""
    monkeypatch.chdir(tmp_path)
    short = {"trainer.args.max_steps": 3}
    study = {
        "name": "small",
        "base": {"experiment": "pretrain/people/base", "model": "tiny", **short},
        "full": {"experiment": "finetune/people/default", **short},
        "retain": {"experiment": "finetune/people/retain", **short},
        "forget": {"trainer": "GradDiff", **short},
        "eval": ["tofu"],
        "audit": {"audit.only": ["rank"], "audit.fail_if": "rank>=0"},
    }
    leak = r"GradDiff_audit: audit\.fail_if: rank is"
    Path("small.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    words = ["run", "small.yaml", "eval.tofu.metrics=[forget_Q_A_Prob]"]
    with pytest.raises(LeakFound, match=leak):
        start("study", words)
    assert re.search(r"GradDiff +[\d.]+ +[\d.]+ +[\d.]+\n", capsys.readouterr().out)
    folder = Path("saves/small/GradDiff")
    values = audits.read_audit(folder)
    assert 0 <= values["audit_rank"] <= values["audit_worst"] <= 1
    written = (folder / "audit" / "AUDIT.json").stat().st_mtime_ns
    summary = json.loads((folder / "audit" / run_dir.AUDIT_SUMMARY).read_text())
    with Path("saves/small/report.csv").open() as file:
        lines = list(csv.DictReader(file))
    reported = {(line["run"], line["metric"]): float(line["value"]) for line in lines}
    assert reported["full", "audit_worst"] == pytest.approx(summary["worst_original"])
    assert reported["retain", "audit_worst"] == pytest.approx(summary["worst_retain"])
    assert reported["retain", "audit_rank"] == pytest.approx(summary["attacks"]["rank"]["retain"])

    monkeypatch.setattr(local, "execute", lambda *_: pytest.fail("all of it is done"))
    with pytest.raises(LeakFound, match=leak):
        start("study", words)
    assert "finished before: 5 runs in saves/small" in capsys.readouterr().out
    assert (folder / "audit" / "AUDIT.json").stat().st_mtime_ns == written
    start("study", ["status", "small"])
    assert "small: 5 runs: 5 done" in capsys.readouterr().out
    with pytest.raises(LeakFound, match=leak):
        start("study", ["run", "small/GradDiff_audit"])
    start("study", ["status", "small"])
    assert "small: 5 runs: 5 done" in capsys.readouterr().out


def test_the_demo_says_in_a_line_what_an_audit_found(tmp_path: Path) -> None:
    run = PlannedRun("NPO_audit", "audit", "audit", (f"paths.output_dir={tmp_path}/NPO/audit",))
    attacks = {"rank": {"rate": 0.4}, "clean": {"rate": 0.1}}
    summary = {"num_facts": 20, "attacks": attacks, "worst": 0.5, "worst_retain": 0.05}
    atomic.write_json(Path(run.folder) / run_dir.AUDIT_SUMMARY, summary)
    line = demo.describe_audit(run)
    assert "of 20 facts, 2 attacks bring 50% out of NPO" in line
    assert "(ranked first 40%, asked politely 10%) and 5% out of retain" in line
