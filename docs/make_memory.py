"""Writes docs/memory.md's table: what a run takes by `unteach.training.memory`, for three sizes.

python docs/make_memory.py
"""

from dataclasses import replace
from pathlib import Path

from unteach.training.memory import (
    GIB,
    LORA_SHARE,
    NF4_BYTES,
    OPTIMIZER_BYTES,
    ROOM,
    Footprint,
)

PAGE = Path(__file__).parent / "memory.md"
BEGIN, END = "<!-- table: docs/make_memory.py -->\n", "<!-- end of the table -->\n"
SIZES = {
    "1B": (1_240_000_000, 16, 2048, 8192),
    "8B": (8_030_000_000, 32, 4096, 14336),
    "70B": (70_600_000_000, 80, 8192, 28672),
}
"""Parameters, layers, width and that of the MLP of Llama 3."""
VOCABULARY = 128_256
NUM_TOKENS = 8 * 2 * 512
"""Of a micro-batch: 8 rows to forget and 8 to keep, of 512 tokens."""
GPUS = (16, 24, 48, 80)


def build_whole(size: str, has_copy: bool) -> Footprint:
    """Build the footprint of fp32 masters that train under bfloat16 passes, as runs do by
    themselves."""
    num_parameters, num_layers, width, mlp_width = SIZES[size]
    return Footprint(
        num_frozen=0,
        num_trained=num_parameters,
        frozen_bytes=0.0,
        trained_bytes=4.0,
        optimizer_bytes=8.0,
        num_tokens=NUM_TOKENS,
        num_layers=num_layers,
        width=width,
        mlp_width=mlp_width,
        vocabulary=VOCABULARY,
        compute_bytes=2,
        checkpoints=True,
        reference_bytes=2.0 * num_parameters if has_copy else 0.0,
    )


def build_ways(size: str, has_copy: bool) -> dict[str, Footprint]:
    """Build the footprints of each way to train a model of some size."""
    whole = build_whole(size, has_copy)
    rounded = replace(whole, trained_bytes=2.0, optimizer_bytes=OPTIMIZER_BYTES["8bit"])
    lora = replace(
        whole,
        num_frozen=whole.num_trained,
        num_trained=int(LORA_SHARE * whole.num_trained),
        frozen_bytes=2.0,
        reference_bytes=0.0,
    )
    return {
        "whole": whole,
        "whole, bf16 weights rounded at random, 8-bit moments": rounded,
        "LoRA": lora,
        "QLoRA": replace(lora, frozen_bytes=NF4_BYTES),
    }


def write_table() -> str:
    lines = [
        "| model | what trains | GradDiff, NPO, DPO | with a copy (KL, UNDIAL) | smallest GPU |",
        "|---|---|---:|---:|---:|",
    ]
    for size in SIZES:
        with_copies = build_ways(size, has_copy=True)
        for way, plain in build_ways(size, has_copy=False).items():
            fitting = [gpu for gpu in GPUS if plain.num_bytes <= ROOM * gpu * GIB]
            smallest = f"{fitting[0]} GB" if fitting else "several"
            copied = with_copies[way].num_bytes / GIB
            sizes = f"{plain.num_bytes / GIB:.0f} | {copied:.0f}"
            lines.append(f"| {size} | {way} | {sizes} | {smallest} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + write_table() + END + after)


if __name__ == "__main__":
    main()
