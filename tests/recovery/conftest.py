"""Runs in forked children that can be killed at any moment; the libraries are imported once, in the
parent."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def spawn(work: Callable[[], object], log: Path, rank: int = 0, port: int | None = None) -> int:
    """Runs `work` in a forked child as the command line would, or as one of two ranks; gives its
    process id."""
    import torch

    import unteach.evals.run
    import unteach.training.build_trainer
    import unteach.training.trainer
    import unteach.verbs.train  # noqa: F401

    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    torch.set_num_threads(1)
    if port:
        from accelerate import state

        state.PartialState._reset_state()
        state.AcceleratorState._reset_state()
        ranks = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
            "MASTER_PORT": port,
        }
        os.environ.update(
            {name: str(value) for name, value in ranks.items()}, MASTER_ADDR="127.0.0.1"
        )
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    from unteach import cli

    code = 1
    try:
        cli_main(cli, work)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError


def cli_main(cli: object, work: Callable[[], object]) -> None:
    cli._command = lambda words: work()  # type: ignore[attr-defined]
    cli.main([])  # type: ignore[attr-defined]


def after(
    pid: int, seconds: float, signum: int = signal.SIGKILL, once: Path | None = None
) -> int | None:
    """Sends a signal some time after the file `once` is there; the exit code, negative for a
    signal."""
    started = time.monotonic()
    while once is not None and not once.exists() and time.monotonic() - started < 60:
        time.sleep(0.005)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signum)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn_two(work: Callable[[], object], log: Path) -> list[int]:
    """Two ranks of one run, as torchrun would start them."""
    port = free_port()
    return [spawn(work, log.with_suffix(f".{rank}"), rank, port) for rank in (0, 1)]


@pytest.fixture(scope="session")
def corpus(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little of the kit's corpus, with row counts that no batch divides."""
    folder = tmp_path_factory.mktemp("corpus")
    for file in (kit / "data").iterdir():
        (folder / file.name).write_text(file.read_text())
    for name, size in (
        ("forget10", 13),
        ("retain90", 9),
        ("retain_perturbed", 4),
        ("forget10_perturbed", 13),
    ):
        lines = (kit / "data" / f"{name}.jsonl").read_text().splitlines()[:size]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
