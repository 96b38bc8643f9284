"""`unteach.load`: a run's model, ready to be asked."""

import re
from typing import Any

from unteach import run_dir
from unteach.config.environment import environment
from unteach.config.schema import PATH, ModelConfig
from unteach.errors import UserError
from unteach.models import loading


def load(run: str) -> Any:
    """The model of a run folder (or any model folder or hub id) with its tokenizer and template.

    Returns an object with `model`, `tokenizer` and `template`; the model is in evaluation mode.
    Raises UserError where it cannot be loaded.
    """
    environment()
    try:
        loaded = loading.load(ModelConfig({PATH: run_dir.find_model_folder(run)}), training=False)
    except UserError as error:  # here there is no key to be set, only the argument
        said = (
            str(error)
            .replace(f"Set model.model_args.{PATH} to", "Name")
            .replace(f"model.model_args.{PATH}", "run")
        )
        said = re.sub(r"^model=", "run=", said)
        raise UserError(f"unteach.load: {said}") from None
    loaded.model.eval()
    return loaded
