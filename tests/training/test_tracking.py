"""What a run is called in Weights & Biases: from its configuration, and the same again when it goes
on."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unteach.config import schema
from unteach.config.compose import compose
from unteach.errors import UserError
from unteach.studies.expansion import expand
from unteach.studies.study_file import read
from unteach.training.tracking import open_trackers
from unteach.verbs import train


def asked(**wandb: Any) -> schema.TrainConfig:
    return schema.TrainConfig(
        mode="train",
        task_name="x",
        seed=0,
        paths=schema.Paths("x"),
        model=schema.ModelConfig({}),
        trainer=schema.TrainerConfig("SFT", None, {}),
        data=schema.DataConfig({}),
        wandb=schema.Wandb(**wandb),
    )


def test_a_study_is_a_group_and_a_kind_a_job_type() -> None:
    plan = {
        run.name: run
        for run in expand({**read("demo"), "wandb": {"project": "mine", "entity": "us"}})
    }
    told = compose("unlearn", plan["NPO"].overrides).wandb
    assert told == schema.Wandb(project="mine", entity="us", group="demo", job_type="forget")
    assert not any("wandb" in word for word in expand(read("demo"))[0].overrides)


def test_wandb_where_nothing_is_sent_is_a_mistake() -> None:
    with pytest.raises(UserError, match="report_to=wandb"):
        compose("unlearn", ["experiment=unlearn/authors/default", "task_name=x", "wandb.group=g"])
    with pytest.raises(UserError, match="did you mean group"):
        compose(
            "unlearn",
            [
                "experiment=unlearn/authors/default",
                "task_name=x",
                "wandb.grup=g",
                "trainer.args.report_to=wandb",
            ],
        )


def test_one_run_there_for_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_LOG_MODEL", "the user's own")
    opened: list[dict[str, Any]] = []
    closed: list[int] = []
    fake = SimpleNamespace(
        init=lambda **given: opened.append(given),
        run=SimpleNamespace(finish=lambda: closed.append(1)),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for folder in ("a", "b", "a"):
        with open_trackers(
            asked(project="p", group="g", job_type="forget", log_model="end"),
            tmp_path / folder,
            is_main=True,
        ):
            assert os.environ["WANDB_LOG_MODEL"] == "end"
    assert opened[0] == opened[2], "a run that goes on is the same run there"
    assert opened[0]["id"] != opened[1]["id"]
    assert {k: v for k, v in opened[0].items() if v and k != "id"} == {
        "project": "p",
        "group": "g",
        "job_type": "forget",
        "name": "x",
        "resume": "allow",
    }
    assert os.environ["WANDB_LOG_MODEL"] == "the user's own"
    assert len(closed) == 3, "the next run of this process must not go on in it"
    with open_trackers(asked(), tmp_path / "a", is_main=False):
        pass
    assert len(opened) == 3, "one process opens it for all"


@pytest.mark.long
def test_two_runs_of_one_process_are_two_runs_there(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the library itself, which writes into a folder where it is offline."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    words = [
        "experiment=unlearn/authors/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={tiny_folder}",
        "template=qa",
        "eval=null",
        "trainer.args.max_steps=2",
        "trainer.args.logging_steps=1",
        "trainer.args.report_to=wandb",
        "wandb.group=g",
        "wandb.job_type=forget",
        "wandb.dir=w",
    ]
    for name in ("one", "two"):
        train.train(*words, f"task_name={name}", config_name="unlearn")
    there = sorted(
        folder.name.rpartition("-")[2]
        for folder in (tmp_path / "w" / "wandb").glob("offline-run-*")
    )
    assert len(there) == len(set(there)) == 2
