"""DualOptim: steps on the forget rows and on the retain rows take turns, each with moments of its
own."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.doors import train
from tests.recovery.conftest import corpus  # noqa: F401
from tests.training.test_two_gradients import words
from unteach import run_dir
from unteach.config import compose
from unteach.config.dual_optim import DualOptim
from unteach.config.schema import TrainConfig, TrainerConfig
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.methods.base import Side
from unteach.training.build_args import build_training_args
from unteach.training.build_trainer import refuse_launch
from unteach.training.dual_adamw import DualAdamW


@pytest.mark.parametrize("fused", [None, True])
def test_it_is_two_adamw_stepped_in_turn(fused: bool | None) -> None:
    """Also where it goes on from its own state, as a checkpoint has it."""
    draws = torch.Generator().manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(4, 3, generator=draws))
    theirs = torch.nn.Parameter(ours.detach().clone())
    settings: dict[str, Any] = {"weight_decay": 0.1, "eps": 1e-6, "fused": fused}
    dual = DualAdamW([ours], 0.25, lr=0.1, **settings)
    plain = {
        "forget": torch.optim.AdamW([theirs], lr=0.025, **settings),
        "retain": torch.optim.AdamW([theirs], lr=0.1, **settings),
    }
    sides: list[Side] = ["forget", "retain", "retain", "retain"]
    for number in range(11):
        gradient = torch.randn(4, 3, generator=draws)
        side = sides[number % len(sides)]
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        dual.side = side
        dual.step()
        plain[side].step()
        assert torch.equal(ours, theirs)
        if number == 5:
            state = pickle.loads(pickle.dumps(dual.state_dict()))
            dual = DualAdamW([ours], 0.25, lr=0.1, **settings)
            dual.load_state_dict(state)


def carry_out(kit: Path, rows: Path, folder: Path, *extra: str) -> list[dict[str, Any]]:
    """Trains; the lines of the log that are of a step."""
    steps = ("trainer.args.optim=adamw_torch", "trainer.args.max_steps=6")
    told = words(kit, rows, folder, *steps, *extra)
    train(*told, config_name="unlearn")
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


def test_each_step_is_of_one_side(kit: Path, corpus: Path, tmp_path: Path) -> None:
    dual = "trainer.dual_optim={forget_steps: 1, retain_steps: 2}"
    lines = carry_out(kit, corpus, tmp_path / "run", dual)
    sides = ["forget" if "forget_loss" in line else "retain" for line in lines]
    assert sides[:6] == ["forget", "retain", "retain"] * 2
    for line, side in zip(lines, sides, strict=True):
        assert ("retain_loss" in line) == (side == "retain")
        assert line["loss"] == pytest.approx(line[f"{side}_loss"], rel=1e-4)


def test_a_line_of_several_steps_averages_each_term_over_its_own(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    dual = "trainer.dual_optim={forget_steps: 1, retain_steps: 2}"
    each = carry_out(kit, corpus, tmp_path / "each", dual)
    (first, *_) = carry_out(kit, corpus, tmp_path / "three", dual, "trainer.args.logging_steps=3")
    retain = [line["retain_loss"] for line in each[1:3]]
    assert first["forget_loss"] == pytest.approx(each[0]["forget_loss"], rel=1e-5)
    assert first["retain_loss"] == pytest.approx(sum(retain) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("trainer=GradAscent",), "has no retain term here"),
        (
            ("trainer=PDU", "trainer.method_args.retain_loss_eps=0.1"),
            "changes what it does after each step",
        ),
        (("trainer=IdkSFT", "trainer.args.ddp_static_graph=true"), "steps that are all alike"),
        (("trainer.surgery=pcgrad",), "need both in a step"),
        (("trainer.args.optim=sgd",), "trainer.args.optim=sgd is another"),
        (("launch=fsdp2",), "shards one set of moments"),
        (("trainer=RMU", "trainer.method_args.retain_loss_type=NLL"), "above train in every step"),
    ],
)
def test_what_it_cannot_stand_round_is_refused(
    kit: Path, corpus: Path, tmp_path: Path, extra: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=f"trainer.dual_optim: .*{message}"):
        carry_out(kit, corpus, tmp_path / "run", "trainer.dual_optim={}", *extra)


@pytest.mark.parametrize(
    "fields", [{"forget_steps": 0}, {"retain_steps": 0}, {"forget_lr_ratio": 0.0}]
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be"):
        DualOptim(**fields)


@pytest.mark.parametrize("mode", ["fsdp2", "zero2", "zero3"])
def test_it_is_refused_however_the_processes_were_launched(mode: str) -> None:
    """By another tool, of which the configuration says nothing."""
    trainer = TrainerConfig("NPO", method=None, args={}, dual_optim=DualOptim())
    args = transformers.TrainingArguments(use_cpu=True)
    with pytest.raises(UserError, match=f"trainer.dual_optim: launch={mode}: it shards one set"):
        refuse_launch(trainer, args, mode)
    for unsharded in ("one", "ddp"):
        refuse_launch(trainer, args, unsharded)


@pytest.mark.parametrize("trainer", ["NPO", "IdkSFT"])
def test_an_epoch_of_warm_up_is_the_epoch_of_the_run(trainer: str, tmp_path: Path) -> None:
    """Also where the forget side trains on other answers than data.forget, the anchor, holds."""
    told = [
        "experiment=unlearn/tofu/default",
        f"trainer={trainer}",
        "trainer.dual_optim={forget_steps: 1, retain_steps: 5}",
        "trainer.args.warmup_epochs=1",
        "trainer.args.per_device_train_batch_size=4",
        "trainer.args.gradient_accumulation_steps=1",
        "task_name=t",
    ]
    config = compose.compose("unlearn", told)
    assert isinstance(config, TrainConfig)
    (name,) = config.trainer.method.forget_streams()
    anchor = Stream(name, [[{"input_ids": [0]}] * 8])
    args = build_training_args(config, "float32", anchor, tmp_path)
    assert args.warmup_steps == 2 * (1 + 5)
