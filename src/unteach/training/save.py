"""Write the model that a run ends with, as a folder that every verb can read."""

from pathlib import Path
from typing import TYPE_CHECKING

from unteach import atomic, fingerprints
from unteach.atomic import atomic_write_folder
from unteach.config import schema
from unteach.methods.base import Method
from unteach.models import adapters, decoding_folder, portable
from unteach.models.decoding import Decoding
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
    method: Method | schema.TheirTrainer | None,
    state_dict: "dict[str, Tensor] | None" = None,
) -> None:
    """Write the model, or its adapter, with tokenizer, template and the method's state.

    Args:
        model: the trained model, unwrapped.
        loaded: what it was loaded as.
        target: the folder, which comes whole or not at all.
        method: that it was trained by; None: by none.
        state_dict: the weights, where the model in this process does not hold them all.
    """
    with atomic_write_folder(target) as temporary:
        _save_trained(model, loaded, temporary, state_dict)
        method_state = method.state() if isinstance(method, Method) else {}
        if method_state:
            atomic.write_json(temporary / METHOD, method_state)
        checkpoint.complete(temporary)


def save_decoding_model(
    model: "PreTrainedModel",
    loaded: LoadedModel,
    base: LoadedModel,
    rule: Decoding,
    target: Path,
    num_layers: int | None,
) -> None:
    """Write two models whose logits are combined, as one folder.

    Args:
        model: the trained model, unwrapped: the second one.
        loaded: what it was loaded as.
        base: the model that the run started from.
        rule: combines their logits.
        target: the folder, which comes whole or not at all.
        num_layers: of how many of the base's first layers the second one is made; None: all.
    """
    with atomic_write_folder(target) as temporary:
        base_dir, second_dir = temporary / decoding_folder.BASE, temporary / rule.SECOND
        base_dir.mkdir()
        second_dir.mkdir()
        base.model.save_pretrained(base_dir)
        save_companions(base, base_dir)
        _save_trained(model, loaded, second_dir, rule=rule)
        if loaded.adapter is not None:
            # It is put on the base beside it, whose file may be another than it was trained on.
            identity = fingerprints.hash_weights(base_dir, get_fingerprints_path())
            adapters.remember_base(second_dir, identity)
        decoding_folder.write_decoding(temporary, rule, num_layers)
        # Prompts are made before any weights are read.
        portable.save_tokenizer(loaded.tokenizer, temporary)
        loaded.template.save(temporary)
        checkpoint.complete(temporary)


def _save_trained(
    model: "PreTrainedModel",
    loaded: LoadedModel,
    folder: Path,
    state_dict: "dict[str, Tensor] | None" = None,
    rule: Decoding | None = None,
) -> None:
    """Write the trained weights, or their adapter, with all that makes them a model."""
    if loaded.adapter is None:
        model.save_pretrained(folder, state_dict=state_dict)
    else:
        model.save_pretrained(folder, selected_adapters=[adapters.TRAINED], state_dict=state_dict)
    save_companions(loaded, folder, rule)


def save_companions(loaded: LoadedModel, folder: Path, rule: Decoding | None = None) -> None:
    """Write into a folder of weights what makes it a model that can be loaded and prompted:
    tokenizer, template, what an adapter's base is.

    Args:
        rule: the decoding of which it is the second model; None for a model by itself.
    """
    if rule is not None:
        decoding_folder.write_second_note(folder, rule)
    if loaded.adapter is not None:
        adapters.remember_base(folder, loaded.base_weights(get_fingerprints_path()), loaded.added)
        if loaded.head:
            loaded.head.save(folder)
    if loaded.start is not None:
        loaded.start.restore(folder)
        portable.add_old_names(folder)
    portable.save_tokenizer(loaded.tokenizer, folder)
    loaded.template.save(folder)
