"""`gguf=true`: the adapter that a request gives, as a file for llama.cpp beside its folder."""

import shutil
import tempfile
from pathlib import Path

from unteach import run_dir
from unteach.atomic import atomic_write
from unteach.config.forget import ForgetConfig
from unteach.errors import UserError, require_extra
from unteach.export import gguf_adapter, save, trained, weights
from unteach.forgetting.earlier import find_earlier
from unteach.lazy import transformers
from unteach.models import adapters
from unteach.models.hub import from_hub

KEY = "gguf=true"


def refuse_unfit(config: ForgetConfig) -> None:
    """Raise UserError, before any work, where what a request gives could not be such a file."""
    require_extra(gguf_adapter.EXTRA, KEY)
    earlier = find_earlier(config.model)
    model = config.model if earlier is None else earlier.model
    if not adapters.is_adapter(run_dir.find_model_folder(model)):
        raise UserError(
            f"{KEY}: {model} is no adapter, and such a file holds an adapter alone. Leave "
            "it out; where the model that is given turns out to be an adapter, `unteach export "
            "MODEL as=gguf_adapter to=FOLDER` writes the file"
        )
    source = trained.find_source(model)
    base = trained.find_base(source, None)
    gguf_adapter.refuse_unfit(
        source.adapter_config,
        weights.read(source.location),
        from_hub(transformers.AutoConfig, base),
        adapters.read_added_ids(source.folder),
        f"{KEY}: {model}",
    )


def find_file(model: Path) -> Path:
    """Find where the file of a model is: `model-lora.gguf` beside `model/`."""
    return model.with_name(f"{model.name}-lora.gguf")


def write_file(model: Path) -> None:
    """Write the adapter that a request gives as a file beside its folder."""
    source = trained.find_source(str(model))
    options = save.ExportOptions(form=save.GGUF_ADAPTER)
    with atomic_write(find_file(model)) as temporary, tempfile.TemporaryDirectory() as folder:
        save.write(source, options, Path(folder))
        shutil.copyfile(Path(folder) / gguf_adapter.FILE, temporary)
