"""A place has one writer at a time: with flock, without it, and after the writer was killed."""

import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unteach import owner
from unteach.errors import UserError


def in_child(work: Callable[[], object]) -> int:
    """Fork a process that does the work, says so, and then waits to be killed; gives its number."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writing, b"x")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)  # whoever reads the tests' output waits for nobody else
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def without_flock(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture(params=["flock", "no flock"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "no flock":
        monkeypatch.setattr(owner.fcntl, "flock", without_flock)
    return tmp_path / "run"


def test_the_second_is_told_who_and_a_killed_one_leaves_it_free(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    pid = in_child(owner.own(place).__enter__)
    assert owner.is_held(owner.find_lock(place))
    with pytest.raises(
        owner.Busy, match=f"run: another process.*process {pid} on {socket.gethostname()}, since"
    ):
        owner.own(place).__enter__()
    kill(pid)
    assert not owner.is_held(owner.find_lock(place))
    with owner.own(place):
        assert owner.is_held(owner.find_lock(place))
        with pytest.raises(UserError, match=f"process {os.getpid()} on"):
            owner.own(place).__enter__()
    assert not owner.is_held(owner.find_lock(place))
    assert not list(place.parent.iterdir()), "no lock is left behind"


def test_a_dead_owner_without_flock_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(owner.fcntl, "flock", without_flock)
    pid = in_child(owner.own(tmp_path / "run").__enter__)
    kill(pid)
    with owner.own(tmp_path / "run"):
        assert f"its owner is gone (process {pid} on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("silent", "is_taken"), [(owner.SILENT_AFTER - 60, False), (owner.SILENT_AFTER + 60, True)]
)
def test_an_owner_of_another_machine_is_judged_by_its_silence(
    silent: float, is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner.fcntl, "flock", without_flock)
    place = tmp_path / "run"
    file = owner.find_lock(place).with_suffix(owner.OWNER)
    file.write_text(
        json.dumps({"host": "elsewhere", "pid": os.getpid(), "started": 0.0, "token": "0"})
    )
    moment = time.time() - silent
    os.utime(file, (moment, moment))
    if not is_taken:
        with pytest.raises(owner.Busy, match="on elsewhere"):
            owner.own(place).__enter__()
        return
    with owner.own(place):
        found = owner.read_owner(file)
        assert found is not None and found.pid == os.getpid() and found.host == socket.gethostname()


def test_an_owner_gives_signs_of_life(tmp_path: Path) -> None:
    file = tmp_path / ".run.owner"
    me = owner.Owner("here", 1, 0.0, "0")
    assert owner._create_exclusively(file, me)
    assert not owner._create_exclusively(file, owner.Owner("there", 2, 0.0, "1"))
    os.utime(file, (0, 0))

    class Twice:
        left = 2

        def wait(self, seconds: float) -> bool:
            self.left -= 1
            return self.left == 0

    owner._beat(file, me, Twice())  # type: ignore[arg-type]
    assert file.stat().st_mtime > time.time() - 60


def test_what_an_owner_forked_does_not_hold_the_place_on(tmp_path: Path) -> None:
    """A data loader's worker may outlive the run that it is of."""
    reading, writing = os.pipe()

    def own_and_fork() -> None:
        held.append(owner.own(tmp_path / "run"))
        held[0].__enter__()
        worker = in_child(lambda: None)
        os.write(writing, f"{worker}\n".encode())

    held: list[Any] = []
    pid = in_child(own_and_fork)
    worker = int(os.read(reading, 20))
    kill(pid)
    try:
        with owner.own(tmp_path / "run"):
            os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_folders_made_for_a_lock_go_where_nothing_came_into_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused"), owner.own(tmp_path / "saves" / "train" / "run"):
        raise UserError("refused")
    assert list(tmp_path.iterdir()) == []
    with owner.own(tmp_path / "saves" / "train" / "run"):
        (tmp_path / "saves" / "train" / "run").mkdir()
    assert [path.name for path in (tmp_path / "saves" / "train").iterdir()] == ["run"]


def test_a_folder_that_takes_no_file_is_refused() -> None:
    """It is there, so making it changes nothing; to try again and again would never end."""
    with (
        pytest.raises(UserError, match="/proc: no file can be made there"),
        owner.own(Path("/proc/x")),
    ):
        pass
