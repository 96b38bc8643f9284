"""What plugin authors and unteach's own tests call: a method's loss on given rows, and the
conformance test.

loss, norm = method_loss("NPO", {"beta": 0.1}, policy, reference, forget, retain, template_args)
check_method("MyMethod")
"""

import contextlib
import functools
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import registry
from unteach.config import schema
from unteach.config.environment import prepare_environment
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import BESIDE
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.handlers.qa import Example, example_of
from unteach.data.streams import ALTERNATE, Rows, Steps, Stream, collate
from unteach.data.synthetic import authors
from unteach.errors import UserError
from unteach.lazy import torch, transformers
from unteach.models import loading
from unteach.models.forward import extend
from unteach.models.heads import Head
from unteach.models.hub import PATH
from unteach.models.loading import finish
from unteach.models.model_handlers import learn_tokenizer
from unteach.models.reference import Reference, compute_table
from unteach.training.step import count_step, micro_batch_loss, prepass_step, setup_method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from unteach.data.streams import Stream

Row = dict[str, Any]
TOLERANCE = 1e-5
"""Relative L2 distance that two gradients of the same step may have, in fp32."""


class Examples(list[Example]):
    """A list of examples as a dataset of a stream."""


def build_method(
    name: str, method_args: dict[str, Any] | None = None, compat: str | None = None
) -> Any:
    """The method of that name with checked arguments; compat="openunlearning" turns its published
    quirks on."""
    cls: Any = registry.method.get(name)
    reader = Reader()
    method = reader.record(
        cls, {**(cls.QUIRKS if compat else {}), **(method_args or {})}, "method_args"
    )
    if reader.problems:
        raise UserError(join_problems(reader.problems))
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
    control_vector: "Tensor | None" = None,
    compat: str | None = None,
) -> tuple[float, float]:
    """(loss, gradient norm) of one step over all given rows, in fp32, before clipping.

    policy, reference: model folders. forget, retain: rows with question and answer; a method that
    teaches takes `forget` as its stream `train`, with `chosen` and `rejected` in place of `answer`
    where it learns preferences.
    template: template_args. all_tokens: every token is a label, prompts too.
    alternate: rows with the other answers (their column alternate, or else answer), in the order of
    `forget`;
    control_vector: the direction to steer to, whose length counts for nothing; for methods that
    take them. The norm is L2 over all parameters. Equals what a run with max_steps=1
    learning_rate=0 logs.
    """
    prepare_environment()

    method = build_method(name, method_args, compat)
    if control_vector is not None:
        if not hasattr(method, "control_vector"):
            raise UserError(f"{name} takes no control_vector")
        method.control_vector = control_vector
    given = {"forget": forget, "train": forget, "retain": retain, "alternate": alternate}
    if alternate is not None and ALTERNATE not in method.streams():
        raise UserError(
            f"{name} takes no alternate answers; its streams: {', '.join(method.streams())}"
        )

    def config(path: str | Path) -> schema.ModelConfig:
        args: dict[str, Any] = {PATH: str(path), "dtype": "float32"}
        return schema.ModelConfig(args, template_args=schema.TemplateArgs(**template))

    loaded = loading.load(config(policy), training=True)
    rows = {}
    for stream in method.streams():
        taken = given.get(stream) or given.get(BESIDE.get(stream, stream))
        if not taken:
            raise UserError(
                f"{name} trains on the stream {stream!r}, and no rows were given for it"
            )
        rows[stream] = _examples(loaded.template, taken, all_tokens, stream)
    frozen = loading.load_frozen(config(reference)) if method.reference() else None
    loaded.model.train()
    setup_method(loaded.model, method, seed=0, streams=_streams(rows))
    gradient, loss = step_gradient(loaded, method, rows, frozen, num_micro_batches=1)
    return float(loss), float(gradient.double().norm())


def _examples(template: Any, rows: list[Row], all_tokens: bool, stream: str = "train") -> Examples:
    """Rows as examples of a stream; those whose `forget` is 1 weigh -1. A part that a row has not
    is its answer's."""
    examples = Examples()
    for index, row in enumerate(rows):
        answer = row[stream] if stream in BESIDE and stream in row else row["answer"]
        example = example_of(template.encode(row["question"], answer), index)
        if all_tokens:
            example["labels"] = list(example["input_ids"])
        if row.get("forget"):
            example["weight"] = -1.0
        examples.append({stream: example} if stream in BESIDE else example)
    return examples


