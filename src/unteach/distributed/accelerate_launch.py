"""Run a command again in N processes for `launch=NAME nproc=N`, started by accelerate with a launch
file.

The files are accelerate's own, so `accelerate launch --config_file` takes them as they are. Ranks
that torchrun started read their parallelism strategy from the same file.
"""

import contextlib
import logging
import math
import os
import signal
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
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
    describe_unknown,
)
from unteach.lazy import accelerate_launch_command, torch
from unteach.strict_yaml import read_yaml
from unteach.wording import format_count

SHUTDOWN_SECONDS = 600
"""What processes that were asked to stop have for their checkpoint before they are killed; a
scheduler's own limit is sooner."""
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR2")
"""What the launcher passes on to all of its processes, unless this process ignores it."""
ERRORS: dict[int, type[Exception]] = {
    EXIT_MISTAKE: UserError,
    EXIT_DIVERGED: Diverged,
    EXIT_PREEMPTED: Preempted,
    EXIT_ROWS_FAILED: RowsFailed,
}
"""The exception that stands for each exit code of a process."""


def list_launch_files(config_dirs: Iterable[str] = ()) -> dict[str, Path]:
    """List the launch files by name: those that ship, and those in the folder `launch` of the
    user's configuration."""
    files: dict[str, Path] = {}
    for config_dir in (groups.CONFIGS, *plugins.config_folders(), *map(Path, config_dirs)):
        for file in sorted((config_dir / "launch").glob("*.yaml")):
            files[file.stem] = file
    return files


def find_launch_file(name: str, config_dirs: Iterable[str] = ()) -> Path:
    """Find the launch file of a name, or at a path."""
    known = list_launch_files(config_dirs)
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml", ".json")):
        if not Path(name).is_file():
            raise UserError(f"launch={name}: there is no such file")
        return Path(name)
    raise UserError(f"launch={name}: " + describe_unknown("launch file", name, known))


def run_in_processes(
    verb: str,
    config: schema.RunConfig | InferConfig,
    overrides: Iterable[str],
    config_name: str | None,
    config_dirs: Sequence[str],
) -> bool:
    """Run a command in the processes that its `launch` asks for, and wait for them.

    In a process that a launcher started, nothing is run: `launch` names the parallelism strategy,
    if the launcher did not.

    Args:
        verb: of the command.
        config: its configuration.
        overrides: its words.
        config_name: its option --config-name.
        config_dirs: its options --config-dir.

    Returns:
        True once the command has been run; False where it is to be run in this process.
    """
    if config.launch is None:
        return False
    file = find_launch_file(config.launch, config_dirs)
    if launch_environment.is_launched():
        _apply_launch_file(file, config)
        return False
    num_processes = config.nproc or _count_gpus(config.launch)
    _refuse_too_many(num_processes, file, config)
    options = [f"--config-name={config_name}"] if config_name else []
    options += [f"--config-dir={folder}" for folder in config_dirs]
    _run(_parse_launch_args(file, num_processes, [verb, *options, *overrides]))
    return True


def _count_gpus(launch: str) -> int:
    num_gpus = torch.cuda.device_count()
    if num_gpus < 2:
        gpus = "one GPU" if num_gpus else "no GPU"
        raise UserError(
            f"launch={launch} needs nproc=N, how many processes: there is {gpus} to count them by"
        )
    return num_gpus


def _refuse_too_many(
    num_processes: int, file: Path, config: schema.RunConfig | InferConfig
) -> None:
    """Raise UserError where there are more processes than the GPUs can hold, or the cores without
    any GPU."""
    content = _read_launch_file(file)
    trainer = getattr(config, "trainer", None)
    is_on_cpu = content.get("use_cpu") is True or bool(trainer and trainer.args.get("use_cpu"))
    num_gpus = 0 if is_on_cpu else torch.cuda.device_count()
    num_machines = max(1, int(content.get("num_machines") or 1))
    if not num_gpus:
        refuse_too_many("nproc", math.ceil(num_processes / num_machines))
    elif num_processes > num_gpus * num_machines:
        gpus = format_count(num_gpus, "GPU")
        if num_machines > 1:
            gpus += f" on each of {num_machines} machines"
        raise UserError(
            f"nproc={num_processes}: a process needs a GPU of its own, and here is {gpus}"
        )


