"""What a process is told before torch is imported, and what libraries need not tell the user."""

import logging
import os

NOISE = {
    # said as soon as a model is unwrapped, with DeepSpeed or without
    "DeepSpeed": "Setting accelerator to CPU",
    # an optional kernel, said on import
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # torchao's kernels for GPUs of other kinds, said on import, and an enum of its own
    "torchao": "Failed to load",
    "torch.utils._pytree": "is now natively supported",
    # DeepSpeed's are the run's: ours to hand over
    "accelerate.accelerator": "Gradient accumulation steps mismatch",
}
"""By logger, what libraries say to everyone who has them installed and nobody can act on."""

HUB = "huggingface_hub.utils._http"
"""The logger that tells of every request to the hub that failed and of every try that follows."""
HUB_IS_SILENT = "note: the hub does not answer; trying again before giving up"


def prepare_environment() -> None:
    """What must stand in the environment before torch is imported; values that the user set are
    left alone."""
    for name, value in {
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning OpenMP threads make shared cores 30 times slower
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():
        os.environ.setdefault(name, value)
    for logger in NOISE:
        logging.getLogger(logger).addFilter(_is_news)
    logging.getLogger(HUB).addFilter(_shorten_retries)


def _is_news(record: logging.LogRecord) -> bool:
    return NOISE[record.name] not in record.getMessage()


def _shorten_retries(record: logging.LogRecord) -> bool:
    """Let one line stand for all tries of all requests: what failed in the end is said by whoever
    asked."""
    global _hub_was_silent
    said = record.getMessage()
    if "thrown while requesting" in said:
        return False
    if not said.startswith("Retrying in"):
        return True
    is_first, _hub_was_silent = not _hub_was_silent, True
    record.msg, record.args = HUB_IS_SILENT, ()
    return is_first


_hub_was_silent = False