def _told(template: Any, rows: list[Row], classes: int) -> Examples:
    """Rows as examples of a classifier: question and answer are the text, and its class or number
    goes round."""
    examples = Examples()
    for index, row in enumerate(rows):
        ids = template.tokenizer(f"{row['question']} {row['answer']}")["input_ids"]
        label = index % classes
        told = {"input_ids": ids, "labels": [-100] * (len(ids) - 1) + [label], "index": index}
        examples.append({**told, "target": float(index % 5) - 2})
    return examples


def _streams(rows: dict[str, Examples]) -> "dict[str, Stream]":
    """Rows as streams; those that stand beside one another are drawn together."""
    streams: dict[str, Stream] = {}
    for name, examples in rows.items():
        beside = (other for other in streams if BESIDE.get(other, other) == BESIDE.get(name, name))
        streams[name] = Stream(name, [examples], next(beside, None))
    return streams


def step_gradient(
    loaded: Any,
    method: Any,
    rows: dict[str, Examples],
    frozen: Any,
    num_micro_batches: int,
    *,
    size: int | None = None,
    step: int = 0,
    share: tuple[int, int] = (0, 1),
    wrapped: Any = None,
) -> "tuple[Tensor, Tensor]":
    """The gradient (flat) and the loss of one optimiser step, dealt to `num_micro_batches`
    micro-batches.

    share: (rank, world) of this process; wrapped: the model as wrapped for data parallelism.
    """

    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    streams = _streams(rows)
    anchor = next(iter(streams))
    rank, world = share
    total = num_micro_batches * world
    smallest = size or -(-max(len(stream) for stream in streams.values()) // total) * total
    steps, source = Steps(streams, anchor, smallest, seed=0), Rows(streams, anchor)
    needed, seen = method.reference(), steps.seen(step + 1)
    tables = {
        name: compute_table(frozen, streams[name], seen[name], collator, size=4)
        for name, kind in needed.items()
        if kind == "logprobs"
    }
    reference = Reference(needed, tables, frozen)
    dealt = steps.split_into_micro_batches(0, step, total)[rank::world]
    batches = [collate([source[slot] for slot in hand], collator) for hand in dealt]
    counts = {name: count.float() for name, count in count_step(method, batches).items()}
    counts |= prepass_step(wrapped or loaded.model, method, batches, reference)
    if world > 1:
        for count in counts.values():
            torch.distributed.all_reduce(count)
    loaded.model.zero_grad(set_to_none=True)
    total_loss = torch.zeros(())
    for batch in batches:
        loss, _ = micro_batch_loss(wrapped or loaded.model, method, batch, reference, counts)
        (loss * world).backward()
        total_loss += loss.detach()
    trained = [p for p in loaded.model.parameters() if p.requires_grad]
    return torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in trained]
    ), total_loss


def check_method(
    name: str, method_args: dict[str, Any] | None = None, processes: bool = True
) -> None:
    """The conformance test of a method; raises AssertionError that says which law it breaks.

    On a tiny model and rows of unequal lengths: losses are finite; gradients reach the parameters;
    the step is the same for 8x1, 4x2, 2x4 and 1x8, for a number of rows that no batch divides, for
    a short last step, with rows laid end to end, with gradient checkpointing, and (`processes`) for
    two real processes under DistributedDataParallel. Prints what was checked.
    """
    prepare_environment()

    method = build_method(name, method_args)
    if reason := method.depends_on_micro_batches():
        print(f"{name} depends on how a batch is split, and says why: {reason}")
        return
    loaded, frozen, rows = _tiny_world(method)
    setup_method(loaded.model, method, seed=0, streams=_streams(rows))
    compute = functools.partial(step_gradient, loaded, method, rows, frozen)
    for step, label in ((0, "a full step"), (1, "the short last step")):
        whole, loss = compute(1, size=8, step=step)
        assert torch.isfinite(loss), f"{name}: the loss of {label} is not finite"
        assert torch.isfinite(whole).all(), f"{name}: the gradient of {label} is not finite"
        assert whole.abs().sum() > 0, f"{name}: no gradient reaches any parameter in {label}"
        for num_micro_batches in (2, 4, 8):
            split, _ = compute(num_micro_batches, size=8, step=step)
            _same(
                whole,
                split,
                f"{name}: {label} dealt to {num_micro_batches} micro-batches of "
                f"{8 // num_micro_batches} instead of 1 of 8",
            )
        for variant in (_packed, _checkpointed):
            with variant(loaded.model):
                _same(whole, compute(2, size=8, step=step)[0], f"{name}: {label} {variant.__doc__}")
        if processes:
            for rank, split in enumerate(_in_two_processes(loaded, method, rows, frozen, step)):
                _same(whole, split, f"{name}: {label} on two processes (rank {rank})")
    print(
        f"{name} passed: losses are finite, gradients arrive, and a step is the same for 8x1, 4x2, "
        "2x4 and 1x8, packed, with gradient "
        f"checkpointing{' and on two processes' if processes else ''}, a short last step too "
        f"(relative L2 below {TOLERANCE:g})"
    )


