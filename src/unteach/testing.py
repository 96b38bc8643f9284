"""What plugin authors and unteach's own tests call: a method's loss on given rows, and the
conformance test.

loss, norm = method_loss("NPO", {"beta": 0.1}, policy, reference, forget, retain, template_args)
check_method("MyMethod")
"""

import contextlib
import functools
import math
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unteach import registry
from unteach.config import schema
from unteach.config.environment import environment
from unteach.config.reader import Reader, mistakes
from unteach.config.schema import BESIDE, PARTS
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.handlers.base import Example, build_example
from unteach.data.streams import (
    ALTERNATE,
    RETAIN_ALTERNATE,
    SlotDataset,
    Steps,
    Stream,
    collate,
)
from unteach.data.synthetic import authors
from unteach.data.template import Template
from unteach.errors import UserError
from unteach.lazy import torch, transformers
from unteach.methods.base import Method
from unteach.models import loading
from unteach.models.forward import extend
from unteach.models.heads import Head
from unteach.models.hub import PATH
from unteach.models.loading import LoadedModel, finish
from unteach.models.model_handlers import learn_tokenizer
from unteach.models.reference import LogprobTable, Reference, compute_table
from unteach.training.step import count_step_units, micro_batch_loss, prepass_step, setup_method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

Row = dict[str, Any]
TOLERANCE = 1e-5
"""Relative L2 distance that two gradients of the same step may have, in fp32."""
WORKER_SECONDS = 60
"""How long the processes of a two-process step may take."""


class Examples(list[Example]):
    """A list of examples as a dataset of a stream."""


def build_method(
    name: str, method_args: dict[str, Any] | None = None, compat: str | None = None
) -> Any:
    """Build the method of a name with checked arguments.

    Args:
        name: under which it is registered.
        method_args: its fields.
        compat: "openunlearning" turns its published quirks on.
    """
    cls = cast(type[Method], registry.method.get(name))
    quirks = cls.QUIRKS if compat else {}
    reader = Reader()
    method = reader.record(cls, {**quirks, **(method_args or {})}, "method_args")
    if reader.problems:
        raise UserError(mistakes(reader.problems))
    return method


def method_loss(
    name: str,
    method_args: dict[str, Any],
    policy: str | Path,
    reference: str | Path,
    forget: list[Row],
    retain: list[Row],
    template: dict[str, Any],
    *,
    all_tokens: bool = False,
    alternate: list[Row] | None = None,
    retain_alternate: list[Row] | None = None,
    control_vector: "Tensor | None" = None,
    compat: str | None = None,
) -> tuple[float, float]:
    """Compute the loss and gradient norm of one step over all given rows, in fp32, before clipping.

    They equal what a run with max_steps=1 learning_rate=0 logs.

    Args:
        name: of the method.
        method_args: its fields.
        policy: a model folder.
        reference: a model folder.
        forget: rows with question and answer. A method that teaches takes them as its stream
            `train`, with `chosen` and `rejected` in place of `answer` where it learns preferences.
        retain: rows with question and answer.
        template: template_args.
        all_tokens: every token is a label, prompts too.
        alternate: rows with the other answers (their column alternate, or else answer), in the
            order of `forget`, for methods that take them.
        retain_alternate: the same, in the order of `retain`.
        control_vector: the direction to steer to, whose length counts for nothing, for methods that
            take one.
        compat: "openunlearning" turns the method's published quirks on.

    Returns:
        The loss, and the L2 norm of the gradient over all parameters.
    """
    environment()

    method = build_method(name, method_args, compat)
    if control_vector is not None:
        if not hasattr(method, "control_vector"):
            raise UserError(f"{name} takes no control_vector")
        method.control_vector = control_vector
    other_answers = {ALTERNATE: alternate, RETAIN_ALTERNATE: retain_alternate}
    for stream, answers in other_answers.items():
        if answers is not None and stream not in method.streams():
            raise UserError(
                f"{name} takes no {stream.replace('_', ' ')} answers; its streams: "
                f"{', '.join(method.streams())}"
            )

    def build_config(path: str | Path) -> schema.ModelConfig:
        args: dict[str, Any] = {PATH: str(path), "dtype": "float32"}
        return schema.ModelConfig(args, template_args=schema.TemplateArgs(**template))

    loaded = loading.load(build_config(policy), training=True)
    given = {"forget": forget, "train": forget, "retain": retain, **other_answers}
    rows = {}
    for stream in method.streams():
        stream_rows = given.get(stream) or given.get(BESIDE.get(stream, stream))
        if not stream_rows:
            raise UserError(
                f"{name} trains on the stream {stream!r}, and no rows were given for it"
            )
        rows[stream] = _build_examples(loaded.template, stream_rows, all_tokens, stream)
    frozen = loading.load_frozen(build_config(reference)) if method.reference() else None
    loaded.model.train()
    setup_method(loaded.model, method, 0, _build_streams(rows), loaded.template)
    gradient, loss = step_gradient(loaded, method, rows, frozen, num_micro_batches=1)
    return float(loss), float(gradient.double().norm())


