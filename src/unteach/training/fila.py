"""Begin a run's LoRA by FILA (methods/edit/fila.py), and keep the half that does not train."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import transformers

from unteach.config import schema
from unteach.config.launch_faults import find_launch_fault
from unteach.data.collators import Collator
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.methods.edit import fila
from unteach.methods.edit.row_gradients import RowGradients
from unteach.models.adapters import TRAINED
from unteach.models.loading import LoadedModel
from unteach.models.lora import find_lora_pairs
from unteach.models.placement import place_model
from unteach.training.prepare import PreparedRun

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

logger = logging.getLogger(__name__)


class HoldHalves(transformers.TrainerCallback):
    """Keep the frozen halves of a run's adapter through every optimiser step."""

    def __init__(self, halves: fila.FrozenHalves):
        self.halves = halves

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        # A checkpoint that the run goes on from has been read by now.
        self.halves.remember()

    def on_optimizer_step(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.halves.restore()


def setup_fila(config: schema.TrainConfig, loaded: LoadedModel) -> str | None:
    """Say what it takes that the run's adapter begins by FILA; None where it does not.

    Raises:
        UserError: where it cannot.
    """
    if not schema.begins_by_fila(config.model.peft_args):
        return None
    modules = find_modules(loaded)
    fila.refuse_modules(modules, _get_rank(modules))
    num_weights = sum(module.get_base_layer().weight.numel() for module in modules.values())
    # The sum of squares and a row's gradient.
    size = 2 * 4 * num_weights / 2**30
    return (
        "the adapter begins by FILA: a forward and a backward pass over each row to forget and to "
        f"retain, {size:.2g} GiB more meanwhile; half of its parameters then stay as they are"
    )


def find_modules(loaded: LoadedModel) -> dict[str, Any]:
    """Find PEFT's layers of the adapter that trains, by name."""
    return {
        pair.layer: loaded.model.get_submodule(pair.layer) for pair in find_lora_pairs(loaded.model)
    }


def _get_rank(modules: dict[str, Any]) -> int:
    """Give the rank of the half that trains; all layers have one."""
    return min(module.r[TRAINED] for module in modules.values()) // 2


def begin_by_fila(
    config: schema.TrainConfig, prepared: PreparedRun, collator: Collator, dist: DistContext
) -> HoldHalves | None:
    """Fill the adapter, unless a checkpoint has it, and freeze its second half; give the callback
    that keeps it so, or None where the run begins in another way.

    Call it before anything wraps the model. Every process makes all passes, and
    DistributedDataParallel then gives them the main one's values.
    """
    loaded = prepared.loaded
    note = setup_fila(config, loaded)
    if note is None:
        return None
    fault = find_launch_fault("model.peft_args.init_lora_weights", dist.mode)
    if fault:
        raise UserError(f"{fila.KEY}: {fault}")
    if prepared.start is None:
        loaded.model = place_model(loaded.model, dist)
        logger.info(note)
        fill_adapter(RowGradients(loaded, prepared.streams, collator, batch_size=1))
    return HoldHalves(fila.FrozenHalves(find_lora_pairs(loaded.model)))


def fill_adapter(rows: RowGradients) -> None:
    """Fill every pair of a fresh adapter, whose B is 0, from the Fisher information of the weights
    under it over data.forget and data.retain."""
    modules = find_modules(rows.loaded)
    weights = {name: module.get_base_layer().weight for name, module in modules.items()}
    with _only_base_weights(rows.model):
        # On the CPU meanwhile: one sum of squares is held beside the gradients.
        forget = {}
        for name, fisher in fila.compute_fisher(rows, "forget", weights).items():
            forget[name] = fisher.cpu()
        retain = fila.compute_fisher(rows, "retain", weights)
    rank = _get_rank(modules)
    for pair in find_lora_pairs(rows.model):
        weight = weights[pair.layer]
        scaling = modules[pair.layer].scaling[TRAINED]
        a, b = fila.factorize(
            weight.detach(), forget[pair.layer].to(weight.device), retain[pair.layer], rank, scaling
        )
        fila.fill(pair, a, b)


@contextlib.contextmanager
def _only_base_weights(model: "PreTrainedModel") -> Iterator[None]:
    """Have nothing of the adapter require a gradient meanwhile, and dropout off."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter in trained:
            parameter.requires_grad_(True)
