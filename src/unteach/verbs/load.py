"""`unteach.load`: a run's model, ready to be asked."""

import os
import re

from unteach import run_dir
from unteach.config.environment import prepare_environment
from unteach.config.schema import PATH, ModelConfig
from unteach.errors import UserError
from unteach.models import loading
from unteach.models.loading import LoadedModel


def load(run: str | os.PathLike[str]) -> LoadedModel:
    """Load the model of a run, a model's folder or a hub id, with its tokenizer and template.

    The model is in evaluation mode. Raises UserError where it cannot be loaded.
    """
    prepare_environment()
    try:
        loaded = loading.load(
            ModelConfig({PATH: run_dir.find_model_folder(os.fspath(run))}), training=False
        )
    except UserError as error:  # here there is no key to be set, only the argument
        message = (
            str(error)
            .replace(f"Set model.model_args.{PATH} to", "Name")
            .replace(f"model.model_args.{PATH}", "run")
        )
        message = re.sub(r"^model=", "run=", message)
        raise UserError(f"unteach.load: {message}") from None
    loaded.model.eval()
    return loaded
