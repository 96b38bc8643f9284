"""Write the model that a run ends with, as a folder that every verb can read."""

from pathlib import Path
from typing import TYPE_CHECKING

from unteach import atomic
from unteach.atomic import atomic_write_folder
from unteach.config import schema
from unteach.methods.base import Method
from unteach.models import adapters, portable
from unteach.models.loading import LoadedModel, get_fingerprints_path
from unteach.training import checkpoint

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

METHOD = "unteach_method.json"


def save_final_model(
    model: "PreTrainedModel",
    loaded: LoadedModel,
    target: Path,
    method: Method | schema.TheirTrainer,
    state_dict: "dict[str, Tensor] | None" = None,
) -> None:
    """Write the model, or its adapter, with tokenizer, template and the method's state.

    Args:
        model: the trained model, unwrapped.
        loaded: what it was loaded as.
        target: the folder, which comes whole or not at all.
        method: that it was trained by.
        state_dict: the weights, where the model in this process does not hold them all.
    """
    with atomic_write_folder(target) as temporary:
        if loaded.adapter is None:
            model.save_pretrained(temporary, state_dict=state_dict)
        else:
            model.save_pretrained(
                temporary, selected_adapters=[adapters.TRAINED], state_dict=state_dict
            )
        save_companions(loaded, temporary)
        method_state = method.state() if isinstance(method, Method) else {}
        if method_state:
            atomic.write_json(temporary / METHOD, method_state)
        checkpoint.complete(temporary)


def save_companions(loaded: LoadedModel, folder: Path) -> None:
    """Write into a folder of weights what makes it a model that can be loaded and prompted:
    tokenizer, template, what an adapter's base is."""
    if loaded.adapter is not None:
        adapters.remember_base(folder, loaded.base_weights(get_fingerprints_path()), loaded.added)
        if loaded.head:
            loaded.head.save(folder)
    if loaded.start is not None:
        loaded.start.restore(folder)
        portable.add_old_names(folder)
    portable.save_tokenizer(loaded.tokenizer, folder)
    loaded.template.save(folder)
