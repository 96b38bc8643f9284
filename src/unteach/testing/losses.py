"""Compute a method's loss and gradient on given rows, as a run would in one step."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unteach import registry
from unteach.config import schema
from unteach.config.environment import prepare_environment
from unteach.config.parse_trainer import WRAPPERS, parse_wrapper
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import BESIDE
from unteach.data.batches import Batch, SlotDataset, collate
from unteach.data.collators import Collator, DataCollatorForSupervisedDataset
from unteach.data.steps import Steps
from unteach.data.streams import ALTERNATE, RETAIN_ALTERNATE, Stream
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.base import Method, TwoSided
from unteach.methods.wrap.perturb import Perturbation
from unteach.methods.wrap.surgery import Surgery
from unteach.models import loading
from unteach.models.hub import PATH
from unteach.models.loading import LoadedModel
from unteach.models.reference import LogprobTable, Reference, RowDraw, compute_table
from unteach.testing.examples import Examples, Row, build_examples, build_streams
from unteach.training.gradient_vectors import GradientVectors
from unteach.training.step import count_step_units, micro_batch_loss, prepass_step, setup_method
from unteach.training.two_gradients import StepInputs, TwoGradients

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


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
        raise UserError(join_problems(reader.problems))
    return method


@dataclass(frozen=True)
class Wrappers:
    """What stands round a method: `trainer.surgery` and `trainer.perturb`."""

    surgery: Surgery | None = None
    perturbation: Perturbation | None = None


def build_wrappers(
    surgery: str | dict[str, Any] | None = None, perturb: str | dict[str, Any] | None = None
) -> Wrappers | None:
    """Build a rule of surgery and a perturbation, each by name or as {"name": …} with its fields;
    None where there is neither."""
    if surgery is None and perturb is None:
        return None
    reader = Reader()
    built: dict[str, Any] = {}
    for section, value in (("surgery", surgery), ("perturb", perturb)):
        if value is not None:
            built[section] = parse_wrapper(reader, WRAPPERS[section], value, section)
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return Wrappers(built.get("surgery"), built.get("perturb"))


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
        policy: the folder of the model that would train.
        reference: the folder of the model that it is compared with.
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
    prepare_environment()

    method = build_method(name, method_args, compat)
    other_answers = {ALTERNATE: alternate, RETAIN_ALTERNATE: retain_alternate}
    _apply_extras(name, method, other_answers, control_vector)
    rows_by_source = {"forget": forget, "train": forget, "retain": retain, **other_answers}
    loaded = loading.load(_build_config(policy, template), training=True)
    examples = {}
    for stream in method.streams():
        rows = rows_by_source.get(stream) or rows_by_source.get(BESIDE.get(stream, stream))
        if not rows:
            raise UserError(
                f"{name} trains on the stream {stream!r}, and no rows were given for it"
            )
        examples[stream] = build_examples(loaded.template, rows, all_tokens, stream)
    frozen = loading.load_frozen(_build_config(reference, template)) if method.reference() else None
    loaded.model.train()
    setup_method(loaded.model, method, 0, build_streams(examples), loaded.template)
    gradient, loss = step_gradient(loaded, method, examples, frozen, num_micro_batches=1)
    return float(loss), float(gradient.double().norm())


def _apply_extras(
    name: str,
    method: Any,
    other_answers: dict[str, list[Row] | None],
    control_vector: "Tensor | None",
) -> None:
    """Give a method its control vector; raise UserError where it takes none, or no other answers
    of a stream for which some were given."""
    for stream, answers in other_answers.items():
        if answers is not None and stream not in method.streams():
            raise UserError(
                f"{name} takes no {stream.replace('_', ' ')} answers; its streams: "
                f"{', '.join(method.streams())}"
            )
    if control_vector is not None:
        if not hasattr(method, "control_vector"):
            raise UserError(f"{name} takes no control_vector")
        method.control_vector = control_vector


def _build_config(path: str | Path, template: dict[str, Any]) -> schema.ModelConfig:
    args: dict[str, Any] = {PATH: str(path), "dtype": "float32"}
    return schema.ModelConfig(args, template_args=schema.TemplateArgs(**template))


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
    wrappers: Wrappers | None = None,
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
        wrappers: what stands round the method, as at a run's first step.

    Returns:
        The gradient of all trained parameters, flat, and the loss.
    """
    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    streams = build_streams(rows)
    anchor = next(iter(streams))
    rank, world_size = share
    total = num_micro_batches * world_size
    if size is None:
        longest = max(len(stream) for stream in streams.values())
        size = math.ceil(longest / total) * total
    steps = Steps(streams, anchor, size, seed=0)

    reference = _build_reference(method, streams, steps.list_seen(step + 1), frozen, collator)
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
    policy = WrappedPolicy(loaded.model, model, world_size)
    inputs = (policy, method, batches, reference, counts)
    loss = _add_gradients(*inputs) if wrappers is None else _combine_gradients(*inputs, wrappers)
    return _flatten_gradients(loaded.model), loss


