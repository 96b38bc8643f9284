"""Land a run on its budget: how far from the weights before towards those after, so that the model
moves by no more than it may."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from unteach import atomic, console, run_dir
from unteach.config import schema
from unteach.config.watching import Land
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Ids
from unteach.lazy import torch
from unteach.methods.landing import LARGEST, MOST_EVALUATIONS, Landing, find_landing
from unteach.models.loading import LoadedModel
from unteach.models.weight_path import WeightPath
from unteach.training.build_reference import REFERENCE
from unteach.training.drift import DriftMeter
from unteach.training.landing_prompts import list_prompts

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

TEXTS = "landing"
"""The file of a run's reference folder with the texts, and what the model before said of them."""


class Lander(transformers.TrainerCallback):
    """Keeps what a model was before it changes, and lands it when it has.

    Build it before the weights change and before anything wraps the model. In a training run it is
    a callback, which has the model write its texts before the first step. Only the main process
    keeps the weights before and searches; the others get its weights.

    Args:
        land: the budget, and on how much text it is measured.
        loaded: the model.
        weights: the parameters that will change, by name.
        prompts: after which the model writes its texts.
        run_folder: the run's.
        seed: of the texts.
        cache_dir: where runs from the same model share the texts.
    """

    def __init__(
        self,
        land: Land,
        loaded: LoadedModel,
        weights: "Mapping[str, Parameter]",
        prompts: Sequence[Ids],
        run_folder: Path,
        seed: int,
        cache_dir: Path,
        dist: DistContext,
    ):
        self.land_config = land
        self.loaded = loaded
        self.weights = weights
        self.run_folder = run_folder
        self.seed = seed
        self.prompts = prompts
        self.cache_dir = cache_dir
        self.dist = dist
        self.meter = DriftMeter(loaded, weights.values())
        self.path = WeightPath(weights) if dist.is_main else None

    @property
    def texts_path(self) -> Path:
        return self.run_folder / REFERENCE / f"{TEXTS}.safetensors"

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        # A run that goes on has other weights by now: the file has what the first ones said.
        if self.dist.is_main and not state.global_step:
            self.prepare()
        self.dist.barrier()

    def prepare(self) -> None:
        """Let the model write its texts, and keep what it says of them."""
        land = self.land_config
        self.meter.prepare(self.prompts, land.tokens, self.seed, self.cache_dir)
        self.meter.save(self.texts_path)

    def land(self) -> Landing | None:
        """Search for the strength that meets the budget, set the weights to it, and write
        landing.json; None in a process that is not the main one."""
        landing = None
        if self.dist.is_main:
            assert self.path is not None
            self.meter.load(self.texts_path)
            self.path.end_here()
            landing = find_landing(self._measure_at, self.land_config.budget)
            others = self._find_other_landings(landing)
            self.path.move_to(landing.a)
            self._write_record(landing, others)
            for line in describe_landing(landing):
                console.say(line)
        if self.dist.world_size > 1:
            for weight in self.weights.values():
                torch.distributed.broadcast(weight.data, src=0)
        return landing

    def _find_other_landings(self, landing: Landing) -> list[Landing]:
        """Find where the run would land on each of the other budgets, by what is known already."""
        known = list(landing.evaluations)
        others = []
        for budget in self.land_config.other_budgets:
            other = find_landing(self._measure_at, budget, known)
            known = other.evaluations
            others.append(other)
        return others

    def _write_record(self, landing: Landing, others: Sequence[Landing]) -> None:
        """Write where the run landed, and where it would have on other budgets."""
        record = {**dataclasses.asdict(landing), "met": landing.is_met}
        # JSON knows no infinity: a model that broke there has none.
        record["evaluations"] = [
            (a, kl if math.isfinite(kl) else None) for a, kl in landing.evaluations
        ]
        record["tokens"] = sum(len(text.continuation) for text in self.meter.texts)
        if others:
            record["others"] = [
                {"budget": other.budget, "a": other.a, "kl": other.kl, "met": other.is_met}
                for other in others
            ]
        atomic.write_json(self.run_folder / run_dir.LANDING, record)

    def _measure_at(self, a: float) -> float:
        assert self.path is not None
        self.path.move_to(a)
        return self.meter.measure()


def describe_landing(landing: Landing) -> list[str]:
    """Describe where a landing ended, and what that means where the budget is not met."""
    budget = f"budget {landing.budget:g}"
    looks = f"{len(landing.evaluations)} looks"
    if landing.a == 0:
        least = min(landing.evaluations)
        return [
            "landed at a = 0: the model is what it was before. Nothing that was looked at is "
            f"within the {budget}: at a = {least[0]:.3g} KL is {least[1]:.3g} ({looks})"
        ]
    line = f"landed at a = {landing.a:.4g}: KL {landing.kl:.4g} nats a token, {budget} ({looks})"
    if landing.is_at_limit:
        line += (
            f"; a landing goes no further than {LARGEST:g} times what was learned, and the budget "
            "is not used up: train for longer, or take a smaller one"
        )
    elif not landing.is_met:
        line += f"; no strength within 0.95 and 1 of the budget in {MOST_EVALUATIONS} looks"
    return [line]


def build_lander(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    weights: "Mapping[str, Parameter]",
    run_folder: Path,
    dist: DistContext,
) -> Lander | None:
    """Build what lands a run that changes some weights; None where it does not land."""
    land = config.trainer.land
    if land is None:
        return None
    prompts = list_prompts(config, loaded, land.texts)
    cache_dir = Path(config.paths.cache_dir)
    return Lander(land, loaded, weights, prompts, run_folder, config.seed, cache_dir, dist)


def list_trained(model: "PreTrainedModel") -> "dict[str, Parameter]":
    """List the parameters that train, by name, once those that do not are frozen."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
