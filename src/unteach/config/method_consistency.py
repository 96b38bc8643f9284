"""Whether a method goes with what stands round it in a configuration: a landing, surgery and
perturbations, what watches a training, the launch."""

from collections.abc import Iterable
from typing import Any

from unteach.config.launch_faults import SCALED, find_launch_fault
from unteach.config.reader import Reader
from unteach.config.schema import ModelConfig, TheirTrainer, TrainerConfig

EDIT_ARGS = ("per_device_train_batch_size", "use_cpu", "do_eval", "seed")
"""What a one-shot edit reads of trainer.args."""


def check_edit(
    reader: Reader,
    trainer: TrainerConfig,
    model: ModelConfig | None,
    held_out: bool,
    launch: str | None,
) -> None:
    """An edit has no steps: what watches steps, or spreads them over processes, has nothing to
    do."""
    if not getattr(trainer.method, "IS_EDIT", False):
        return
    idle = {
        "trainer.guard": trainer.guard,
        "trainer.samples": trainer.samples,
        "trainer.profiler": trainer.profiler,
        "data.validation": held_out,
    }
    for key, section in idle.items():
        if section:
            reader.wrong(
                key,
                f"watches a training, and trainer.handler={trainer.handler} edits the model once, "
                "without steps; leave it out (eval measures before and after)",
            )
    edits_weights = not getattr(trainer.method, "ON_ADAPTERS", False)
    if edits_weights and model is not None and model.model_args.get("quantization_config"):
        reader.wrong(
            "model.model_args.quantization_config",
            f"trainer.handler={trainer.handler} edits weights, and in quantised ones a small "
            "change is rounded away; leave it out",
        )
    if launch:
        reader.wrong(
            "launch",
            f"trainer.handler={trainer.handler} edits the model in one process; leave it out "
            "(`unteach eval` of what it makes takes any launch)",
        )


def find_idle_args(trainer: TrainerConfig, given: Iterable[str]) -> list[str]:
    """A sentence for each of trainer.args that the user sets and an edit, which has no steps, does
    not read. Those that an experiment sets for all methods are no mistake of the user's."""
    if not getattr(trainer.method, "IS_EDIT", False):
        return []
    problems = []
    for key in sorted(given):
        section, _, name = key.rpartition(".")
        if section == "trainer.args" and name not in EDIT_ARGS:
            used = ", ".join(EDIT_ARGS)
            problems.append(
                f"{key}: is for a training, and trainer.handler={trainer.handler} edits the model "
                f"once, without steps; leave it out (it reads {used} of trainer.args)"
            )
    return problems


def check_landing(reader: Reader, trainer: TrainerConfig, launch: str | None) -> None:
    """A landing needs weights that changed, of a language model, all in one process."""
    if trainer.land is None:
        return
    fault = find_launch_fault("trainer.land", launch)
    if fault:
        reader.wrong("trainer.land", fault)
    if trainer.args.get("do_train") is False:
        reader.wrong("trainer.land", "nothing is trained (trainer.args.do_train=false)")
    if getattr(trainer.method, "ROWS", None) in ("classes", "numbers"):
        reader.wrong(
            "trainer.land",
            f"is measured on text that the model writes, and trainer.handler={trainer.handler} "
            "trains a classifier; leave it out",
        )
    if getattr(trainer.method, "LANDS_ITSELF", False):
        reader.wrong(
            "trainer.land",
            f"trainer.handler={trainer.handler} lands by a search of its own; set "
            "trainer.method_args.budget",
        )


def check_wrappers(reader: Reader, trainer: TrainerConfig, tree: dict[str, Any]) -> None:
    """Surgery and perturbations need a method of two sides, and gradients that can be taken before
    the optimiser has them."""
    if trainer.method is None:
        return
    for name in ("surgery", "perturb"):
        wrapper = getattr(trainer, name)
        if wrapper is None:
            continue
        fault = (
            _find_method_fault(trainer, name)
            or find_launch_fault(f"trainer.{name}", tree.get("launch"))
            or _find_gradient_fault(trainer, tree)
        )
        if fault:
            reader.wrong(f"trainer.{name}", fault)


def check_dual_optim(reader: Reader, trainer: TrainerConfig, tree: dict[str, Any]) -> None:
    """Steps that take turns need a method of two sides, each of which makes a step by itself."""
    if trainer.dual_optim is None or trainer.method is None:
        return
    fault = (
        _find_method_fault(trainer, "dual_optim")
        or _find_turns_fault(trainer)
        or find_launch_fault("trainer.dual_optim", tree.get("launch"))
    )
    if fault:
        reader.wrong("trainer.dual_optim", fault)


