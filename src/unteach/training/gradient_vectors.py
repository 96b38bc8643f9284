"""The trained parameters as one vector: their gradients taken, summed over processes, multiplied;
their weights moved and put back, whatever the sharding."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from unteach import json_files
from unteach.atomic import atomic_write, write_json
from unteach.errors import UserError
from unteach.lazy import distributed_tensor, fsdp, safetensors_torch, torch
from unteach.methods.wrap.surgery import Gradients, dot_products
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

MEMORY_FILE, NAMES_FILE = "memory.safetensors", "names.json"


class GradientVectors:
    """Works on the parameters that train, a tied one once.

    Lists that it takes and gives have one tensor a parameter. Under FSDP2 they are this process's
    shards, plain tensors.

    Args:
        model: wrapped as it trains.
        mode: the parallelism strategy: one, ddp or fsdp2.
        world_size: how many processes there are.
    """

    def __init__(self, model: "Module", mode: str, world_size: int):
        self.model = model
        self.mode = mode
        self.world_size = world_size
        self.names: list[str] = []
        self.parameters: list[Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.names.append(name.removeprefix("module."))
                self.parameters.append(parameter)

    @property
    def loss_scale(self) -> int:
        """What a loss is multiplied by before its backward pass: FSDP2 averages gradients over
        processes, and the rule of normalisation needs their sum."""
        return self.world_size if self.mode == "fsdp2" else 1

    def without_reduction(self) -> contextlib.AbstractContextManager[None]:
        """Keep DistributedDataParallel from reducing gradients itself: it would wait for those that
        one side alone does not have."""
        if self.mode != "ddp":
            return contextlib.nullcontext()
        wrapped: contextlib.AbstractContextManager[None] = self.model.no_sync()  # type: ignore[operator]
        return wrapped

    def reduce(self) -> None:
        """Sum `.grad` over processes; called once a side, after the last of its backward passes.

        FSDP2 has reduced every backward pass by itself. A parameter that no gradient reached in any
        process (an expert that no token went to, a layer above an early exit) is left without.
        """
        if self.mode != "ddp":
            return
        has_gradient = torch.tensor(
            [float(parameter.grad is not None) for parameter in self.parameters],
            device=self.parameters[0].device,
        )
        torch.distributed.all_reduce(has_gradient, op=torch.distributed.ReduceOp.MAX)
        pending = []
        for parameter, is_reached in zip(self.parameters, has_gradient.tolist(), strict=True):
            if not is_reached:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(torch.distributed.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            work.wait()

    def list_reached(self) -> list[bool]:
        """Say of each parameter whether a gradient reached it."""
        return [parameter.grad is not None for parameter in self.parameters]

    def clear_unreached(self, is_reached: list[bool]) -> None:
        """Leave parameters without a gradient that none reached: the optimiser skips them."""
        for parameter, reached in zip(self.parameters, is_reached, strict=True):
            if not reached:
                parameter.grad = None

    def take(self) -> "list[Tensor]":
        """Move the gradients out of `.grad`, zeros where there are none."""
        gradients = []
        for parameter in self.parameters:
            gradient = parameter.grad
            parameter.grad = None
            gradients.append(
                to_local(torch.zeros_like(parameter) if gradient is None else gradient).detach()
            )
        return gradients

    def view(self) -> "list[Tensor]":
        """List what is in `.grad`, as it stands there; where there is nothing, zeros are put
        there."""
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(to_local(parameter.grad).detach())
        return gradients

    def dots(self, a: Gradients, b: Gradients) -> "Tensor":
        """Compute the inner product of each pair of whole tensors: [n], in fp32."""
        products = dot_products(a, b)
        first = self.parameters[0]
        if not isinstance(first, distributed_tensor.DTensor):
            return products
        # All parameters are sharded over one mesh: one reduction for all products.
        placements = []
        for placement in first.placements:
            is_whole = placement.is_replicate()
            placements.append(
                distributed_tensor.Replicate() if is_whole else distributed_tensor.Partial()
            )
        sharded = distributed_tensor.DTensor.from_local(
            products, first.device_mesh, placements, run_check=False
        )
        return sharded.full_tensor()

    def copy_weights(self) -> "list[Tensor]":
        return [to_local(parameter).detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def move_weights(self, offsets: Iterable["Tensor"]) -> None:
        """Add an offset to each parameter."""
        self._forget_gathered_weights()
        for parameter, offset in zip(self.parameters, offsets, strict=True):
            to_local(parameter).add_(offset.to(parameter.dtype))

    @torch.no_grad()
    def restore_weights(self, copies: "list[Tensor]") -> None:
        """Put copied weights back, bit by bit."""
        self._forget_gathered_weights()
        for parameter, copy in zip(self.parameters, copies, strict=True):
            to_local(parameter).copy_(copy)

    def _forget_gathered_weights(self) -> None:
        """Have FSDP2 gather anew: after a pass without gradient the root's whole weights are still
        there, and would hide that its shards have changed."""
        if self.mode != "fsdp2":
            return
        for module in self.model.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()

    def draw_noise(self, seed: int, *names: object) -> Iterator["Tensor"]:
        """Yield standard normal tensors, the same for any sharding and number of processes."""
        for name, parameter in zip(self.names, self.parameters, strict=True):
            device = parameter.device
            generator = torch.Generator(device).manual_seed(derive_seed(seed, *names, name))
            noise = torch.randn(
                parameter.shape, generator=generator, device=device, dtype=torch.float32
            )
            yield self._shard_like(parameter, noise)

    @staticmethod
    def _shard_like(parameter: "Parameter", whole: "Tensor") -> "Tensor":
        """Take this process's shard of a tensor that every process has."""
        if not isinstance(parameter, distributed_tensor.DTensor):
            return whole
        replicated = [distributed_tensor.Replicate() for _ in parameter.placements]
        tensor = distributed_tensor.DTensor.from_local(
            whole, parameter.device_mesh, replicated, run_check=False
        )
        return to_local(tensor.redistribute(placements=parameter.placements))

    def save(self, state: Mapping[str, Gradients], folder: Path, is_main: bool) -> None:
        """Write what a rule remembers beside a checkpoint; all processes must call it together.

        FSDP2 writes shards in torch.distributed.checkpoint's form, which any number of processes
        reads.
        """
        if not state:
            return
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / NAMES_FILE, {"names": list(state)})
        if self.mode == "fsdp2":
            torch.distributed.checkpoint.save(self._wrap(state), checkpoint_id=str(folder))
        elif is_main:
            tensors = {}
            for name, memory in state.items():
                for parameter_name, tensor in zip(self.names, memory, strict=True):
                    tensors[f"{name}/{parameter_name}"] = tensor.contiguous()
            with atomic_write(folder / MEMORY_FILE) as temporary:
                safetensors_torch.save_file(tensors, temporary)

    def load(self, folder: Path) -> dict[str, Gradients]:
        """Read what `save` wrote."""
        if not folder.is_dir():
            raise UserError(
                f"the checkpoint {folder.parent} lacks what trainer.surgery remembers: it was "
                "written by a run without it; start with resume=never"
            )
        names = json_files.read_mapping(folder / NAMES_FILE, "the memory of surgery")["names"]
        state: dict[str, list[Tensor]] = {}
        for name in names:
            state[name] = [torch.zeros_like(to_local(p)).detach() for p in self.parameters]
        if self.mode == "fsdp2":
            torch.distributed.checkpoint.load(self._wrap(state), checkpoint_id=str(folder))
            return dict(state)
        tensors = safetensors_torch.load_file(folder / MEMORY_FILE)
        for name, memory in state.items():
            for parameter_name, tensor in zip(self.names, memory, strict=True):
                tensor.copy_(tensors[f"{name}/{parameter_name}"])
        return dict(state)

    def _wrap(self, state: Mapping[str, Gradients]) -> "dict[str, Tensor]":
        """Make distributed tensors of shards, by the names of a checkpoint; they share storage."""
        wrapped: dict[str, Tensor] = {}
        for name, memory in state.items():
            for parameter_name, parameter, shard in zip(
                self.names, self.parameters, memory, strict=True
            ):
                assert isinstance(parameter, distributed_tensor.DTensor)
                wrapped[f"{name}/{parameter_name}"] = distributed_tensor.DTensor.from_local(
                    shard,
                    parameter.device_mesh,
                    parameter.placements,
                    run_check=False,
                    shape=parameter.shape,
                    stride=parameter.stride(),
                )
        return wrapped


def to_local(tensor: "Tensor") -> "Tensor":
    """Return this process's shard of a distributed tensor, and any other tensor as it is."""
    if isinstance(tensor, distributed_tensor.DTensor):
        local: Tensor = tensor.to_local()
        return local
    return tensor
