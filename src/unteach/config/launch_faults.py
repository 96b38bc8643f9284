"""Why something of a run cannot be launched in a way: asked of the configuration, and again of the
run, which another tool may have launched."""

UNFIT = {
    "trainer.surgery": (
        ("zero",),
        "DeepSpeed owns the gradients and adds those of both sides up before any rule sees them; "
        "launch=fsdp2 shards the model too",
    ),
    "trainer.perturb": (
        ("zero",),
        "DeepSpeed owns the gradients and adds those of both sides up before any rule sees them; "
        "launch=fsdp2 shards the model too",
    ),
    "trainer.dual_optim": (
        ("zero", "fsdp"),
        "it shards one set of moments a parameter, and here are two; take launch=ddp or one "
        "process",
    ),
    "trainer.land": (
        ("zero", "fsdp"),
        "no process holds all weights, between which a landing moves; take launch=ddp or one "
        "process",
    ),
    "model.peft_args.init_lora_weights": (
        ("zero", "fsdp"),
        "no process holds all weights, which FILA factorises, and half of each matrix stays as it "
        "is; take launch=ddp or one process",
    ),
}
"""Key -> how launches begin that it does not go with, and the reason."""

SCALED = (
    "in float16 gradients are scaled until the optimiser's step, and the rule would see the scale; "
    "take model.model_args.dtype=bfloat16"
)
"""Why surgery and perturbations do not go with float16."""


def find_launch_fault(key: str, launch: str | None) -> str:
    """Say why what a key asks for cannot be launched so; empty: it can.

    Args:
        key: of the configuration, one of UNFIT.
        launch: a configuration's, or the way in which this process was launched (`fsdp2`, `zero3`).
    """
    beginnings, reason = UNFIT[key]
    if launch is None or not launch.startswith(beginnings):
        return ""
    return f"launch={launch}: {reason}"
