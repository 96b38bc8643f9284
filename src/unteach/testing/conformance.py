"""Check that a method keeps the laws of its contract."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.config.environment import prepare_environment
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.base import Method
from unteach.models.forward import extend
from unteach.models.loading import LoadedModel
from unteach.testing.examples import Examples, build_streams
from unteach.testing.losses import Wrappers, build_method, build_wrappers, step_gradient
from unteach.testing.tiny_world import build_tiny_world
from unteach.training.step import setup_method

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

TOLERANCE = 1e-5
"""Relative L2 distance that two gradients of the same step may have, in fp32."""
WORKER_SECONDS = 60
"""How long the processes of a two-process step may take."""


def check_method(
    name: str,
    method_args: dict[str, Any] | None = None,
    processes: bool = True,
    *,
    surgery: str | dict[str, Any] | None = None,
    perturb: str | dict[str, Any] | None = None,
) -> None:
    """Check that a method keeps the laws of its contract; raise AssertionError that says which one
    it breaks.

    On a tiny model and rows of unequal lengths: losses are finite; gradients reach the parameters;
    the step is the same for 8x1, 4x2, 2x4 and 1x8, for a number of rows that no batch divides, for
    a short last step, with rows laid end to end, with gradient checkpointing, and (`processes`) for
    two real processes under DistributedDataParallel. Prints what was checked.

    Args:
        name: of the method.
        method_args: its fields.
        processes: two processes too.
        surgery: a rule that stands round it: a name, or {"name": …} with fields.
        perturb: a perturbation that stands round it, named in the same way.
    """
    prepare_environment()

    method = build_method(name, method_args)
    if method.IS_EDIT:
        raise UserError(
            f"{name} is a one-shot edit: it has no steps that could differ. Its gradients are "
            "those of EditContext, which do not depend on the batch size"
        )
    reason = method.depends_on_micro_batches()
    if reason:
        print(f"{name} depends on how a batch is split, and says why: {reason}")
        return
    loaded, frozen, rows = build_tiny_world(method)
    setup_method(loaded.model, method, 0, build_streams(rows), loaded.template)
    wrappers = build_wrappers(surgery, perturb)
    compute = functools.partial(step_gradient, loaded, method, rows, frozen, wrappers=wrappers)
    for step, label in ((0, "a full step"), (1, "the short last step")):
        whole, loss = compute(1, size=8, step=step)
        assert torch.isfinite(loss), f"{name}: the loss of {label} is not finite"
        assert torch.isfinite(whole).all(), f"{name}: the gradient of {label} is not finite"
        assert whole.abs().sum() > 0, f"{name}: no gradient reaches any parameter in {label}"
        _check_splits(compute, loaded.model, step, whole, f"{name}: {label}")
        if processes:
            gradients = compute_in_two_processes(loaded, method, rows, frozen, step, wrappers)
            for rank, gradient in enumerate(gradients):
                _assert_same(whole, gradient, f"{name}: {label} on two processes (rank {rank})")
    print(
        f"{name} passed: losses are finite, gradients arrive, and a step is the same for 8x1, 4x2, "
        "2x4 and 1x8, packed, with gradient "
        f"checkpointing{' and on two processes' if processes else ''}, a short last step too "
        f"(relative L2 below {TOLERANCE:g})"
    )


def _check_splits(
    compute: "Callable[..., tuple[Tensor, Tensor]]",
    model: "PreTrainedModel",
    step: int,
    whole: "Tensor",
    label: str,
) -> None:
    """Check that a step in several micro-batches, packed or with gradients checkpointed is the
    step in one."""
    for num_micro_batches in (2, 4, 8):
        split, _ = compute(num_micro_batches, size=8, step=step)
        batch_size = 8 // num_micro_batches
        _assert_same(
            whole,
            split,
            f"{label} dealt to {num_micro_batches} micro-batches of {batch_size} instead of 1 of 8",
        )
    with _pack_rows(model):
        packed, _ = compute(2, size=8, step=step)
    _assert_same(whole, packed, f"{label} with rows laid end to end")
    with _checkpoint_gradients(model):
        checkpointed, _ = compute(2, size=8, step=step)
    _assert_same(whole, checkpointed, f"{label} with gradient checkpointing")


@contextlib.contextmanager
def _pack_rows(model: "PreTrainedModel") -> Iterator[None]:
    """Have rows go through the model end to end, without padding."""
    extend(model, packed=True)
    yield
    extend(model)


@contextlib.contextmanager
def _checkpoint_gradients(model: "PreTrainedModel") -> Iterator[None]:
    """Recompute activations in the backward pass."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    yield
    model.gradient_checkpointing_disable()


def _assert_same(expected: "Tensor", actual: "Tensor", variant: str) -> None:
    distance = float((expected - actual).norm() / expected.norm())
    assert distance <= TOLERANCE, f"{variant} changes the gradient by {distance:.2e} (relative L2)"


def compute_in_two_processes(
    loaded: LoadedModel,
    method: Method,
    rows: dict[str, Examples],
    frozen: "PreTrainedModel",
    step: int,
    wrappers: Wrappers | None = None,
) -> list["Tensor"]:
    """Compute a step's gradient in two forked processes, as each has it after
    DistributedDataParallel's reduction."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("fork")
        workers = []
        for rank in (0, 1):
            args = (rank, folder, loaded, method, rows, frozen, step, wrappers)
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
    wrappers: Wrappers | None,
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
        wrappers=wrappers,
    )
    # Under its name only once it is whole: the parent reads it as soon as it is there.
    unfinished = Path(folder) / f"{rank}.part"
    torch.save(gradient, unfinished)
    unfinished.rename(Path(folder) / f"{rank}.pt")
    # The parent ends both: taking a group apart while the other is still in it can hang.
    time.sleep(WORKER_SECONDS)