def _build_examples(
    template: Template, rows: list[Row], all_tokens: bool, stream: str = "train"
) -> Examples:
    """Build the examples of a stream; rows whose `forget` is 1 weigh -1.

    A stream of schema.BESIDE takes the column of its part's name, or else the answer.
    """
    examples = Examples()
    for index, row in enumerate(rows):
        part = PARTS.get(stream, stream)
        answer = row[part] if stream in BESIDE and part in row else row["answer"]
        example = build_example(template.encode(row["question"], answer), index)
        if all_tokens:
            example["labels"] = list(example["input_ids"])
        if row.get("forget"):
            example["weight"] = -1.0
        examples.append({part: example} if stream in BESIDE else example)
    return examples


def _build_classified_examples(template: Template, rows: list[Row], num_classes: int) -> Examples:
    """Build the examples of a classifier: question and answer are the text; classes and numbers go
    round."""
    examples = Examples()
    for index, row in enumerate(rows):
        ids = template.tokenizer(f"{row['question']} {row['answer']}")["input_ids"]
        example = {
            "input_ids": ids,
            "labels": [-100] * (len(ids) - 1) + [index % num_classes],
            "index": index,
            "target": float(index % 5) - 2,
        }
        examples.append(example)
    return examples


def _build_streams(rows: dict[str, Examples]) -> dict[str, Stream]:
    """Build the streams; those that are parts of the same rows are drawn together."""
    streams: dict[str, Stream] = {}
    first_names: dict[str, str] = {}
    for name, examples in rows.items():
        source = BESIDE.get(name, name)
        streams[name] = Stream(name, [examples], first_names.get(source))
        first_names.setdefault(source, name)
    return streams


def step_gradient(
    loaded: LoadedModel,
    method: Method,
    rows: dict[str, Examples],
    frozen: "PreTrainedModel | None",
    num_micro_batches: int,
    *,
    size: int | None = None,
    step: int = 0,
    share: tuple[int, int] = (0, 1),
    wrapped: "Module | None" = None,
) -> "tuple[Tensor, Tensor]":
    """Compute the gradient and the loss of one optimiser step.

    Args:
        loaded: the policy.
        method: set up for it.
        rows: the examples of each stream; the first stream sets the epoch.
        frozen: the reference, if the method has one.
        num_micro_batches: into which each process splits its rows.
        size: rows of a step; None: all, and as many more as the split needs.
        step: its number, from 0.
        share: (rank, number of processes).
        wrapped: the model as wrapped for data parallelism.

    Returns:
        The gradient of all trained parameters, flat, and the loss.
    """
    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    streams = _build_streams(rows)
    anchor = next(iter(streams))
    rank, world_size = share
    total = num_micro_batches * world_size
    if size is None:
        longest = max(len(stream) for stream in streams.values())
        size = math.ceil(longest / total) * total
    steps = Steps(streams, anchor, size, seed=0)

    needed = method.reference()
    draws = steps.list_seen(step + 1)
    tables: dict[str, LogprobTable] = {}
    for name, kind in needed.items():
        if kind == "logprobs":
            tables[name] = compute_table(frozen, streams[name], draws[name], collator, size=4)
    reference = Reference(needed, tables, frozen)

    all_rows = SlotDataset(streams, anchor)
    batches = []
    for slots in steps.split_into_micro_batches(0, step, total)[rank::world_size]:
        batches.append(collate([all_rows[slot] for slot in slots], collator))
    model = wrapped or loaded.model
    counts = {name: count.float() for name, count in count_step_units(method, batches).items()}
    counts.update(prepass_step(model, method, batches, reference))
    if world_size > 1:
        for count in counts.values():
            torch.distributed.all_reduce(count)

    loaded.model.zero_grad(set_to_none=True)
    total_loss = torch.zeros(())
    for batch in batches:
        loss, _ = micro_batch_loss(model, method, batch, reference, counts)
        # DistributedDataParallel averages over processes what the rule sums.
        (loss * world_size).backward()
        total_loss += loss.detach()
    gradients = []
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            gradients.append(torch.zeros_like(parameter) if gradient is None else gradient)
    return torch.cat([gradient.flatten() for gradient in gradients]), total_loss