@contextlib.contextmanager
def _packed(model: Any) -> "Iterator[None]":
    """with rows laid end to end"""
    extend(model, packed=True)
    yield
    extend(model)


@contextlib.contextmanager
def _checkpointed(model: Any) -> "Iterator[None]":
    """with gradient checkpointing"""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    yield
    model.gradient_checkpointing_disable()


def _same(expected: "Tensor", found: "Tensor", what: str) -> None:
    distance = float((expected - found).norm() / expected.norm())
    assert distance <= TOLERANCE, f"{what} changes the gradient by {distance:.2e} (relative L2)"


def _tiny_world(method: Any) -> tuple[Any, Any, dict[str, Examples]]:
    """A tiny model as deep as the method needs, a reference that differs from it, and 13 (anchor
    and what stands beside it) or 9 rows of unequal lengths a stream."""

    texts = [f"{row['question']} {row['answer']}" for row in authors.rows("full")]
    tokenizer = learn_tokenizer(texts, 400)
    named = [
        int(number) for layer in method.layers().values() for number in re.findall(r"\d+", layer)
    ]
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=max([1, *named]) + 1,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    heads = {"classes": Head(("a", "b", "c")), "numbers": Head()}
    head = heads.get(method.ROWS)
    made = transformers.LlamaForSequenceClassification if head else transformers.LlamaForCausalLM
    config.update(head.settings() if head else {})
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(finish(made(config), tokenizer, schema.TemplateArgs(kind="qa"), "float32"))
    policy, reference = models
    reference.model.requires_grad_(False).eval()
    full = authors.rows("full")
    rows = {}
    for k, stream in enumerate(method.streams()):
        paired = k == 0 or BESIDE.get(stream, stream) == BESIDE.get(
            method.streams()[0], method.streams()[0]
        )
        taken = full[k * 20 : k * 20 + (13 if paired else 9)]
        longer = [
            {**row, "answer": " ".join([row["answer"]] * (1 + (i + k) % 4)), "forget": i % 3 == 0}
            for i, row in enumerate(taken)
        ]
        told = _told(policy.template, longer, max(1, len(head.labels))) if head else None
        rows[stream] = told or _examples(policy.template, longer, False, stream)
    return policy, reference.model, rows


def _in_two_processes(
    loaded: Any, method: Any, rows: dict[str, Examples], frozen: Any, step: int
) -> list["Tensor"]:
    """The step's gradient as each of two forked processes has it after DistributedDataParallel's
    reduction."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("fork")
        workers = [
            context.Process(
                target=_one_of_two, args=(rank, folder, loaded, method, rows, frozen, step)
            )
            for rank in (0, 1)
        ]
        for worker in workers:
            worker.start()
        found = [Path(folder) / f"{rank}.pt" for rank in (0, 1)]
        deadline = time.monotonic() + 60
        while not all(map(Path.exists, found)) and time.monotonic() < deadline:
            assert not any(worker.exitcode for worker in workers), (
                "a process of the two-process step failed"
            )
            time.sleep(0.02)
        for worker in workers:
            worker.kill()
            worker.join()
        assert all(map(Path.exists, found)), "a process of the two-process step hung"
        return [torch.load(path, weights_only=True) for path in found]


def _one_of_two(
    rank: int, folder: str, loaded: Any, method: Any, rows: Any, frozen: Any, step: int
) -> None:
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
    torch.save(gradient, Path(folder) / f"{rank}.part")
    (Path(folder) / f"{rank}.part").rename(Path(folder) / f"{rank}.pt")
    # the parent ends both: taking a group apart while the other is still in it can hang
    time.sleep(60)
