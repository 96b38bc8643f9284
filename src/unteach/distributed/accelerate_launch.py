"""`launch=NAME nproc=N`: a command once more in N processes, started by accelerate with a shipped
file.

The files are accelerate's own, so `accelerate launch --config_file` takes them as they are. Ranks
that torchrun started find in the same file how their run is spread.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unteach import plugins
from unteach.config import groups, schema
from unteach.config.inference import InferConfig
from unteach.distributed import launch_environment
from unteach.distributed.process_limits import refuse_too_many
from unteach.errors import (
    EXIT_BUG,
    EXIT_DIVERGED,
    EXIT_MISTAKE,
    EXIT_PREEMPTED,
    EXIT_ROWS_FAILED,
    Diverged,
    Ended,
    Preempted,
    RowsFailed,
    UserError,
    unknown,
)
from unteach.lazy import torch
from unteach.strict_yaml import read_yaml
from unteach.wording import counted

PATIENCE = 600
"""Seconds that asked processes have for their checkpoint before they are killed; a scheduler's own
limit is sooner."""
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR2")
"""What reaches the launcher and is passed on to all of its processes, unless this process ignores
it."""


def files(config_dirs: Iterable[str] = ()) -> dict[str, Path]:
    """The launch files by name: those that ship, and those in the folder `launch` of the user's
    configuration."""
    homes = (groups.CONFIGS, *plugins.config_folders(), *map(Path, config_dirs))
    return {file.stem: file for home in homes for file in sorted((home / "launch").glob("*.yaml"))}


def find(name: str, config_dirs: Iterable[str] = ()) -> Path:
    """The launch file of a name, or at a path."""
    known = files(config_dirs)
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml", ".json")):
        if not Path(name).is_file():
            raise UserError(f"launch={name}: there is no such file")
        return Path(name)
    raise UserError(f"launch={name}: " + unknown("launch file", name, known))


def started(
    verb: str,
    config: schema.RunConfig | InferConfig,
    overrides: Iterable[str],
    config_name: str | None,
    config_dirs: Iterable[str],
) -> bool:
    """Carries a command out in the processes that its `launch` asks for; False where it is to be
    done in this one.

    In a process that a launcher started, `launch` says how the run is spread, if the launcher did
    not.
    """
    if config.launch is None:
        return False
    file = find(config.launch, config_dirs)
    if launch_environment.by_launcher():
        _join(file, config)
        return False
    count = config.nproc or _gpus(config.launch)
    _refuse_too_many(count, file, config)
    named = [f"--config-name={config_name}"] if config_name else []
    words = [verb, *named, *(f"--config-dir={folder}" for folder in config_dirs), *overrides]
    _run(_arguments(file, count, words))
    return True


def _gpus(name: str) -> int:
    found = torch.cuda.device_count()
    if found < 2:
        said = "one GPU" if found else "no GPU"
        raise UserError(
            f"launch={name} needs nproc=N, how many processes: there is {said} to count them by"
        )
    return found


def _refuse_too_many(count: int, file: Path, config: schema.RunConfig | InferConfig) -> None:
    """Raise UserError where more processes are asked for than the GPUs can hold, or the cores
    without any GPU."""
    told = _read(file)
    trainer = getattr(config, "trainer", None)
    on_cpu = told.get("use_cpu") is True or bool(trainer and trainer.args.get("use_cpu"))
    num_gpus = 0 if on_cpu else torch.cuda.device_count()
    num_machines = max(1, int(told.get("num_machines") or 1))
    if not num_gpus:
        refuse_too_many("nproc", -(-count // num_machines))
    elif count > num_gpus * num_machines:
        there = counted(num_gpus, "GPU") + (
            f" on each of {num_machines} machines" if num_machines > 1 else ""
        )
        raise UserError(f"nproc={count}: a process needs a GPU of its own, and here is {there}")


def _read(file: Path) -> dict[str, Any]:
    """What a launch file says."""
    try:
        told = read_yaml(file)
    except UserError as error:
        raise UserError(f"launch={error}") from None
    if not isinstance(told, dict):
        raise UserError(f"launch={file}: must be a mapping, as `accelerate config` writes it")
    return told


def _arguments(file: Path, count: int, words: list[str]) -> Any:
    """What accelerate's own command would read from its command line."""
    from accelerate.commands.launch import launch_command_parser

    given = ["--config_file", str(file), "--num_processes", str(count), "--main_process_port", "0"]
    args = launch_command_parser().parse_args([*given, "-m", "unteach", *words])
    heard = [
        name for name in SIGNALS if signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN
    ]
    args.shutdown_timeout, args.signals_to_handle = PATIENCE, ",".join(heard)
    return args


