"""What `trainer.dual_optim` is told."""

from dataclasses import dataclass

from unteach.errors import UserError


@dataclass(frozen=True)
class DualOptim:
    """Steps on the forget rows and steps on the retain rows take turns, each with moments of its
    own (arXiv:2504.15827).

    forget_steps, retain_steps: so many of the one, then so many of the other. forget_lr_ratio: the
    learning rate of forget steps, as a multiple of trainer.args.learning_rate.
    """

    forget_steps: int = 1
    retain_steps: int = 5
    forget_lr_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.forget_steps < 1 or self.retain_steps < 1:
            raise UserError("forget_steps and retain_steps must be at least 1")
        if self.forget_lr_ratio <= 0:
            raise UserError(f"forget_lr_ratio must be above 0, got {self.forget_lr_ratio:g}")
