"""Estimate what a run will take before it starts: rows and tokens, steps, learning rate, memory."""

import math
from typing import TYPE_CHECKING

import numpy

from unteach.config import schema
from unteach.config.dual_optim import DualOptim
from unteach.config.watching import Land
from unteach.data.streams import Stream
from unteach.methods.edit.base import Edit
from unteach.methods.landing import MOST_EVALUATIONS
from unteach.methods.wrap.perturb import WeightPerturbation
from unteach.models.forward import CHUNK_ELEMENTS
from unteach.wording import format_count

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import TrainingArguments

    from unteach.methods.base import Method
    from unteach.methods.wrap.perturb import Perturbation
    from unteach.methods.wrap.surgery import Surgery
    from unteach.models.loading import LoadedModel

GIB = 2**30
ADAM_BYTES = 8
"""Bytes that Adam keeps for each trained parameter."""
OPTIMIZER_BYTES = {"adafactor": 0, "sgd": 0, "8bit": 2, "lion": 4}
"""The same for optimisers whose name contains one of these."""


def describe_stream(stream: Stream) -> str:
    """Describe the rows of a stream that are tokenised already: tokens, labels, the longest row."""
    lengths = []
    num_labels = 0
    for row_index in stream.list_tokenized_rows():
        example = stream.example(row_index)
        lengths.append(len(example["input_ids"]))
        num_labels += int(numpy.count_nonzero(numpy.asarray(example["labels"]) != -100))
    rows = format_count(len(stream), "row")
    tokens = format_count(sum(lengths), "token")
    part = ""
    if len(lengths) < len(stream):
        part = f"of the first {format_count(len(lengths), 'row')}: "
    return f"{rows}, {part}{tokens}, {num_labels:,} of them learned, longest {max(lengths)}"


def describe_steps(args: "TrainingArguments", steps_per_epoch: int, num_processes: int) -> str:
    """Describe the optimiser steps, the epochs, and how the rows of a step are split."""
    total = count_steps(args, steps_per_epoch)
    epochs = total / steps_per_epoch
    batch_size = args.per_device_train_batch_size
    accumulation = args.gradient_accumulation_steps
    rows = format_count(batch_size * accumulation * num_processes, "row")
    processes = "process" if num_processes == 1 else "processes"
    split = f"{batch_size} a micro-batch x {accumulation} x {num_processes} {processes}"
    plural = "" if epochs == 1 else "s"
    return f"{total:,} ({epochs:g} epoch{plural} of {steps_per_epoch:,}); {rows} a step: {split}"