def _read_launch_file(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except UserError as error:
        raise UserError(f"launch={error}") from None
    if not isinstance(content, dict):
        raise UserError(f"launch={file}: must be a mapping, as `accelerate config` writes it")
    return content


def _parse_launch_args(file: Path, num_processes: int, command: list[str]) -> Namespace:
    """Build what accelerate's own command would parse from its command line."""
    words = ["--config_file", str(file), "--num_processes", str(num_processes)]
    words += ["--main_process_port", "0", "-m", "unteach", *command]
    args: Namespace = accelerate_launch_command.launch_command_parser().parse_args(words)
    signals = []
    for name in SIGNALS:
        if signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN:
            signals.append(name)
    args.signals_to_handle = ",".join(signals)
    args.shutdown_timeout = SHUTDOWN_SECONDS
    return args


def _run(args: Namespace) -> None:
    """Start the processes and wait for them; how they ended is raised here."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[launch_environment.LAUNCHER] = str(os.getpid())
    try:
        with _mute_launcher_log():
            accelerate_launch_command.launch_command(args)
    except SignalException as stop:
        # A second signal came while the launcher waited for what the first one asked for.
        is_second = isinstance(stop.__context__, SignalException)
        if stop.sigval == signal.SIGINT and is_second:
            raise KeyboardInterrupt from None
        raise Preempted(
            f"asked to stop ({stop.sigval.name}); run the same command again to go on"
        ) from None
    except ChildFailedError as error:
        exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        raise _build_exit_error(exit_codes) from None
    except ValueError as error:
        raise UserError(f"launch: accelerate refuses {args.config_file} ({error})") from None
    finally:
        del os.environ[launch_environment.LAUNCHER]


@contextlib.contextmanager
def _mute_launcher_log() -> Iterator[None]:
    """Mute the launcher's own log, which repeats at length what the processes say."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _build_exit_error(exit_codes: dict[int, int]) -> Exception:
    """Build the exception that stands for how processes ended.

    Args:
        exit_codes: by rank; negative: the signal that ended a process.
    """
    # The launcher sends SIGTERM to the others once one process has died of another signal.
    died = {}
    for rank, code in exit_codes.items():
        if code < 0 and -code != signal.SIGTERM:
            died[rank] = code
    if died:
        exit_codes = died

    # A process that ended by itself has printed why.
    ended_with_code = [(rank, code) for rank, code in exit_codes.items() if code > 0]
    if ended_with_code:
        rank, code = min(ended_with_code)
        message = f"process {rank} ended with code {code}; it said why, above"
        return ERRORS[code](message) if code in ERRORS else Ended(message, code)

    rank, code = min(exit_codes.items())
    name = signal.Signals(-code).name
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return Ended(
            f"process {rank} was ended by {name}: run the same command again; it goes on from the "
            "last whole checkpoint",
            EXIT_PREEMPTED,
        )
    return Ended(f"process {rank} was ended by {name}: it crashed", EXIT_BUG)


def _apply_launch_file(file: Path, config: schema.RunConfig | InferConfig) -> None:
    """Set the parallelism strategy of a launch file in this rank's environment, unless accelerate
    has set it; refuse another one."""
    content = _read_launch_file(file)
    distributed_type = content.get("distributed_type")
    is_sharding = distributed_type in ("FSDP", "DEEPSPEED")
    if is_sharding and launch_environment.parallel_mode() in ("one", "ddp"):
        os.environ.update(_build_environment(file))

    actual_mode = launch_environment.parallel_mode()
    wanted_mode = "ddp"
    if distributed_type == "FSDP":
        wanted_mode = "fsdp2"
    elif distributed_type == "DEEPSPEED":
        stage = (content.get("deepspeed_config") or {}).get("zero_stage")
        wanted_mode = f"zero{stage}" if stage else actual_mode
    if actual_mode not in (wanted_mode, "one"):
        raise UserError(
            f"launch={config.launch} and the launcher that started these processes disagree: the "
            f"one says {wanted_mode}, the other {actual_mode}; leave one of them out"
        )
    num_launched = launch_environment.world_size()
    if config.nproc not in (None, num_launched):
        raise UserError(
            f"nproc={config.nproc}, and the launcher started {num_launched} processes; leave nproc "
            "out"
        )


def _build_environment(file: Path) -> dict[str, str]:
    """Build the variables by which accelerate tells its processes of FSDP or DeepSpeed."""
    num_processes = max(launch_environment.world_size(), 2)
    with _mute_launcher_log():
        args, defaults, _ = accelerate_launch_command._validate_launch_command(
            _parse_launch_args(file, num_processes, [])
        )
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        if args.use_deepspeed:
            _, variables = accelerate_launch_command.prepare_deepspeed_cmd_env(args)
        else:
            variables = accelerate_launch_command.prepare_multi_gpu_env(args)
    prefixes = ("ACCELERATE_", "FSDP_")
    return {name: value for name, value in variables.items() if name.startswith(prefixes)}
