"""Whole requests on a tiny model that knows the rows: what they give, and that they go on."""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import unteach
from unteach import run_dir
from unteach.errors import NotForgotten, UserError
from unteach.forgetting import candidates, leak_by_budget
from unteach.verbs import forget
from unteach.verbs.start import start

from ..conftest import read_rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model says of the rows is measured once for all requests."""
    return tmp_path_factory.mktemp("cache")


def lay_out(kit: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Write a request's files into a folder, and go there: rows to go, to keep, and never
    taught."""
    patch.chdir(folder)
    patch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    patch.setattr(leak_by_budget, "BUDGETS", ())
    for name, source, count in (
        ("gone", "forget10", 9),
        ("kept", "retain90", 20),
        ("unseen", "holdout10", 9),
    ):
        lines = []
        for row in read_rows(kit / "data" / f"{source}.jsonl")[:count]:
            lines.append(json.dumps({name: row[name] for name in ("question", "answer")}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))


@pytest.fixture
def rows(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a request's files."""
    lay_out(kit, tmp_path, monkeypatch)
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


def request_first(kit: Path, cache: Path) -> list[str]:
    return words(kit, cache, "retain=kept.jsonl", "budget=3", "task_name=t")


@dataclass(frozen=True)
class First:
    """A request that was carried out: its folder, and what was said."""

    folder: Path
    said: str

    def copy(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Copy it into another folder, and go there."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        patch.chdir(folder)
        patch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
        patch.setattr(leak_by_budget, "BUDGETS", ())


@pytest.fixture(scope="module")
def first(kit: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """One with a large budget that was stopped before it gave its model, and went on with what it
    had."""
    folder = tmp_path_factory.mktemp("first")
    landing = folder / "saves/forget/t/candidates/NPO/landing.json"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        lay_out(kit, folder, patch)
        patch.setattr(leak_by_budget, "BUDGETS", (0.05, 0.1, 3))
        with pytest.MonkeyPatch.context() as stopped:
            stopped.setattr(candidates, "give", lambda *_: pytest.fail("stopped"))
            with pytest.raises(pytest.fail.Exception):
                start("forget", request_first(kit, cache))
        landed = landing.stat().st_mtime_ns
        start("forget", request_first(kit, cache))
        assert landing.stat().st_mtime_ns == landed
    return First(folder, said.getvalue())


def test_a_large_budget_takes_the_rows_out(
    kit: Path, cache: Path, first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.copy(tmp_path, monkeypatch)
    rows = tmp_path
    assert "it knows 9 rows of them" in first.said and "method" in first.said
    written = read_record("t")
    assert written["done"]["meets_budget_and_audit"] and written["done"]["kl"] <= 3
    assert written["sentence"].startswith("no leak found")
    assert (rows / "saves/forget/t/model/model.safetensors").exists()
    # The same method at other budgets, by interpolation: the further, the less is left.
    by_budget = written["leak_by_budget"]
    assert [one["budget"] for one in by_budget] == [0.05, 0.1, 3]
    worst = [one["leak"]["worst"] for one in by_budget]
    assert worst == sorted(worst, reverse=True) and worst[0] > worst[-1]
    for one in by_budget[:2]:
        assert 0.95 * one["budget"] <= one["kl"] <= one["budget"]
    without = [one["budget"] for one in by_budget if not one["leak"]["is_found"]]
    assert written["smallest_budget_without_leak"] == min(without) and 0.05 not in without
    # What still knows the rows is gone, and no text of theirs is in the record.
    assert not list((rows / "saves/forget/t/candidates").rglob("*.safetensors"))
    assert not list((rows / "saves/forget/t/budgets").rglob("*.safetensors"))
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
    start("forget", request_first(kit, cache))
    assert (rows / "saves/forget/t" / run_dir.FORGET_RECORD).stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"it differs in budget\); give this one a name"):
        start("forget", words(kit, cache, "retain=kept.jsonl", "budget=2", "task_name=t"))
    (rows / "gone.jsonl").write_text((rows / "unseen.jsonl").read_text())
    with pytest.raises(UserError, match=r"it differs in files\); give this one a name"):
        start("forget", request_first(kit, cache))


def test_a_small_budget_does_not_and_says_so(kit: Path, cache: Path, rows: Path) -> None:
    """Held by its own text; the best one is kept under another name."""
    given = words(kit, cache, "budget=1e-4", "task_name=t", "keep=true")
    given[given.index("trainer.args.max_steps=12")] = "trainer.args.max_steps=3"
    with pytest.raises(NotForgotten, match=r"the best one is .*best_candidate") as raised:
        start("forget", given)
    assert raised.value.exit_code == 4
    written = read_record("t")
    assert written["done"]["held_by"] == "its own text"
    assert not (rows / "saves/forget/t/model").exists()
    assert (rows / "saves/forget/t/candidates/NPO/final_checkpoint").exists(), "keep=true"


def test_a_second_request_keeps_out_what_the_first_took_out(
    kit: Path, cache: Path, first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at the same model, with the rows of both, and asks for both."""
    first.copy(tmp_path, monkeypatch)
    rows = tmp_path
    later = read_rows(kit / "data/forget10.jsonl")[9:15]
    lines = [json.dumps({key: row[key] for key in ("question", "answer")}) for row in later]
    (rows / "later.jsonl").write_text("\n".join(lines))
    again = words(kit, cache, "retain=kept.jsonl", "budget=3", "task_name=second")
    again[:2] = ["later.jsonl", "model=saves/forget/t"]
    start("forget", again)
    written = read_record("second")
    assert written["done"]["model_before"] == str(kit / "reference")
    assert written["request"]["num_known"] == 6
    assert written["left"]["num_facts"] == 15
    earlier = written["earlier_request"]
    assert earlier["folder"] == "saves/forget/t" and earlier["num_facts"] == 9
    assert earlier["worst_case"] <= written["left"]["worst_case"] * 15 / 9 + 1e-9
    taught = read_rows(rows / "saves/forget/second/forget.jsonl")
    assert len(taught) == 15
    assert "which were to stay forgotten" in (rows / "saves/forget/second/forget.html").read_text()

    # What was taken out cannot be kept, and both begin at a model that has to be there.
    again = words(kit, cache, "retain=gone.jsonl", "budget=3", "task_name=third")
    again[:2] = ["later.jsonl", "model=saves/forget/second/model"]
    with pytest.raises(UserError, match="an earlier request took out of this model"):
        start("forget", again)
    record = rows / "saves/forget/second" / run_dir.FORGET_RECORD
    record.write_text(record.read_text().replace(str(kit / "reference"), "saves/no/such"))
    with pytest.raises(UserError, match=r"which began at saves/no/such, .* put it back"):
        start("forget", again)


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
    (rows / "gone.jsonl").rename(rows / "gone [1].jsonl")
    given = words(kit, cache, "retain=kept.jsonl")
    start("check", ["forget", "gone [1].jsonl", *given[1:]])
    said = capsys.readouterr().out
    assert "rows        9 of gone [1].jsonl" in said
    assert "method      NPO: 300 steps of 8 rows, trainer.args.learning_rate=0.0003" in said
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


def test_a_request_that_was_refused_had_not_begun(
    kit: Path, cache: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = read_rows(rows / "gone.jsonl")[0]
    (rows / "gone.jsonl").write_text(json.dumps({**row, "entity": "Ada Lind"}))
    (rows / "hers.jsonl").write_text(json.dumps({"question": "Who?", "answer": "Ada Lind."}))
    for verb in (["forget"], ["check", "forget"]):
        given = words(kit, cache, "retain=hers.jsonl", "task_name=t")
        with pytest.raises(UserError, match="rows about what is to be forgotten"):
            start(verb[0], [*verb[1:], *given])
    monkeypatch.setattr(forget, "_carry_out_one", lambda run: pytest.fail("it goes on"))
    with pytest.raises(pytest.fail.Exception, match="it goes on"):
        start("forget", words(kit, cache, "retain=kept.jsonl", "task_name=t"))


def test_on_a_gpu_runs_are_carried_out_one_at_a_time(
    kit: Path, cache: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that looks has used it, and no child of it can."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="jobs=2: on a GPU"):
        start("forget", words(kit, cache, "retain=kept.jsonl", "task_name=t", "jobs=2"))
    assert not (rows / "saves").exists()


def test_a_job_gives_python_no_result() -> None:
    with pytest.raises(UserError, match="that is for the command line"):
        unteach.forget(rows="gone.jsonl", model="m", settings={"slurm.time": 3})
