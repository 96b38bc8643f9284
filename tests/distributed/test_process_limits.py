"""No count of the user's takes the machine down, and ranks end with their launcher."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unteach.distributed import accelerate_launch
from unteach.distributed.process_limits import num_cores, refuse_too_many
from unteach.errors import UserError
from unteach.studies import gpu_slots
from unteach.studies.settings import Local

MOST = 4 * num_cores()


@pytest.mark.parametrize(
    ("num_gpus", "use_cpu", "most"), [(0, False, MOST), (3, False, 3), (3, True, MOST)]
)
def test_processes_have_a_bound(
    num_gpus: int, use_cpu: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    config: Any = SimpleNamespace(trainer=SimpleNamespace(args={"use_cpu": use_cpu}))
    file = accelerate_launch.find_launch_file("ddp")
    accelerate_launch._refuse_too_many(most, file, config)
    with pytest.raises(UserError, match=rf"nproc={most + 1}: "):
        accelerate_launch._refuse_too_many(most + 1, file, config)


def test_machines_share_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    file = tmp_path / "two.yaml"
    file.write_text("num_machines: 2\n")
    config: Any = SimpleNamespace(trainer=None)
    accelerate_launch._refuse_too_many(4, file, config)
    with pytest.raises(UserError, match="here is 2 GPUs on each of 2 machines"):
        accelerate_launch._refuse_too_many(5, file, config)
    for content in ("[]", "a: [", "\x00"):
        file.write_text(content)
        with pytest.raises(UserError, match=r"two\.yaml: "):
            accelerate_launch._refuse_too_many(1, file, config)


def test_other_counts_have_one_too() -> None:
    refuse_too_many("num_proc", MOST)
    with pytest.raises(
        UserError, match=f"num_proc={MOST + 1}: at most {MOST} processes here, 4 for each of"
    ):
        refuse_too_many("num_proc", MOST + 1)
    with pytest.raises(UserError, match="jobs=100000: at most"):
        gpu_slots.build_slots(Local(jobs=100_000))


RANK = (
    "import os, sys, time; from unteach.distributed import launch_environment; "
    "launch_environment.end_with_launcher(); "
    "print(os.getpid(), flush=True); time.sleep(60)"
)
LAUNCHER = f"""
import os, subprocess, sys
os.environ.update(RANK="0", WORLD_SIZE="1", UNTEACH_LAUNCHER=str(os.getpid()))
subprocess.Popen([sys.executable, "-c", {RANK!r}], start_new_session=True).wait()
"""


def test_a_rank_ends_with_its_launcher() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    assert int(launcher.stdout.readline()) != launcher.pid
    launcher.kill()
    # The pipe is closed once the rank, which has it too, is gone.
    assert launcher.stdout.read() == b""
    launcher.wait()


def test_a_rank_whose_launcher_is_gone_already_does_not_begin() -> None:
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "UNTEACH_LAUNCHER": "1"}
    assert os.getpid() != 1
    ended = subprocess.run(
        [sys.executable, "-c", RANK], env=environment, capture_output=True, check=False
    )
    assert ended.returncode == 75 and ended.stdout == b""
