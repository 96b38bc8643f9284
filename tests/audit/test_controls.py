"""Facts that no model was taught as a control, and several models under one audit."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.audits import certainty, comparison, files, significance
from unteach.audits.probes import Finding
from unteach.errors import LeakFound, UserError
from unteach.verbs import audit, check
from unteach.verbs.start import start

from .test_audit_run import compose_audit, words

HOLDOUT = "data.holdout=TOFU_QA_holdout"


def read_summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / files.SUMMARY).read_text())
    return summary


def test_whole_answers_are_held_against_facts_that_no_model_was_taught(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a retain model, and without values of one kind."""
    found = {}
    for model in ("reference", "retain"):
        given = words(kit, tmp_path / model, model, HOLDOUT, "audit.only=[clean, fewshot]")
        audit.run(compose_audit(*given))
        found[model] = read_summary(tmp_path / model / "audit")
    assert found["reference"]["num_never_seen"] == found["reference"]["num_facts"] == 10
    assert found["reference"]["leaks"] and not found["retain"]["leaks"]
    assert found["reference"]["attacks"]["clean"]["unseen"] < 0.5
    assert found["reference"]["worst_unseen"] < 0.5
    page = (tmp_path / "reference" / "audit" / "audit.html").read_text()
    assert "of the facts that no model was taught come out likewise" in page
    assert "<small>taught</small>" in page
    assert "unseen" in capsys.readouterr().out


def test_a_file_of_them_is_a_control_too(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, source in (("gone", "forget10"), ("unseen", "holdout10")):
        lines = (kit / "data" / f"{source}.jsonl").read_text().splitlines()[:9]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    start(
        "audit",
        [
            f"model={kit / 'reference'}",
            "forget=gone.jsonl",
            "holdout=unseen.jsonl",
            "template=qa",
            "audit.only=[clean]",
            "task_name=t",
        ],
    )
    summary = read_summary(tmp_path / "saves" / "audit" / "t")
    assert summary["num_never_seen"] == 9 and summary["leaks"]


def test_they_are_asked_after_a_training_and_never_taught(kit: Path, tmp_path: Path) -> None:
    extra = ["audit=standard", "audit.only=[rank, relearn]", HOLDOUT]
    extra.append("audit.attacks.relearn={learning_rates: [1e-3], looks: [1], r: 2}")
    audit.run(compose_audit(*words(kit, tmp_path, "policy", *extra)))
    record = json.loads((tmp_path / "audit" / files.FINDINGS).read_text())
    unseen = [fact for fact in record["facts"] if fact["never_seen"]]
    asked = {one["fact"] for one in record["findings"]["audited"]["relearn at 0.001 x1"]}
    assert {fact["index"] for fact in unseen} <= asked
    (rows,) = (tmp_path / "audit" / "relearn").glob("*/rows.jsonl")
    taught = rows.read_text()
    assert taught and not any(json.dumps(fact["question"]) in taught for fact in unseen)


def test_rows_that_were_seen_are_no_control(kit: Path, tmp_path: Path) -> None:
    extra = ["data.holdout=TOFU_QA_forget", "audit.only=[clean]"]
    config = compose_audit(*words(kit, tmp_path, "policy", *extra))
    with pytest.raises(UserError, match=r"data\.holdout: .* stands among the rows to forget too"):
        audit.run(config)


def test_check_names_the_control(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check.check(compose_audit(*words(kit, tmp_path, "policy", HOLDOUT)))
    said = capsys.readouterr().out
    assert "facts       10;" in said and "never seen  10 facts, as a control" in said
    assert "attack      rank: 20 probes" in said


def test_what_is_unlikely_for_the_retain_model_too_is_not_forgotten_past_chance() -> None:
    """A rare value may be the least likely of its kind for a model that never saw the fact."""
    alone = {index: f"row {index}" for index in range(9)}
    hits = (False,) * 8
    last = {index: Finding(index, hits, rank=8, is_last=True) for index in range(9)}
    first = {index: Finding(index, hits, rank=1) for index in range(9)}
    assert significance.compute_last_p_value(last, {}, {}, alone) < 1e-6
    assert significance.compute_last_p_value(last, first, {}, alone) < 0.01
    assert significance.compute_last_p_value(last, last, {}, alone) == 1
    assert significance.compute_last_p_value(last, {}, last, alone) == 1
    said = {0: Finding(0, hits, text="yes")}
    assert significance.compute_last_p_value(said, {}, {}, alone) is None


def test_as_many_unseen_facts_are_no_leak() -> None:
    hits = [True] * 6 + [False] * 4
    assert certainty.compute_unseen_p_value(hits, hits) > 0.5
    assert certainty.compute_unseen_p_value(hits, [False] * 10) < 0.01


def test_several_models_stand_in_one_table(
    kit: Path, tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of each of them is trained once, whatever else it stands beside."""
    extra = [
        f"also=[{kit / 'policy'},{kit / 'retain'}]",
        f"original={kit / 'reference'}",
        f"retain_model={kit / 'retain'}",
        "audit.only=[rank, clean, relearn]",
        "audit.attacks.relearn={learning_rates: [1e-3], looks: [1, 2], r: 2}",
        "audit.fail_if='clean>0.5'",
    ]
    with pytest.raises(LeakFound, match=r"clean is 1; the results are in .*reference$"):
        audit.run(compose_audit(*words(kit, tmp_path, "reference", *extra)))
    assert trained == ["reference", "retain", "policy"]
    table = json.loads((tmp_path / "audit" / comparison.TABLE).read_text())["models"]
    assert list(table) == ["reference", "policy", "retain"]
    for name, row in table.items():
        summary = read_summary(tmp_path / "audit" / name)
        assert row["sentence"] == summary["sentence"] and row["worst"] == summary["worst"]
        assert (tmp_path / "audit" / name / "statement.json").exists()
    assert table["reference"]["attacks"]["clean"] == 1 > table["retain"]["attacks"]["clean"]
    (head,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("attack  ")
    ][-1:]
    assert head.split() == [
        "attack",
        "reference",
        "policy",
        "retain",
        "retain",
        "model",
        "original",
    ]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/npo", "a/rmu"], ["npo", "rmu"]),
        (["a/npo/final_checkpoint", "b/npo/final_checkpoint"], ["a-npo", "b-npo"]),
        (["a/npo", "a/npo"], ["1-npo", "2-npo"]),
    ],
)
def test_models_are_named_by_what_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert comparison._name_models(paths) == names