def _find_turns_fault(trainer: TrainerConfig) -> str:
    """Say why no step can be of one side alone, or have moments of its own."""
    method, handler = trainer.method, f"trainer.handler={trainer.handler}"
    if trainer.surgery is not None or trainer.perturb is not None:
        return (
            "a step is of one side, and trainer.surgery and trainer.perturb need both in a step; "
            "leave one out"
        )
    if method.has_prepass():
        return f"{handler} weighs the two sides of a step against each other; leave this out"
    if method.learns_from_steps():
        return (
            f"{handler} changes what it does after each step of both sides, and here a step is of "
            "one; leave this out"
        )
    if method.layers() and set(method.layers()) != set(method.streams()):
        return (
            f"{handler} ends the passes of one side at a layer and runs the other's to the head, "
            "and the layers above train in every step or in none; leave this out"
        )
    optimizer = str(trainer.args.get("optim", "adamw_torch"))
    if optimizer not in ("adamw_torch", "adamw_torch_fused"):
        return f"is AdamW with two sets of moments; trainer.args.optim={optimizer} is another"
    if trainer.args.get("ddp_static_graph"):
        return "trainer.args.ddp_static_graph is for steps that are all alike; leave it out"
    return ""


def _find_method_fault(trainer: TrainerConfig, section: str) -> str:
    """Say why the method's forget and retain gradients are not to be had, or not to be changed."""
    method = trainer.method
    handler = f"trainer.handler={trainer.handler}"
    if isinstance(method, TheirTrainer):
        return f"{handler} is a transformers.Trainer with a loss of its own; leave this out"
    fault: str = method.find_sides_fault()
    if fault:
        return f"{handler}: {fault}; leave this out"
    if getattr(method, "gamma", 1.0) == 0:
        return "trainer.method_args.gamma=0 leaves no forget gradient"
    if section == "perturb":
        return str(trainer.perturb.find_fault(method))
    if not method.retain_streams():
        return (
            f"{handler} has no retain term here, so that there is nothing to combine: set "
            "trainer.method_args.alpha above 0, or leave this out"
        )
    return ""


def _find_gradient_fault(trainer: TrainerConfig, tree: dict[str, Any]) -> str:
    """Say why no gradient can be taken before the optimiser has it."""
    args = trainer.args
    model_args = (tree.get("model") or {}).get("model_args") or {}
    if args.get("fp16") or str(model_args.get("dtype")) in ("float16", "fp16", "half"):
        return SCALED
    checkpointing = args.get("gradient_checkpointing_kwargs") or {}
    if checkpointing.get("use_reentrant") and getattr(
        trainer.perturb, "DIFFERENTIATES_ACTIVATIONS", False
    ):
        return (
            "trainer.args.gradient_checkpointing_kwargs.use_reentrant=true gives gradients in "
            "weights alone; leave it out"
        )
    optimizer = str(args.get("optim"))
    if "lomo" in optimizer or "layerwise" in optimizer:
        return f"trainer.args.optim={optimizer} steps within the backward pass; take another"
    for name in ("ddp_static_graph", "torch_compile"):
        if args.get(name):
            return f"trainer.args.{name} is for steps of one pass over all rows; leave it out"
    return ""


def check_decoding(reader: Reader, trainer: TrainerConfig, built: dict[str, Any]) -> None:
    """What a method trains whose result forgets in its decoding is half of that result: nothing is
    measured of it while it trains, and it is not sharded."""
    if not hasattr(trainer.method, "decoding") or trainer.method.decoding() is None:
        return
    data = built.get("data")
    half = (
        f"looks at the model while it trains, and what trainer.handler={trainer.handler} trains is "
        "half of one that forgets in its decoding; leave it out: the suites of eval measure the "
        "whole"
    )
    looks = {
        "trainer.args.eval_strategy": trainer.args.get("eval_strategy", "no") != "no",
        "trainer.samples": trainer.samples,
        "trainer.guard": trainer.guard,
        "data.validation": data is not None and data.streams.get("validation"),
    }
    for key, is_set in looks.items():
        if is_set:
            reader.wrong(key, half)
    if trainer.land:
        reader.wrong(
            "trainer.land",
            f"lands the model that trains, and what trainer.handler={trainer.handler} trains is "
            "half of one that forgets in its decoding; leave it out",
        )
    launch = built.get("launch")
    if launch not in (None, "ddp"):
        reader.wrong(
            "launch",
            f"{launch} shards one model, and trainer.handler={trainer.handler} saves and evaluates "
            "two that are run side by side; launch=ddp shares the rows between processes",
        )
