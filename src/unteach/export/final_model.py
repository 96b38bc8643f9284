"""The model that a training run ends with, as its folder holds it."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import run_dir
from unteach.atomic import atomic_write_folder
from unteach.config.schema import TrainConfig
from unteach.export import save, trained
from unteach.models.loading import LoadedModel
from unteach.training import checkpoint
from unteach.training.save import METHOD, save_final_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_run_model(
    config: TrainConfig,
    folder: Path,
    model: "PreTrainedModel",
    loaded: LoadedModel,
    state_dict: dict[str, Any] | None,
) -> None:
    """Write the final model; where its adapter is to be merged, the adapter first and then the two
    as one model.

    state_dict: the weights, where the model in this process does not hold them all.
    """
    method = config.trainer.method
    final = folder / run_dir.FINAL
    if not config.model.merge_adapter:
        save_final_model(model, loaded, final, method, state_dict)
        return
    adapter = folder / run_dir.ADAPTER
    shutil.rmtree(adapter, ignore_errors=True)  # of a process that was killed between the two
    save_final_model(model, loaded, adapter, method, state_dict)
    with atomic_write_folder(final) as temporary:
        save.write(trained.find_source(str(adapter)), save.ExportOptions(), temporary)
        if (adapter / METHOD).exists():
            shutil.copy(adapter / METHOD, temporary)
        checkpoint.complete(temporary)
