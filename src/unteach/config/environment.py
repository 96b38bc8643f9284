"""What a process is told before torch is imported, and what libraries need not tell the user."""

import logging
import os

NOISE = {
    "DeepSpeed": "Setting accelerator to CPU",  # said as soon as a model is unwrapped, with DeepSpeed or without
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # an optional kernel, said on import
    "accelerate.accelerator": "Gradient accumulation steps mismatch",  # DeepSpeed's are the run's: ours to hand over
}
"""By logger, what libraries say to everyone who has them installed and nobody can act on."""


def environment() -> None:
    """What must stand in the environment before torch is imported; values that the user set are left alone."""
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


def _is_news(record: logging.LogRecord) -> bool:
    return NOISE[record.name] not in record.getMessage()
