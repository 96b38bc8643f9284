"""`unteach.load`: a run's model, ready to be asked."""

from typing import Any

from unteach import runs
from unteach.config.environment import environment
from unteach.config.schema import ModelConfig


def load(run: str) -> Any:
    """The model of a run folder (or any model folder or hub id) with its tokenizer and template.

    Returns an object with `model`, `tokenizer` and `template`; the model is in evaluation mode.
    """
    environment()
    from unteach.models import loading

    loaded = loading.load(ModelConfig({"pretrained_model_name_or_path": runs.model_folder(run)}), training=False)
    loaded.model.eval()
    return loaded
