"""Whether an adapter can begin by FILA, by what the configuration says (methods/edit/fila.py)."""

from unteach.config.launch_faults import find_launch_fault
from unteach.config.reader import Reader
from unteach.config.schema import ModelConfig, TrainerConfig, begins_by_fila

FILA_ARGS = (
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "task_type",
    "init_lora_weights",
)
"""What an adapter that begins by FILA may be told."""


def check_fila(
    reader: Reader,
    trainer: TrainerConfig,
    model: ModelConfig | None,
    launch: str | None,
) -> None:
    """An adapter that begins by FILA is a plain LoRA over whole weights, of a method with rows to
    forget and to retain, and every process holds all of it."""
    if model is None or not begins_by_fila(model.peft_args):
        return
    for name, value in (model.peft_args or {}).items():
        if name in ("r", "lora_alpha") and (not isinstance(value, int) or value < 1):
            reader.wrong(f"model.peft_args.{name}", f"must be a number from 1, got {value!r}")
        elif name not in FILA_ARGS and value not in (None, False, 0, "none", [], {}):
            allowed = ", ".join(FILA_ARGS)
            reader.wrong(
                f"model.peft_args.{name}",
                f"init_lora_weights=fila makes a plain LoRA, one rank for all layers and no "
                f"dropout; it takes {allowed}",
            )
    key = "model.peft_args.init_lora_weights"
    if model.model_args.get("quantization_config"):
        reader.wrong(key, "FILA factorises whole weights, and these are quantised")
    fault = find_launch_fault(key, launch)
    if fault:
        reader.wrong(key, fault)
    streams = trainer.method.streams() if trainer.method else ()
    if not {"forget", "retain"} <= set(streams):
        reader.wrong(
            key,
            "FILA compares rows to forget with rows to retain, and trainer.handler="
            f"{trainer.handler} with these method_args trains on {', '.join(streams) or 'neither'}",
        )