def _run(args: Any) -> None:
    """Starts the processes and waits for them; how they ended is raised here."""
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[launch_environment.LAUNCHER] = str(os.getpid())
    try:
        with _quiet():
            launch_command(args)
    except SignalException as asked:
        # while it waited for what the first one asked
        again = isinstance(asked.__context__, SignalException)
        if asked.sigval == signal.SIGINT and again:
            raise KeyboardInterrupt from None
        raise Preempted(
            f"asked to stop ({asked.sigval.name}); run the same command again to go on"
        ) from None
    except ChildFailedError as failed:
        raise _ended({rank: one.exitcode for rank, one in failed.failures.items()}) from None
    except ValueError as error:
        raise UserError(f"launch: accelerate refuses {args.config_file} ({error})") from None
    finally:
        del os.environ[launch_environment.LAUNCHER]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the launcher's own log, which repeats at length what the processes say."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _ended(codes: dict[int, int]) -> Exception:
    """The exception that stands for how processes ended, by rank; they said themselves what was
    wrong."""
    signalled = {rank: code for rank, code in codes.items() if code < 0}
    if own := {rank: code for rank, code in signalled.items() if -code != signal.SIGTERM}:
        # the others ended for want of it; the launcher itself sends SIGTERM
        signalled, codes = own, own
    said = {rank: code for rank, code in codes.items() if code > 0}
    if said:
        rank, code = min(said.items())
        kinds: dict[int, type[Exception]] = {EXIT_MISTAKE: UserError, EXIT_DIVERGED: Diverged}
        kinds |= {EXIT_PREEMPTED: Preempted, EXIT_ROWS_FAILED: RowsFailed}
        words = f"process {rank} ended with code {code}; it said why, above"
        return kinds[code](words) if code in kinds else Ended(words, code)
    rank, code = min(signalled.items())
    lost = -code in (signal.SIGKILL, signal.SIGTERM)
    why = (
        "run the same command again; it goes on from the last whole checkpoint"
        if lost
        else "it crashed"
    )
    words = f"process {rank} was ended by {signal.Signals(-code).name}: {why}"
    return Ended(words, EXIT_PREEMPTED if lost else EXIT_BUG)


def _join(file: Path, config: schema.RunConfig | InferConfig) -> None:
    """In a rank: what the file says of the way a run is spread, unless accelerate said it
    already."""
    told = _read(file)
    spread = told.get("distributed_type")
    if spread in ("FSDP", "DEEPSPEED") and launch_environment.parallel_mode() in ("one", "ddp"):
        os.environ.update(_environment(file))
    stage = (told.get("deepspeed_config") or {}).get("zero_stage")
    wanted = {
        "FSDP": "fsdp2",
        "DEEPSPEED": f"zero{stage}" if stage else launch_environment.parallel_mode(),
    }.get(str(spread), "ddp")
    if launch_environment.parallel_mode() not in (wanted, "one"):
        raise UserError(
            f"launch={config.launch} and the launcher that started these processes disagree: the "
            f"one says {wanted}, the other {launch_environment.parallel_mode()}; "
            f"leave one of them out"
        )
    if config.nproc not in (None, launch_environment.world()):
        raise UserError(
            f"nproc={config.nproc}, and the launcher started {launch_environment.world()} "
            f"processes; leave nproc out"
        )


def _environment(file: Path) -> dict[str, str]:
    """The variables by which accelerate tells its processes of FSDP or DeepSpeed."""
    from accelerate.commands.launch import _validate_launch_command
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    with _quiet():
        args, defaults, _ = _validate_launch_command(
            _arguments(file, max(launch_environment.world(), 2), [])
        )
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        made = (
            prepare_deepspeed_cmd_env(args)[1]
            if args.use_deepspeed
            else prepare_multi_gpu_env(args)
        )
    return {key: value for key, value in made.items() if key.startswith(("ACCELERATE_", "FSDP_"))}
