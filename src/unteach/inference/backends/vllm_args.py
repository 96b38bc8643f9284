"""What vLLM is started with, by its own names."""

from typing import TYPE_CHECKING, Any, Protocol

from unteach.engines.text_engine import get_context_length
from unteach.errors import UserError
from unteach.inference.backends.base import Job
from unteach.lazy import peft, transformers
from unteach.models.hub import PATH, SOURCE

if TYPE_CHECKING:
    from unteach.models.loading import LoadedModel

NAMES_IN_VLLM = {
    "revision": "revision",
    "trust_remote_code": "trust_remote_code",
    "cache_dir": "download_dir",
    "token": "hf_token",
}
"""model_args that vLLM has too, and under which name."""


class EngineSettings(Protocol):
    """The keys of `backend_args` that become arguments of the engine."""

    tensor_parallel_size: int
    enable_prefix_caching: bool
    gpu_memory_utilization: float | None
    max_model_len: int | None
    max_num_seqs: int | None
    engine_args: dict[str, Any]


def build_engine_args(
    settings: EngineSettings,
    job: Job,
    empty: "LoadedModel",
) -> dict[str, Any]:
    """Build the arguments of vLLM's EngineArgs.

    Args:
        settings: the backend's own.
        empty: the model without its weights.

    Raises:
        UserError: model_args say how transformers loads a model, which vLLM does in its own way.
    """
    if empty.added:
        raise UserError(
            "model.added_tokens: backend=vllm adds no tokens; `unteach export` writes the model "
            "with them first"
        )
    files, overrides = _sort_model_args(job.model.model_args, empty)
    if "revision" in files and empty.tokenizer.name_or_path == empty.path:
        files["tokenizer_revision"] = files["revision"]
    engine_args: dict[str, Any] = {
        "model": empty.path,
        "tokenizer": empty.tokenizer.name_or_path,
        "dtype": empty.compute,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enable_prefix_caching": settings.enable_prefix_caching,
        "generation_config": "vllm",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        **files,
    }
    optional = {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_num_seqs": settings.max_num_seqs,
        "max_model_len": settings.max_model_len or _find_longest(job, empty),
        "hf_overrides": overrides or None,
    }
    for name, value in optional.items():
        if value is not None:
            engine_args[name] = value
    if empty.adapter:
        engine_args.update(_build_adapter_args(empty.adapter))
    engine_args.update(settings.engine_args)
    return engine_args


def _sort_model_args(
    model_args: dict[str, Any],
    empty: "LoadedModel",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort model_args into what says which files are read, by vLLM's names, and what overrides the
    model's configuration."""
    left = {name: value for name, value in model_args.items() if value is not None}
    if left.pop("attn_implementation", "auto") != "auto":
        raise UserError(
            "model.model_args.attn_implementation: backend=vllm has its own attention; leave it out"
        )
    left.pop(PATH)
    left.pop("dtype", None)
    files = {}
    for name, vllm_name in NAMES_IN_VLLM.items():
        if name in left:
            files[vllm_name] = left.pop(name)
    if "quantization_config" in left:
        raise UserError(
            "quantization: backend=vllm takes weights that are quantised already (AWQ, GPTQ, "
            "FP8…); on a GPU, backend_args.engine_args.quantization=bitsandbytes makes 4 bits of "
            "any"
        )
    for name in left:
        if name in SOURCE or not hasattr(empty.model.config, name):
            raise UserError(
                f"model.model_args.{name}: backend=vllm has no such option; leave it out"
            )
    return files, left


def _find_longest(job: Job, empty: "LoadedModel") -> int | None:
    """Return the tokens of the longest row and one more, which vLLM writes even where a row is only
    scored; None where rows have images."""
    if job.modality == "vlm":
        return None
    longest = job.longest + 1
    return min(longest, get_context_length(empty.model) or longest)


def _build_adapter_args(folder: str) -> dict[str, Any]:
    """Build what lets the engine take an adapter of this rank."""
    from vllm.config.lora import MaxLoRARanks

    rank = peft.PeftConfig.from_pretrained(folder).r
    allowed = [size for size in MaxLoRARanks.__args__ if size >= rank]
    if not allowed:
        raise UserError(
            f"{folder}: an adapter of rank {rank} is more than vLLM takes; merge it with its base"
        )
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": min(allowed),
    }


def list_own_stops(empty: "LoadedModel") -> list[int]:
    """List the ids that a model's own settings end its texts with."""
    try:
        stops = transformers.GenerationConfig.from_pretrained(str(empty.path)).eos_token_id
    except OSError:
        stops = empty.model.generation_config.eos_token_id
    return [stops] if isinstance(stops, int) else list(stops or [])