@dataclass(frozen=True)
class WrappedPolicy:
    """The policy, as wrapped for so many processes."""

    model: "PreTrainedModel"
    wrapped: "Module"
    world_size: int


def _add_gradients(
    policy: WrappedPolicy,
    method: Method,
    batches: list[Batch],
    reference: Reference,
    counts: "dict[str, Tensor]",
) -> "Tensor":
    """Compute the gradient of a plain step into `.grad`; give its loss."""
    total_loss = torch.zeros(())
    for batch in batches:
        loss, _ = micro_batch_loss(policy.wrapped, method, batch, reference, counts)
        # DistributedDataParallel averages over processes what the rule sums.
        (loss * policy.world_size).backward()
        total_loss += loss.detach()
    return total_loss


def _combine_gradients(
    policy: WrappedPolicy,
    method: Method,
    batches: list[Batch],
    reference: Reference,
    counts: "dict[str, Tensor]",
    wrappers: Wrappers,
) -> "Tensor":
    """Compute the gradient of a step with surgery or a perturbation into `.grad`; give its loss."""
    assert isinstance(method, TwoSided), "surgery and perturbations are of methods of two sides"
    surgery = copy.deepcopy(wrappers.surgery)  # which remembers nothing from an earlier step
    two = TwoGradients(method, policy.model, reference, surgery, wrappers.perturbation, seed=0)
    total_loss = torch.zeros(())

    def record(batch: Batch, loss: "Tensor", shares: "dict[str, Tensor]") -> None:
        total_loss.add_(loss)

    def ignore(batch: Batch, loss: "Tensor", shares: "dict[str, Tensor]") -> None:
        return

    mode = "ddp" if policy.world_size > 1 else "one"
    vectors = GradientVectors(policy.wrapped, mode, policy.world_size)
    two.compute(vectors, StepInputs(0, lambda: batches, counts, record, ignore))
    two.close()
    return total_loss


def _build_reference(
    method: Method,
    streams: dict[str, Stream],
    draws: dict[str, list[RowDraw]],
    frozen: "PreTrainedModel | None",
    collator: Collator,
) -> Reference:
    """Build what the method compares with, with the tables of the rows that are drawn."""
    needed = method.reference()
    tables: dict[str, LogprobTable] = {}
    for name, kind in needed.items():
        if kind == "logprobs":
            assert frozen is not None, "a method with a reference has a frozen model"
            tables[name] = compute_table(frozen, streams[name], draws[name], collator, size=4)
    return Reference(needed, tables, frozen)


def _flatten_gradients(model: "PreTrainedModel") -> "Tensor":
    """Join the gradients of all trained parameters, 0 where none arrived."""
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            gradients.append(torch.zeros_like(parameter) if gradient is None else gradient)
    return torch.cat([gradient.flatten() for gradient in gradients])
