"""`unteach env`: what a report of a bug needs, and nothing that names who reports it."""

import getpass
import platform
import re
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

from unteach.cli import main
from unteach.lazy import torch
from unteach.verbs import env
from unteach.verbs.start import start

SECRETS = {
    "HF_TOKEN": "hf_secret",
    "HF_HOME": "/disk/of/ann/hub",
    "MASTER_ADDR": "10.1.2.3",
    "SLURM_JOB_USER": "ann",
    "SLURM_JOB_ID": "4711",
    "NCCL_SOCKET_IFNAME": "node7-eth0",
    "WANDB_API_KEY": "0123456789",
    "CUDA_VISIBLE_DEVICES": "GPU-8f6e2f2c",
}


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    start("env", [])
    return capsys.readouterr().out


def read_facts(text: str) -> dict[str, str]:
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in text.splitlines())


def test_it_has_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    facts = read_facts(printed(capsys))
    assert facts["unteach"] == metadata.version("unteach")
    assert facts["python"].endswith(platform.python_version())
    for package in ("torch", "transformers", "accelerate", "peft"):
        assert facts[package] == metadata.version(package)
    assert facts["torch build"].startswith(torch.__version__.partition("+")[0])
    assert facts["extra report"] == f"matplotlib {metadata.version('matplotlib')}"


def test_nobody_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    text = printed(capsys)
    facts = read_facts(text)
    assert facts["$WORLD_SIZE"] == "1" and facts["$ACCELERATE_MIXED_PRECISION"] == "bf16"
    for name in ("HF_HOME", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME"):
        assert facts[f"${name}"] == "is set"
    private = [*SECRETS.values(), str(Path.home()), str(Path.cwd()), sys.prefix]
    assert not [word for word in private if len(word) > 1 and word in text]
    for word in (getpass.getuser(), platform.node()):
        assert not re.search(rf"\b{re.escape(word)}\b", text)
    assert "/" not in text


def test_torch_is_not_imported_where_no_driver_is() -> None:
    code = (
        "import shutil, sys; shutil.which = lambda name: None\n"
        "from unteach.verbs.start import start; start('env', [])\n"
        "assert not {'torch', 'transformers', 'pandas', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("exit_code", [0, 9])
def test_gpus_are_those_of_the_driver_and_those_of_torch(
    exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\necho 'NVIDIA T4, 15360 MiB, 570.1'\nexit {exit_code}\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = "nvidia-smi fails" if exit_code else "NVIDIA T4, 15360 MiB, 570.1"
    assert env._list_gpus() == [card, "1 seen by torch"]


def test_what_is_not_installed_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", find_none)
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    facts = read_facts(printed(capsys))
    assert facts["torch"] == facts["torch build"] == facts["transformers"] == "missing"
    assert not [name for name in facts if name.startswith("extra")]


@pytest.mark.parametrize("word", ["torch", "x=1"])
def test_it_takes_no_words(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["env", word])
    assert ended.value.code == 2
    assert f"unteach env: takes no words, got {word}" in capsys.readouterr().err
