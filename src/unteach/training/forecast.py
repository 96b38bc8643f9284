"""What a run will take, told before it starts: rows and tokens, steps, learning rate, memory."""

from typing import TYPE_CHECKING, Any

import numpy

from unteach.config import schema
from unteach.models.forward import CHUNK_ELEMENTS
from unteach.wording import counted

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from unteach.methods.base import Method
    from unteach.models.loading import LoadedModel

GIB = 2**30
OPTIMIZER_BYTES = {"adafactor": 0, "sgd": 0, "8bit": 2, "lion": 4}
"""Bytes a trained parameter that an optimiser keeps, by a part of its name; Adam's 8 otherwise."""


def said_of_stream(stream: Any) -> str:
    """Rows, tokens, how many of them are learned, and the longest row; of those rows that are
    tokenised already."""
    lengths, learned = [], 0
    for number in stream.tokenized_rows():
        example = stream.example(number)
        lengths.append(len(example["input_ids"]))
        learned += int(numpy.count_nonzero(numpy.asarray(example["labels"]) != -100))
    rows, tokens = counted(len(stream), "row"), counted(sum(lengths), "token")
    part = "" if len(lengths) == len(stream) else f"of the first {counted(len(lengths), 'row')}: "
    return f"{rows}, {part}{tokens}, {learned:,} of them learned, longest {max(lengths)}"


def said_of_steps(args: "TrainingArguments", steps_an_epoch: int, processes: int) -> str:
    """Optimiser steps, epochs, and how the rows of one are dealt."""
    total = num_steps(args, steps_an_epoch)
    epochs = total / steps_an_epoch
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
    dealt = (
        f"{args.per_device_train_batch_size} a micro-batch x "
        f"{args.gradient_accumulation_steps} x {processes}"
    )
    dealt += " process" if processes == 1 else " processes"
    an_epoch = f"{epochs:g} epoch{'' if epochs == 1 else 's'} of {steps_an_epoch:,}"
    return f"{total:,} ({an_epoch}); {counted(rows, 'row')} a step: {dealt}"


def num_steps(args: "TrainingArguments", steps_an_epoch: int) -> int:
    """Count the optimiser steps of a run."""
    return (
        args.max_steps
        if args.max_steps > 0
        else int(-(-steps_an_epoch * args.num_train_epochs // 1))
    )


def describe_learning(args: "TrainingArguments", steps_an_epoch: int) -> str:
    """Give the learning rate, its schedule, the optimiser and what regularises it."""
    total = num_steps(args, steps_an_epoch)
    warmup = args.get_warmup_steps(total)
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    after = f" after {counted(warmup, 'warm-up step')}" if warmup else ""
    if warmup >= total:
        after += f" (the run has {counted(total, 'step')} and never reaches the rate)"
    if args.learning_rate == 0:
        after += " (at rate 0 nothing is trained)"
    optimizer = getattr(args.optim, "value", args.optim)
    decay = f", weight decay {args.weight_decay:g}" if args.weight_decay else ""
    clipped = f", gradients clipped at norm {args.max_grad_norm:g}" if args.max_grad_norm else ""
    return f"rate {args.learning_rate:g}, {schedule}{after}; {optimizer}{decay}{clipped}"


def said_of_memory(
    loaded: "LoadedModel", args: "TrainingArguments", method: "Method", streams: dict[str, Any]
) -> str:
    """An estimate, a process, without sharding: weights, gradients, optimiser, reference copy,
    activations."""
    parts = memory(loaded, args, method, streams)
    total = sum(parts.values())
    listed = " + ".join(f"{name} {size / GIB:.2g}" for name, size in parts.items() if size)
    return f"about {total / GIB:.2g} GiB a process ({listed})"


def memory(
    loaded: "LoadedModel", args: "TrainingArguments", method: "Method", streams: dict[str, Any]
) -> dict[str, float]:
    """Bytes by what they are for.

    Activations: 34 bytes a token, layer and hidden unit in half precision (Korthikanti et al. 2022,
    arXiv:2205.05198, without attention matrices), twice that in fp32, 2 bytes with gradient
    checkpointing; and three chunks of logits.
    """
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    trained = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    width = 4 if loaded.compute == "float32" else 2
    kept = next((size for part, size in OPTIMIZER_BYTES.items() if part in str(args.optim)), 8)
    config = loaded.model.config
    longest = sum(
        max(len(s.example(i)["input_ids"]) for i in s.tokenized_rows()) for s in streams.values()
    )
    a_token = (
        config.num_hidden_layers
        * config.hidden_size
        * (2 if args.gradient_checkpointing else 17 * width)
    )
    copies = not isinstance(method, schema.TheirTrainer) and any(
        k != "logprobs" for k in method.reference().values()
    )
    return {
        "weights": weights,
        "gradients": trained * 4,
        "optimiser": trained * kept,
        "reference": weights * width / 4 if copies else 0,
        "activations": args.per_device_train_batch_size * longest * a_token
        + 3 * 4 * CHUNK_ELEMENTS,
    }
