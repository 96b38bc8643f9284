"""Estimate what a run will take before it starts: rows and tokens, steps, learning rate, memory."""

import math
from typing import TYPE_CHECKING

import numpy

from unteach.config.dual_optim import DualOptim
from unteach.config.watching import Land
from unteach.data.streams import Stream
from unteach.methods.landing import MOST_EVALUATIONS
from unteach.wording import format_count

if TYPE_CHECKING:
    from transformers import TrainingArguments


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
