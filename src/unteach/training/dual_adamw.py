"""AdamW with two sets of moments: steps on the forget rows and steps on the retain rows, each with
its own."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from unteach.methods.base import Side

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

STEP = "step"
"""What torch's AdamW calls its count of steps."""


class DualAdamW(torch.optim.AdamW):
    """Two AdamW over the same parameters, of which each step is one's (DualOptim,
    arXiv:2504.15827).

    Memory: twice the moments of AdamW. Under each parameter the state has `forget_exp_avg`,
    `retain_exp_avg` and so on; a side that has not stepped yet has none.

    Args:
        params: parameters or groups of them.
        forget_lr_ratio: of a forget step's learning rate to the groups'.
        settings: what torch's AdamW takes.

    Attributes:
        side: whose the next step is.
    """

    def __init__(
        self,
        params: "Iterable[Parameter] | Iterable[dict[str, Any]]",
        forget_lr_ratio: float = 1.0,
        **settings: Any,
    ):
        super().__init__(params, **settings)
        self.forget_lr_ratio = forget_lr_ratio
        self.side: Side = "forget"

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step with the moments, the count of steps and the learning rate of `side`."""
        rates = [group["lr"] for group in self.param_groups]
        states = {parameter: self.state[parameter] for parameter in self._iterate_stepped()}
        for parameter, both in states.items():
            device = parameter.device if self.defaults.get("fused") else torch.device("cpu")
            self.state[parameter] = _select_side(both, self.side, device)
        try:
            if self.side == "forget":
                for group in self.param_groups:
                    group["lr"] = group["lr"] * self.forget_lr_ratio
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
            for parameter, both in states.items():
                both.update(_name_by_side(self.state[parameter], self.side))
                self.state[parameter] = both

    def state_dict(self) -> dict[str, Any]:
        """Give the state with counts of steps as plain numbers: torch would round a tensor of the
        state to the dtype of its parameter when it is loaded."""
        state = super().state_dict()
        state["state"] = {number: _count_plainly(both) for number, both in state["state"].items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Adam's own looks for the one count of steps that it keeps.
        torch.optim.Optimizer.__setstate__(self, state)

    def _iterate_stepped(self) -> "Iterator[Parameter]":
        """Iterate over the parameters that a step changes."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield parameter


def build_dual_adamw(plain: torch.optim.Optimizer, forget_lr_ratio: float) -> DualAdamW:
    """Build the same optimiser with moments for each side."""
    groups = []
    for group in plain.param_groups:
        groups.append({"params": group["params"], "weight_decay": group["weight_decay"]})
    return DualAdamW(
        groups,
        forget_lr_ratio,
        lr=plain.defaults["lr"],
        betas=plain.defaults["betas"],
        eps=plain.defaults["eps"],
        fused=plain.defaults.get("fused"),
    )


def _select_side(both: dict[str, Any], side: Side, device: torch.device) -> "dict[str, Tensor]":
    """Select one side's state, by the names that torch's AdamW has for it.

    Args:
        device: where it wants the count of steps.
    """
    selected: dict[str, Tensor] = {}
    for name, value in both.items():
        own_side, _, own_name = name.partition("_")
        if own_side == side:
            selected[own_name] = value
    if STEP in selected:
        selected[STEP] = torch.as_tensor(selected[STEP], dtype=torch.float32, device=device)
    return selected


def _name_by_side(state: "dict[str, Tensor]", side: Side) -> "dict[str, Tensor]":
    """Give the state of one side the names that it has beside the other's."""
    return {f"{side}_{name}": value for name, value in state.items()}


def _count_plainly(both: dict[str, Any]) -> dict[str, Any]:
    """Give a state with its counts of steps as plain numbers."""
    plain = dict(both)
    for name, value in both.items():
        if name.endswith(f"_{STEP}"):
            plain[name] = float(value)
    return plain
