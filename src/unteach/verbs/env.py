"""`unteach env`: what a report of a bug needs to say of the machine, and nothing that names it."""

import os
import platform
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import psutil

from unteach.config.verb_configs import EnvConfig
from unteach.lazy import torch

VARIABLES = re.compile(
    r"(?:LOCAL_|OMPI_COMM_WORLD_|PMI_|MV2_COMM_WORLD_)?(?:WORLD_SIZE|RANK|SIZE)"
    r"|(?:ACCELERATE|FSDP|TORCH|PYTORCH|NCCL|CUDA|HF|SLURM)_\w+"
    r"|(?:OMP|MKL|OPENBLAS)_NUM_THREADS|MASTER_ADDR|MASTER_PORT|DS_ACCELERATOR"
)
"""Variables that decide how processes are launched, what they compute on and what they load."""
NOT_SHOWN = re.compile(r"TOKEN|KEY|SECRET|SLURM_(?!(?:NTASKS|NNODES|JOB_NUM_NODES)\b)")
"""Those of VARIABLES that are left out: secrets, and what names users, hosts and jobs."""
PLAIN_VALUE = re.compile(
    r"-?\d+(?:\.\d+)?(?:,\d+)*|true|false|yes|no|on|off|fp16|bf16|cpu|cuda", re.IGNORECASE
)
"""Values that are shown; any other is only said to be set, as it may be a path or a name."""
NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,driver_version",
    "--format=csv,noheader",
)


def run(config: EnvConfig) -> None:
    """Print the versions, the machine and the variables that a bug may hang on.

    No path, user or host is named, and torch is imported only where it may see a GPU.
    """
    requirements = list(_list_requirements())
    packages = [package for package, extra in requirements if extra is None]
    facts = [
        ("unteach", _find_version("unteach") or "not installed, run from its source"),
        ("python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("platform", platform.platform()),
        ("processor", _describe_processor()),
        ("torch build", _describe_torch_build()),
        *(("gpu", line) for line in _list_gpus()),
        *((package, _find_version(package) or "missing") for package in packages),
        *_describe_extras(requirements),
        *_list_variables(),
    ]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:<{width}}  {value}")


def _list_requirements() -> Iterator[tuple[str, str | None]]:
    """Yield the packages that unteach declares, each with the extra that brings it, or None."""
    try:
        lines = metadata.requires("unteach") or []
    except metadata.PackageNotFoundError:  # run from its source
        lines = []
    for line in lines:
        package = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == [\"']([\w-]+)", line)
        if package and package[0] != "unteach":
            yield package[0], extra[1] if extra else None


def _find_version(package: str) -> str | None:
    """Find the version of a package without importing it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _describe_extras(requirements: list[tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    """Yield each extra of which something is installed, with the versions of what it brings."""
    extras: dict[str, dict[str, str | None]] = {}
    for package, extra in requirements:
        if extra:
            extras.setdefault(extra, {})[package] = _find_version(package)
    for extra, versions in extras.items():
        if any(versions.values()):
            brought = (f"{name} {version or 'missing'}" for name, version in versions.items())
            yield f"extra {extra}", ", ".join(brought)


def _describe_processor() -> str:
    gib = psutil.virtual_memory().total / 2**30
    return f"{platform.machine()}, {os.cpu_count()} cores, {gib:.0f} GiB of memory"


def _describe_torch_build() -> str:
    """Say what the installed torch was built for, as the file torch/version.py has it."""
    package = util.find_spec("torch")
    if package is None or package.origin is None:
        return "missing"
    file = Path(package.origin).with_name("version.py")
    if not file.is_file():
        return "damaged: it has no version.py"
    version = runpy.run_path(str(file))
    for kind in ("cuda", "hip", "xpu"):
        if version.get(kind):
            return f"{version['__version__']}, {kind} {version[kind]}"
    return f"{version['__version__']}, cpu"


def _list_gpus() -> list[str]:
    """List what the driver and torch see of GPUs; `none` where there is no NVIDIA driver."""
    if shutil.which(NVIDIA_SMI[0]) is None:
        return ["none (no nvidia-smi)"]
    try:
        answer = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=20)
        lines = answer.stdout.strip().splitlines() if answer.returncode == 0 else []
    except (OSError, subprocess.SubprocessError):
        lines = []
    try:
        seen = f"{torch.cuda.device_count()} seen by torch"
    except (ImportError, OSError) as error:
        seen = f"torch cannot be imported ({type(error).__name__})"
    return [*(lines or ["nvidia-smi fails"]), seen]


def _list_variables() -> Iterator[tuple[str, str]]:
    """Yield the variables that decide how a run goes, with values that name nobody."""
    for name, value in sorted(os.environ.items()):
        if VARIABLES.fullmatch(name) and not NOT_SHOWN.search(name):
            yield f"${name}", value if PLAIN_VALUE.fullmatch(value) else "is set"