def count_steps(args: "TrainingArguments", steps_per_epoch: int) -> int:
    """Count the optimiser steps of a run."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(steps_per_epoch * args.num_train_epochs)


def describe_learning(args: "TrainingArguments", steps_per_epoch: int) -> str:
    """Describe the learning rate, its schedule, the optimiser and what regularises it."""
    total = count_steps(args, steps_per_epoch)
    warmup = args.get_warmup_steps(total)
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    rate = f"rate {args.learning_rate:g}, {schedule}"
    if warmup:
        rate += f" after {format_count(warmup, 'warm-up step')}"
    if warmup >= total:
        rate += f" (the run has {format_count(total, 'step')} and never reaches the rate)"
    if args.learning_rate == 0:
        rate += " (at rate 0 nothing is trained)"

    optimizer = str(getattr(args.optim, "value", args.optim))
    if args.weight_decay:
        optimizer += f", weight decay {args.weight_decay:g}"
    if args.max_grad_norm:
        optimizer += f", gradients clipped at norm {args.max_grad_norm:g}"
    return f"{rate}; {optimizer}"


def describe_turns(dual: DualOptim) -> str:
    """Describe how steps on the forget rows and on the retain rows take turns."""
    forget = format_count(dual.forget_steps, "step")
    retain = format_count(dual.retain_steps, "step")
    rate = "" if dual.forget_lr_ratio == 1 else f" at {dual.forget_lr_ratio:g} times the rate"
    return f"{forget} on forget rows{rate}, then {retain} on retain rows; moments of their own"


def describe_landing(land: Land) -> str:
    """Describe on what a landing is measured, and what it costs."""
    return (
        f"at KL {land.budget:g} nats a token, on {land.texts} texts of {land.tokens} tokens that "
        f"the model writes before; at most {MOST_EVALUATIONS} passes over them after"
    )


def describe_memory(
    loaded: "LoadedModel",
    args: "TrainingArguments",
    trainer: schema.TrainerConfig,
    streams: dict[str, Stream],
) -> str:
    """Describe an estimate of the memory that a process needs, without sharding."""
    parts = estimate_memory(loaded, args, trainer, streams)
    changed = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    if isinstance(trainer.method, Edit):
        changed = list(trainer.method.find_weights(loaded.model).values())
    if trainer.land:
        sizes = [parameter.numel() * parameter.element_size() for parameter in changed]
        parts["both ends of the landing, on the CPU"] = 2 * sum(sizes)
    total = sum(parts.values())
    listed = [f"{name} {size / GIB:.2g}" for name, size in parts.items() if size]
    return f"about {total / GIB:.2g} GiB a process ({' + '.join(listed)})"


def estimate_memory(
    loaded: "LoadedModel",
    args: "TrainingArguments",
    trainer: schema.TrainerConfig,
    streams: dict[str, Stream],
) -> dict[str, float]:
    """Estimate the bytes that a process needs, by what they are for.

    Activations: 34 bytes a token, layer and hidden unit in half precision (Korthikanti et al. 2022,
    arXiv:2205.05198, without attention matrices), twice that in fp32, 2 bytes with gradient
    checkpointing; and three chunks of logits.
    """
    parameters = list(loaded.model.parameters())
    weight_bytes = sum(p.numel() * p.element_size() for p in parameters)
    num_trained = sum(p.numel() for p in parameters if p.requires_grad)
    compute_bytes = 4 if loaded.compute == "float32" else 2

    optimizer_bytes = ADAM_BYTES
    for name_part, size in OPTIMIZER_BYTES.items():
        if name_part in str(args.optim):
            optimizer_bytes = size
            break
    if trainer.dual_optim:
        optimizer_bytes *= 2

    # The longest row of each stream: a micro-batch may hold all of them at once.
    longest = 0
    for stream in streams.values():
        longest += max(
            len(stream.example(row)["input_ids"]) for row in stream.list_tokenized_rows()
        )
    config = loaded.model.config
    bytes_per_unit = 2 if args.gradient_checkpointing else 17 * compute_bytes
    bytes_per_token = config.num_hidden_layers * config.hidden_size * bytes_per_unit
    activations = args.per_device_train_batch_size * longest * bytes_per_token

    method: Method | schema.TheirTrainer = trainer.method
    if isinstance(method, Edit):
        return {
            "weights": weight_bytes,
            **method.estimate_memory(loaded.model),
            "activations": activations + 3 * 4 * CHUNK_ELEMENTS,
        }
    has_frozen_copy = False
    if not isinstance(method, schema.TheirTrainer):
        has_frozen_copy = any(kind != "logprobs" for kind in method.reference().values())
    return {
        "weights": weight_bytes,
        "gradients": num_trained * 4,
        "optimiser": num_trained * optimizer_bytes,
        "reference": weight_bytes * compute_bytes / 4 if has_frozen_copy else 0,
        "surgery": num_trained * 4 * count_gradient_copies(trainer.surgery),
        "perturbation": count_perturbed_bytes(parameters, trainer.perturb),
        "activations": activations + 3 * 4 * CHUNK_ELEMENTS,
    }


def count_gradient_copies(surgery: "Surgery | None") -> int:
    """Count the gradients that surgery holds beside the plain step's."""
    return 0 if surgery is None else 1 + surgery.MEMORIES


def count_perturbed_bytes(
    parameters: "list[Parameter]", perturbation: "Perturbation | None"
) -> int:
    """Count the bytes of the copy that a perturbation of the weights holds of those that train."""
    if not isinstance(perturbation, WeightPerturbation):
        return 0
    return sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
