"""What comes whole or not at all, and that nothing but our own half-written files is ever swept."""

import os
import signal
from pathlib import Path

import pytest

from unteach import atomic
from unteach.errors import UserError

MINE = (
    ".env.template",
    ".env.personal",
    ".tmux.conf.original",
    ".eslintrc.defaults",
    ".x.abc123-1-12345678.unteach",
)


def die_while_writing(folder: Path) -> None:
    """Have a child killed while a file and a folder of its are half-written."""
    pid = os.fork()
    if pid == 0:
        with (
            atomic.atomic_write(folder / "file.json"),
            atomic.atomic_write_folder(folder / "made") as made,
        ):
            (made / "part").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_a_killed_process_left_is_swept_by_the_next_that_writes_there(tmp_path: Path) -> None:
    for name in MINE:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".git.original").mkdir()
    die_while_writing(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(MINE) + 3
    with atomic.atomic_write(tmp_path / "other.json") as temporary:
        assert atomic.is_temporary(temporary) and not atomic.is_stale(temporary)
        atomic.remove_stale_temp_files(tmp_path)
        temporary.write_text("{}")
    assert {path.name for path in tmp_path.iterdir()} == {*MINE, ".git.original", "other.json"}


def test_a_live_writer_and_another_machine_keep_theirs(tmp_path: Path) -> None:
    of_parent = tmp_path / f".a.{atomic._hash_host()}-{os.getppid()}-00000000{atomic.SUFFIX}"
    elsewhere = tmp_path / f".b.000000-1-00000000{atomic.SUFFIX}"
    for file in (of_parent, elsewhere):
        file.touch()
    atomic.remove_stale_temp_files(tmp_path)
    assert of_parent.exists() and elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    atomic.remove_stale_temp_files(tmp_path)
    assert of_parent.exists() and not elsewhere.exists()


def test_the_rename_is_on_disk_and_the_umask_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(atomic, "sync", lambda path: synced.append(path.name))
    before = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "f.txt", "x")
        with atomic.atomic_write_folder(tmp_path / "made") as folder:
            (folder / "part").write_text("x")
    finally:
        os.umask(before)
    assert synced.count(tmp_path.name) == 2
    assert (tmp_path / "f.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o750


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    with (
        pytest.raises(OSError, match="not empty"),
        atomic.atomic_write_folder(tmp_path / "there") as folder,
    ):
        (folder / "new").write_text("y")
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "mine"]


def test_a_long_name_and_a_place_that_is_none(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / ("ü" * 120), "x")
    assert [len(path.name) for path in tmp_path.iterdir()] == [120]
    with pytest.raises(UserError, match="/proc/none: this folder cannot be made there"):
        atomic.write_text(Path("/proc/none/x"), "x")