def check_method(
    name: str, method_args: dict[str, Any] | None = None, processes: bool = True
) -> None:
    """Check that a method keeps the laws of its contract; raise AssertionError that says which one
    it breaks.

    On a tiny model and rows of unequal lengths: losses are finite; gradients reach the parameters;
    the step is the same for 8x1, 4x2, 2x4 and 1x8, for a number of rows that no batch divides, for
    a short last step, with rows laid end to end, with gradient checkpointing, and (`processes`) for
    two real processes under DistributedDataParallel. Prints what was checked.
    """
    environment()

    method = build_method(name, method_args)
    reason = method.depends_on_micro_batches()
    if reason:
        print(f"{name} depends on how a batch is split, and says why: {reason}")
        return
    loaded, frozen, rows = _build_tiny_world(method)
    setup_method(loaded.model, method, 0, _build_streams(rows), loaded.template)
    compute = functools.partial(step_gradient, loaded, method, rows, frozen)
    for step, label in ((0, "a full step"), (1, "the short last step")):
        whole, loss = compute(1, size=8, step=step)
        assert torch.isfinite(loss), f"{name}: the loss of {label} is not finite"
        assert torch.isfinite(whole).all(), f"{name}: the gradient of {label} is not finite"
        assert whole.abs().sum() > 0, f"{name}: no gradient reaches any parameter in {label}"
        for num_micro_batches in (2, 4, 8):
            split, _ = compute(num_micro_batches, size=8, step=step)
            batch_size = 8 // num_micro_batches
            _assert_same(
                whole,
                split,
                f"{name}: {label} dealt to {num_micro_batches} micro-batches of {batch_size} "
                "instead of 1 of 8",
            )
        with _packed(loaded.model):
            packed, _ = compute(2, size=8, step=step)
        _assert_same(whole, packed, f"{name}: {label} with rows laid end to end")
        with _checkpointed(loaded.model):
            checkpointed, _ = compute(2, size=8, step=step)
        _assert_same(whole, checkpointed, f"{name}: {label} with gradient checkpointing")
        if processes:
            gradients = _compute_in_two_processes(loaded, method, rows, frozen, step)
            for rank, gradient in enumerate(gradients):
                _assert_same(whole, gradient, f"{name}: {label} on two processes (rank {rank})")
    print(
        f"{name} passed: losses are finite, gradients arrive, and a step is the same for 8x1, 4x2, "
        "2x4 and 1x8, packed, with gradient "
        f"checkpointing{' and on two processes' if processes else ''}, a short last step too "
        f"(relative L2 below {TOLERANCE:g})"
    )


@contextlib.contextmanager
def _packed(model: "PreTrainedModel") -> "Iterator[None]":
    """Have rows go through the model end to end, without padding."""
    extend(model, packed=True)
    yield
    extend(model)


