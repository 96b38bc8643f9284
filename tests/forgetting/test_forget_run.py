"""Whole requests on a tiny model that knows the rows: what they give, and that they go on."""

import json
from pathlib import Path
from typing import Any

import pytest

import unteach
from unteach import run_dir
from unteach.errors import NotForgotten, UserError
from unteach.verbs import forget
from unteach.verbs.start import start

from ..conftest import read_rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model says of the rows is measured once for all requests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def rows(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a request's files: rows to go, to keep, and never taught."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    for name, source, count in (
        ("gone", "forget10", 9),
        ("kept", "retain90", 20),
        ("unseen", "holdout10", 9),
    ):
        lines = []
        for row in read_rows(kit / "data" / f"{source}.jsonl")[:count]:
            lines.append(json.dumps({name: row[name] for name in ("question", "answer")}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def words(kit: Path, cache: Path, *extra: str) -> list[str]:
    return [
        "gone.jsonl",
        f"model={kit / 'reference'}",
        "holdout=unseen.jsonl",
        "template=qa",
        f"paths.cache_dir={cache}",
        "method=NPO",
        "trainer.args.max_steps=12",
        "trainer.args.learning_rate=3e-3",
        "audit.only=[rank,clean]",
        *extra,
    ]


def read_record(task_name: str) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(
        (forget.ROOT / task_name / run_dir.FORGET_RECORD).read_text()
    )
    return written


def test_a_large_budget_takes_the_rows_out(
    kit: Path,
    cache: Path,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped before it gave its model, it goes on with what it has."""
    given = words(kit, cache, "retain=kept.jsonl", "budget=3", "task_name=t")
    with monkeypatch.context() as stopped:
        stopped.setattr(forget, "_give", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            start("forget", given)
    landing = rows / "saves/forget/t/candidates/NPO/landing.json"
    landed = landing.stat().st_mtime_ns
    start("forget", given)
    assert landing.stat().st_mtime_ns == landed
    said = capsys.readouterr().out
    assert "it knows 9 rows of them" in said and "method" in said
    written = read_record("t")
    assert written["done"]["meets_budget_and_audit"] and written["done"]["kl"] <= 3
    assert written["sentence"].startswith("no leak found")
    assert (rows / "saves/forget/t/model/model.safetensors").exists()
    # What still knows the rows is gone, and no text of theirs is in the record.
    assert not list((rows / "saves/forget/t/candidates").rglob("*.safetensors"))
    text = (rows / "saves/forget/t" / run_dir.FORGET_RECORD).read_text()
    page = (rows / "saves/forget/t/forget.html").read_text()
    assert (
        "No leak found by these attacks" in page
        and 'href="candidates/NPO/audit/audit.html"' in page
    )
    text += page
    for row in read_rows(rows / "gone.jsonl"):
        assert row["question"] not in text and row["answer"] not in text
    statement = "saves/forget/t/statement.json"
    start("audit", ["verify", statement, "model=saves/forget/t/model"])

    # Again it does nothing; said otherwise it is another request.
    before = (rows / "saves/forget/t" / run_dir.FORGET_RECORD).stat().st_mtime_ns
    start("forget", given)
    assert (rows / "saves/forget/t" / run_dir.FORGET_RECORD).stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"it differs in budget\); give this one a name"):
        start("forget", words(kit, cache, "retain=kept.jsonl", "budget=2", "task_name=t"))


def test_a_small_budget_does_not_and_says_so(kit: Path, cache: Path, rows: Path) -> None:
    """Held by its own text; the best one is kept under another name."""
    with pytest.raises(NotForgotten, match=r"the best one is .*best_candidate") as raised:
        start("forget", words(kit, cache, "budget=1e-4", "task_name=t", "keep=true"))
    assert raised.value.exit_code == 4
    written = read_record("t")
    assert written["done"]["held_by"] == "its own text"
    assert not (rows / "saves/forget/t/model").exists()
    assert (rows / "saves/forget/t/candidates/NPO/final_checkpoint").exists(), "keep=true"


def test_from_python(kit: Path, cache: Path, rows: Path) -> None:
    settings = {
        "template": "qa",
        "paths.cache_dir": str(cache),
        "trainer.args.max_steps": 12,
        "trainer.args.learning_rate": 3e-3,
        "audit.only": ["rank", "clean"],
    }
    given = {"model": kit / "reference", "holdout": "unseen.jsonl", "retain": "kept.jsonl"}
    found = unteach.forget(
        rows=read_rows(rows / "gone.jsonl"),
        method="NPO",
        budget=3.0,
        task_name="door",
        settings=settings,
        **given,
    )
    assert found.method == "NPO" and found.sentence.startswith("no leak found")
    assert (found.model_dir / "model.safetensors").exists() and str(found) == str(found.model_dir)


def test_check_says_what_would_be_tried(
    kit: Path, cache: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("check", ["forget", *words(kit, cache, "retain=kept.jsonl")])
    said = capsys.readouterr().out
    assert "rows        9 of gone.jsonl" in said
    assert "method      NPO: 60 steps of 8 rows, trainer.args.learning_rate=0.0003" in said
    assert "never seen  9 facts" in said and not (rows / "saves").exists()


def test_what_nothing_can_be_said_of_is_not_called_good(kit: Path, cache: Path, rows: Path) -> None:
    """Without a control the sentence says so, and not that a larger budget would help. And the
    columns of the user's files may be called otherwise: only the first look reads them, what
    follows reads files of one form."""
    for name in ("gone", "kept"):
        file = rows / f"{name}.jsonl"
        file.write_text(
            file.read_text().replace('"question"', '"frage"').replace('"answer"', '"x"')
        )
    columns = ["data.columns.question=frage", "data.columns.answer=x"]
    given = words(kit, cache, "retain=kept.jsonl", "budget=3", "task_name=t", *columns)
    given.remove("holdout=unseen.jsonl")
    with pytest.raises(NotForgotten, match=r"nothing can be said; .* Give columns value and kind"):
        start("forget", given)
    assert read_record("t")["request"]["num_known"] == 9
    assert not read_record("t")["failed"]


def test_rows_that_are_to_be_kept_too_are_refused(kit: Path, cache: Path, rows: Path) -> None:
    with pytest.raises(UserError, match="both forgotten and retained"):
        start("forget", words(kit, cache, "retain=gone.jsonl"))
    assert not (rows / "saves/forget/reference-gone/candidates").exists()
