"""The reader of what is printed may leave: the work goes on, and no other broken pipe is taken for
that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unteach import cli, console

WORK = """
import sys
from pathlib import Path
from unteach import cli

def work(words):
    for number in range(20_000):
        print("step", number)
        print("noted", number, file=sys.stderr)
    Path(sys.argv[1]).write_text("done")

cli._command = work
cli.main([])
"""


def test_a_reader_that_leaves_does_not_end_the_work(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORK, str(tmp_path / "result")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    child.stdout.read(10)
    child.stdout.close()
    assert child.wait() == 0
    assert (tmp_path / "result").read_text() == "done"


def test_another_broken_pipe_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(words: list[str]) -> None:
        raise BrokenPipeError(32, "Broken pipe")  # a data loader's worker, a server's socket

    monkeypatch.setattr(cli, "_command", work)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train"])
    assert ended.value.code == 75
    assert "another process of this run is gone" in capsys.readouterr().err


def test_other_troubles_of_printing_are_raised(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "f", os.O_RDONLY | os.O_CREAT)
    with (
        console._LastingFile(descriptor, "w", closefd=True) as raw,
        pytest.raises(OSError, match="Bad file descriptor"),
    ):
        raw.write(b"x")