@contextlib.contextmanager
def _checkpointed(model: "PreTrainedModel") -> "Iterator[None]":
    """Recompute activations in the backward pass."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    yield
    model.gradient_checkpointing_disable()


def _assert_same(expected: "Tensor", actual: "Tensor", variant: str) -> None:
    distance = float((expected - actual).norm() / expected.norm())
    assert distance <= TOLERANCE, f"{variant} changes the gradient by {distance:.2e} (relative L2)"


def _build_tiny_world(
    method: Method,
) -> "tuple[LoadedModel, PreTrainedModel, dict[str, Examples]]":
    """Build a tiny model as deep as the method needs, a reference that differs from it, and rows.

    Rows are of unequal lengths: 13 for the anchor and streams that are parts of its rows, 9 for
    every other stream.
    """
    head = None
    if method.ROWS == "classes":
        head = Head(("a", "b", "c"))
    elif method.ROWS == "numbers":
        head = Head()
    policy, reference = _build_tiny_models(method, head)
    reference.model.requires_grad_(False).eval()

    full = authors.build_rows("full")
    rows = {}
    names = method.streams()
    anchor_source = BESIDE.get(names[0], names[0])
    for stream_index, name in enumerate(names):
        num_rows = 13 if BESIDE.get(name, name) == anchor_source else 9
        first = stream_index * 20
        longer_rows = []
        for i, row in enumerate(full[first : first + num_rows]):
            num_repeats = 1 + (i + stream_index) % 4
            answer = " ".join([row["answer"]] * num_repeats)
            longer_rows.append({**row, "answer": answer, "forget": i % 3 == 0})
        if head:
            num_classes = max(1, len(head.labels))
            rows[name] = _build_classified_examples(policy.template, longer_rows, num_classes)
        else:
            rows[name] = _build_examples(policy.template, longer_rows, False, name)
    return policy, reference.model, rows


def _build_tiny_models(method: Method, head: Head | None) -> list[LoadedModel]:
    """Build two models of the same shape with different weights."""
    texts = [f"{row['question']} {row['answer']}" for row in authors.build_rows("full")]
    tokenizer = learn_tokenizer(texts, 400)
    # As deep as the last layer whose number the method's regexes name.
    last_layer = 1
    for pattern in method.layers().values():
        for number in re.findall(r"\d+", pattern):
            last_layer = max(last_layer, int(number))
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=last_layer + 1,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model_cls: Any = transformers.LlamaForCausalLM
    if head:
        model_cls = transformers.LlamaForSequenceClassification
        config.update(head.settings())
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = model_cls(config)
        models.append(finish(model, tokenizer, schema.TemplateArgs(kind="qa"), "float32"))
    return models


def _compute_in_two_processes(
    loaded: LoadedModel,
    method: Method,
    rows: dict[str, Examples],
    frozen: "PreTrainedModel",
    step: int,
) -> list["Tensor"]:
    """Compute a step's gradient in two forked processes, as each has it after
    DistributedDataParallel's reduction."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("fork")
        workers = []
        for rank in (0, 1):
            args = (rank, folder, loaded, method, rows, frozen, step)
            worker = context.Process(target=_compute_in_worker, args=args)
            worker.start()
            workers.append(worker)
        paths = [Path(folder) / f"{rank}.pt" for rank in (0, 1)]
        deadline = time.monotonic() + WORKER_SECONDS
        while not all(path.exists() for path in paths) and time.monotonic() < deadline:
            assert not any(worker.exitcode for worker in workers), (
                "a process of the two-process step failed"
            )
            time.sleep(0.02)
        for worker in workers:
            worker.kill()
            worker.join()
        assert all(path.exists() for path in paths), "a process of the two-process step hung"
        return [torch.load(path, weights_only=True) for path in paths]


def _compute_in_worker(
    rank: int,
    folder: str,
    loaded: LoadedModel,
    method: Method,
    rows: dict[str, Examples],
    frozen: "PreTrainedModel",
    step: int,
) -> None:
    """Compute one of two processes' gradient, write it to a file, and wait to be ended."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    wrapped = torch.nn.parallel.DistributedDataParallel(loaded.model)
    gradient, _ = step_gradient(
        loaded,
        method,
        rows,
        frozen,
        num_micro_batches=2,
        size=8,
        step=step,
        share=(rank, 2),
        wrapped=wrapped,
    )
    # Under its name only once it is whole: the parent reads it as soon as it is there.
    unfinished = Path(folder) / f"{rank}.part"
    torch.save(gradient, unfinished)
    unfinished.rename(Path(folder) / f"{rank}.pt")
    # The parent ends both: taking a group apart while the other is still in it can hang.
    time.sleep(WORKER_SECONDS)
