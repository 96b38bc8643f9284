"""Load a whole model by any class of transformers: one that reads images, one that classifies."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unteach.config.schema import ModelConfig
from unteach.lazy import torch, transformers
from unteach.models import integrity
from unteach.models.dtypes import find_compute_dtype
from unteach.models.hub import PATH, SOURCE, from_hub

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def load_as(
    auto: Any,
    config: ModelConfig,
    path: str,
    refuse_other_models: "Callable[[PretrainedConfig], None]",
) -> tuple[Any, str, dict[str, Any]]:
    """Load a whole model by a class of transformers.

    Args:
        auto: such as AutoModelForSequenceClassification.
        refuse_other_models: raises UserError where the model's settings are of no such model.

    Returns:
        The model, its dtype, and what says which files of a repository are read.
    """
    transformers.utils.logging.disable_progress_bar()
    args = {name: value for name, value in config.model_args.items() if name != PATH}
    compute = find_compute_dtype(args.pop("dtype", None))
    if args.get("attn_implementation") == "auto":
        args.pop("attn_implementation")
    source = {name: args[name] for name in SOURCE if name in args}
    settings = from_hub(transformers.AutoConfig, path, **source)
    refuse_other_models(settings)
    dtype = getattr(torch, compute)
    if torch.get_default_device().type == "meta":
        return auto.from_config(settings, dtype=dtype), compute, source
    model = integrity.load_model(auto, path, **{"dtype": dtype, "use_safetensors": True, **args})
    integrity.refuse_odd_stops(model, path)
    integrity.refuse_not_finite(model, path)
    return model, compute, source
