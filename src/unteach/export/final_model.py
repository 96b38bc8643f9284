"""The model that a training run ends with, as its folder holds it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import run_dir
from unteach.atomic import atomic_write_folder
from unteach.config.schema import ModelConfig, TrainConfig
from unteach.export import save, trained
from unteach.lazy import transformers
from unteach.methods.base import Method
from unteach.models import loading
from unteach.models.hub import PATH, SOURCE, from_hub
from unteach.models.loading import LoadedModel
from unteach.training import checkpoint
from unteach.training.save import METHOD, save_decoding_model, save_final_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_run_model(
    config: TrainConfig,
    folder: Path,
    model: "PreTrainedModel",
    loaded: LoadedModel,
    state_dict: dict[str, Any] | None,
) -> None:
    """Write the final model.

    Where its adapter is to be merged, the adapter first and then the two as one model; where the
    method forgets by decoding, the model that the run started from and this one.

    state_dict: the weights, where the model in this process does not hold them all.
    """
    method = config.trainer.method
    final = folder / run_dir.FINAL
    rule = method.decoding() if isinstance(method, Method) else None
    if rule is not None:
        assert state_dict is None, "such a run is not sharded"
        base = _load_start(config.model)
        save_decoding_model(model, loaded, base, rule, final, method.kept_layers())
        return
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


def _load_start(config: ModelConfig) -> LoadedModel:
    """Load the model that a run started from once more, in the dtype of its own files."""
    path = run_dir.find_model_folder(str(config.model_args[PATH]))
    source = {name: config.model_args[name] for name in SOURCE if name in config.model_args}
    settings = from_hub(transformers.AutoConfig, path, **source)
    dtype = str(settings.dtype or "float32").removeprefix("torch.")
    model_args = {**config.model_args, "dtype": dtype}
    return loading.load(replace(config, model_args=model_args, peft_args=None), training=False)
