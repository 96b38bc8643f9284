"""A folder that is not a run of ours is refused, and nothing of the user's in a run's folder is
deleted."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach import atomic, fingerprints, json_files, run_dir
from unteach.errors import UserError
from unteach.evals import merge_results
from unteach.training import checkpoint, run_state

TREE = {"seed": 0, "task_name": "t"}


@pytest.mark.parametrize(
    "names",
    [
        ["model.safetensors", "config.json"],
        ["checkpoint-500/model.safetensors"],
        ["TOFU_EVAL.json"],
        [".env.template"],
        ["metrics.jsonl"],
        ["reference/notes.txt"],
    ],
)
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_what_is_not_a_run_is_refused(names: list[str], resume: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    with pytest.raises(
        UserError, match=rf"out: holds {sorted(names)[0].split('/')[0]}.*no run of unteach"
    ):
        run_dir.open_run(folder, TREE, resume)
    assert all((folder / name).read_text() == "mine" for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_and_the_evaluations_of_a_run_are_taken(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert run_dir.open_run(tmp_path / "new", TREE, "auto") is run_dir.RunState.NEW
    atomic.write_text(tmp_path / "run" / run_dir.CONFIG, "seed: 0\n")
    atomic.write_text(tmp_path / "run" / run_dir.EVALS / "TOFU_EVAL.json", "{}")
    assert run_dir.open_run(tmp_path / "run" / run_dir.EVALS, TREE, "auto") is run_dir.RunState.NEW
    assert run_dir.find_owned_folder(tmp_path / "run" / run_dir.EVALS) == tmp_path / "run"


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe", b"!!python/object/apply:os.system [x]", b"", b"[]", b"null", b"[" * 5000],
)
def test_a_damaged_configuration_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / run_dir.CONFIG).write_bytes(content)
    with pytest.raises(
        UserError, match=r"config\.yaml: is no run's configuration, or it is damaged"
    ):
        run_dir.open_run(tmp_path, TREE, "auto")


def test_the_folder_that_one_works_in_is_not_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic.write_text(tmp_path / "run" / run_dir.CONFIG, "seed: 0\n")
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(UserError, match="in which this command runs"):
        run_dir.open_run(Path(), TREE, "never")


@pytest.mark.parametrize(
    "line",
    [b"[]", b"3", b'{"step": "x"}', b'{"step": null}', b'{"step": 2, "lo', b"\xff", b"[" * 100_000],
)
def test_torn_lines_are_dropped(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / run_dir.METRICS
    file.write_bytes(b'{"step": 1}\n' + line + b"\n" + b'{"step": 5}\n')
    assert run_dir.read_last_metrics(tmp_path) == {"step": 5}
    json_files.truncate_after_step(file, 4)
    assert file.read_text() == '{"step": 1}\n'


def test_what_follows_the_closing_line_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / run_dir.METRICS
    lines = [
        '{"step": 4, "loss": 1.0}',
        '{"step": 4, "train_runtime": 2.0}',
        '{"step": 4, "eval_loss": 3.0}',
    ]
    file.write_text("\n".join(lines) + "\n")
    json_files.truncate_after_step(file, 4)
    assert file.read_text().splitlines() == lines[:2]


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_own_files_of_another_shape_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / run_dir.MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json is damaged: it must hold a mapping"):
        run_dir.refuse_changed_inputs(tmp_path, tmp_path / "memory")
    (tmp_path / "memory").write_text(content)
    (tmp_path / "model.safetensors").write_text("x")
    assert fingerprints.hash_weights(tmp_path, tmp_path / "memory")


def make_checkpoint(folder: Path, step: int, is_cut_off: bool = False) -> Path:
    place = folder / f"checkpoint-{step}"
    checkpoint.begin(place)
    (place / "inner").mkdir()
    for name in ("model.safetensors", "inner/optimizer.pt"):
        (place / name).write_text(f"{name} of {step}")
    if not is_cut_off:
        checkpoint.complete(place)
    return place


def test_only_checkpoints_of_ours_are_cleared(tmp_path: Path) -> None:
    whole, cut_off = make_checkpoint(tmp_path, 3), make_checkpoint(tmp_path, 6, is_cut_off=True)
    (whole / run_dir.EVALS).mkdir()
    (whole / run_dir.EVALS / "TOFU_EVAL.json").write_text("{}")
    (whole / "notes.txt").write_text("mine")
    foreign = tmp_path / "checkpoint-500"
    foreign.mkdir()
    (foreign / "model.safetensors").write_text("another trainer's")
    checkpoint.clear_all(tmp_path)
    assert not cut_off.exists()
    assert sorted(path.name for path in whole.rglob("*")) == [
        "TOFU_EVAL.json",
        run_dir.EVALS,
        "notes.txt",
    ]
    assert (foreign / "model.safetensors").read_text() == "another trainer's"


def test_damage_of_the_same_size_is_found_by_digest(tmp_path: Path) -> None:
    older, newer = make_checkpoint(tmp_path, 3), make_checkpoint(tmp_path, 6)
    assert checkpoint.find_newest(tmp_path) == (newer, [])
    damaged = newer / "inner" / "optimizer.pt"
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    assert checkpoint.find_fault(newer) is None
    start, (said,) = checkpoint.find_newest(tmp_path)
    assert start == older
    assert "checkpoint-6: inner/optimizer.pt is damaged" in said
    with pytest.raises(UserError, match="its digest is not the one"):
        checkpoint.open_named(str(newer))
    for content in ("[]", "null", "{", '{"model.safetensors": null}', '{"../x": 1}'):
        (newer / checkpoint.MARKER).write_text(content)
        assert checkpoint.find_fault(newer) == "its COMPLETE.json is damaged"
    (older / checkpoint.MARKER).write_text(json.dumps({"model.safetensors": 22}))
    assert checkpoint.find_fault(older, by_digest=True) is None, (
        "earlier versions listed sizes alone"
    )


def test_an_empty_final_model_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = tmp_path / run_dir.FINAL
    final.mkdir()
    run_state.put_away_damaged_model(tmp_path)
    assert not final.exists()
    final.mkdir()
    (final / "tokenizer.json").write_text("{}")
    run_state.put_away_damaged_model(tmp_path)
    assert not final.exists() and (tmp_path / f"{run_dir.FINAL}.old1" / "tokenizer.json").exists()
    assert "it holds no weights; moved to" in capsys.readouterr().err
    final.mkdir()
    (final / "model.safetensors").write_text("x")
    run_state.put_away_damaged_model(tmp_path)
    assert final.exists(), "earlier versions left no marker"
    checkpoint.complete(final)
    (final / "model.safetensors").write_text("half a copy")
    run_state.put_away_damaged_model(tmp_path)
    assert not final.exists()


def contents(values: dict[str, Any], rows: str = "a", **absent: str) -> merge_results.Contents:
    return {
        "_EVAL.json": {name: {"agg_value": value} for name, value in values.items()},
        "_SUMMARY.json": values,
        "_ROWS.json": {"forget.answer": {"digest": rows}},
        "_METRICS.json": {},
        "_NOTES.json": {},
        "_ABSENT.json": absent,
    }


def test_evaluations_of_the_same_thing_add_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = lambda ending: json.loads((tmp_path / f"TOFU{ending}").read_text())  # noqa: E731
    of = {"weights": "w", "settings": "s"}
    assert not merge_results.write_merged(
        contents({"b": 1, "c": 2}, d="no log"), of, "TOFU", tmp_path
    )
    assert merge_results.write_merged(contents({"a": 3, "b": 4}, e="no rows"), of, "TOFU", tmp_path)
    assert read("_SUMMARY.json") == {"a": 3, "b": 4, "c": 2} and list(read("_EVAL.json")) == [
        "a",
        "b",
        "c",
    ]
    assert read("_ABSENT.json") == {"d": "no log", "e": "no rows"}
    for changed in (
        (contents({"a": 5}), {**of, "weights": "x"}),
        (contents({"b": 5}, rows="z"), {**of, "weights": "x"}),
    ):
        assert not merge_results.write_merged(*changed, "TOFU", tmp_path)
        assert list(read("_SUMMARY.json").values()) == [5]
    assert json.loads((tmp_path / "TOFU_EVAL.json.old1").read_text()).keys() == {"a", "b", "c"}
    assert "TOFU_EVAL.json.old1 keeps 2 values" in capsys.readouterr().err
    assert (tmp_path / "TOFU_EVAL.json.old2").exists()


def test_resume_says_that_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("a,b")
    for look in (checkpoint.open_named, lambda path: run_dir.open_run(tmp_path / "new", {}, path)):
        with pytest.raises(
            UserError, match=r"q\.csv: must be auto, never, or a checkpoint folder; this is a file"
        ):
            look(str(tmp_path / "q.csv"))
        with pytest.raises(UserError, match="there is no such folder"):
            look(str(tmp_path / "none"))
