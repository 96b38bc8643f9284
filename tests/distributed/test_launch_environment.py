"""What a launcher says is read from the environment; its silent fallbacks are errors that say how
to start it right."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unteach import cli
from unteach.config import compose
from unteach.distributed import accelerate_launch, launch_environment, process_context
from unteach.errors import Diverged, Ended, Preempted, UserError

SAID = ("ACCELERATE_", "FSDP_", "MASTER_", "OMPI_", "PMI_", "MV2_", "RANK", "WORLD_SIZE", "LOCAL_")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which no launcher said anything."""
    for name in [name for name in os.environ if name.startswith(SAID)]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "one"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "ddp"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "ddp"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
            "fsdp2",
        ),
        ({"RANK": "0", "WORLD_SIZE": "1", "ACCELERATE_USE_DEEPSPEED": "true"}, "zero2"),
        (
            {
                "RANK": "0",
                "ACCELERATE_USE_DEEPSPEED": "true",
                "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
            },
            "zero3",
        ),
    ],
)
def test_how_a_run_is_spread(
    said: pytest.MonkeyPatch, environment: dict[str, str], mode: str
) -> None:
    for name, value in environment.items():
        said.setenv(name, value)
    assert launch_environment.parallel_mode() == mode


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"},
            r"asked for several processes and started one",
        ),
        ({"ACCELERATE_USE_FSDP": "true", "RANK": "0"}, r"fsdp_version: 2"),
        (
            {
                "ACCELERATE_USE_FSDP": "true",
                "FSDP_VERSION": "2",
                "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
            },
            r"fsdp_cpu_ram_efficient_loading: false",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"},
            r"stage 0 is launch=ddp",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "none.json"},
            r"none\.json cannot be read",
        ),
    ],
)
def test_what_is_refused(said: pytest.MonkeyPatch, environment: dict[str, str], words: str) -> None:
    for name, value in environment.items():
        said.setenv(name, value)
    with pytest.raises(UserError, match=words):
        launch_environment.parallel_mode()


def test_the_stage_is_that_of_the_deepspeed_file(said: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    for name, value in {"USE_DEEPSPEED": "true", "DEEPSPEED_CONFIG_FILE": str(file)}.items():
        said.setenv(f"ACCELERATE_{name}", value)
    assert launch_environment.parallel_mode() == "zero3"


WORDS = ("experiment=finetune/tofu/default", "task_name=t")


def test_nproc_goes_with_launch() -> None:
    with pytest.raises(UserError, match="set launch too"):
        compose.compose("train", (*WORDS, "nproc=2"))
    with pytest.raises(UserError, match="must be 1 or more"):
        compose.compose("train", (*WORDS, "launch=ddp", "nproc=0"))
    config = compose.compose("train", (*WORDS, "launch=ddp", "nproc=2"))
    assert (config.launch, config.nproc) == ("ddp", 2)


@pytest.mark.parametrize("name", ["fsdp", "fsdp_config", "deepspeed"])
def test_the_librarys_own_ways_say_where_it_is_said_here(name: str) -> None:
    value = "{version: 2}" if name == "fsdp_config" else "x.json"
    with pytest.raises(UserError, match="launch=fsdp2"):
        compose.compose("train", (*WORDS, f"trainer.args.{name}={value}"))


def test_files_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert list(accelerate_launch.list_launch_files()) == ["ddp", "fsdp2", "zero2", "zero3"]
    own = tmp_path / "launch" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("distributed_type: MULTI_GPU\n")
    assert (
        accelerate_launch.find_launch_file("mine", [str(tmp_path)])
        == accelerate_launch.find_launch_file(str(own))
        == own
    )
    with pytest.raises(UserError, match="did you mean fsdp2"):
        accelerate_launch.find_launch_file("fsdp")
    with pytest.raises(UserError, match="no such file"):
        accelerate_launch.find_launch_file("other.yaml")


def config_of(*words: str) -> object:
    return compose.compose("train", (*WORDS, *words))


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_rank_of_torchrun_reads_in_the_file_how_it_is_spread(
    said: pytest.MonkeyPatch, name: str
) -> None:
    before = dict(os.environ)
    said.setenv("RANK", "0")
    said.setenv("WORLD_SIZE", "2")
    try:
        assert (
            accelerate_launch.run_in_processes(
                "train", config_of(f"launch={name}"), WORDS, "train", ()
            )
            is False
        )  # type: ignore[arg-type]
        assert launch_environment.parallel_mode() == name
        with pytest.raises(UserError, match="the launcher started 2 processes"):
            accelerate_launch.run_in_processes(
                "train", config_of(f"launch={name}", "nproc=3"), WORDS, "train", ()
            )  # type: ignore[arg-type]
        if name != "ddp":
            with pytest.raises(UserError, match="disagree"):
                accelerate_launch.run_in_processes(
                    "train", config_of("launch=ddp"), WORDS, "train", ()
                )  # type: ignore[arg-type]
    finally:
        for added in os.environ.keys() - before.keys():
            del os.environ[added]


def test_without_launch_a_command_is_done_in_this_process(said: pytest.MonkeyPatch) -> None:
    assert accelerate_launch.run_in_processes("train", config_of(), WORDS, "train", ()) is False  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codes", "kind", "code"),
    [
        ({0: 2, 1: 2}, UserError, 2),
        ({1: 3}, Diverged, 3),
        ({0: 75}, Preempted, 75),
        ({0: 75, 1: -9}, Ended, 75),
        ({0: 3, 1: -15}, Diverged, 3),
        ({0: -15, 1: -15}, Ended, 75),
        ({0: -11, 1: -15}, Ended, 1),
        ({0: 1, 1: 1}, Ended, 1),
    ],
)
def test_how_processes_ended_is_how_the_command_ends(
    codes: dict[int, int], kind: type, code: int
) -> None:
    error = accelerate_launch._build_exit_error(codes)
    assert type(error) is kind
    assert error.exit_code == code  # type: ignore[attr-defined]


def test_deepspeed_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"\.\[deepspeed\]\""):
        process_context._refuse_without_deepspeed("zero3")


def _raising(error: Exception) -> Callable[[list[str]], None]:
    def fail(words: list[str]) -> None:
        print("for the first process's ears")
        raise error

    return fail


def test_the_first_process_speaks_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_all = UserError("everywhere")
    of_all.of_all = True
    for error, heard in (
        (Diverged("x"), ""),
        (of_all, ""),
        (UserError("here"), "unteach (process 1): here\n"),
    ):
        monkeypatch.setattr(cli, "_command", _raising(error))
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        with pytest.raises(SystemExit):
            cli.main([])
        assert capsys.readouterr().err == heard
        assert not capsys.readouterr().out
