"""A whole optimiser step with the forget gradient and the retain gradient apart: surgery combines
them, a perturbation changes where the first is computed.

The passes are those of a plain step, each over the rows of one side: the forget rows of all
micro-batches, then the retain rows. What is logged is what a plain step would log.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.data.batches import Batch
from unteach.lazy import torch
from unteach.methods.base import Side, TwoSided
from unteach.methods.wrap.perturb import LAT, Perturbation, Surroundings, WeightPerturbation
from unteach.methods.wrap.surgery import Surgery
from unteach.models.reference import Reference
from unteach.training.gradient_vectors import GradientVectors
from unteach.training.latent_attack import LatentAttack
from unteach.training.step import micro_batch_loss, select_side

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

Record = Callable[[Batch, "Tensor", "dict[str, Tensor]"], None]
"""Takes the rows, the loss and the terms of one micro-batch of one side."""


@dataclass(frozen=True)
class StepInputs:
    """What one optimiser step is computed from.

    Attributes:
        number: of the step in the run, from 0.
        iterate_batches: iterates over this process's micro-batches, on its device.
        counts: the units of the whole step.
        record: takes what each micro-batch of either side gives at the weights themselves.
        record_perturbed: takes what it gives where the forget side is perturbed.
        autocast: a context for the precision of passes.
    """

    number: int
    iterate_batches: Callable[[], Iterable[Batch]]
    counts: "dict[str, Tensor]"
    record: Record
    record_perturbed: Record
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


class TwoGradients:
    """Computes the gradient of whole steps.

    Args:
        method: whose terms are of two sides.
        model: the policy, before anything wraps it.
        reference: what the method compares the policy with.
        surgery: combines the two gradients; None: they are added.
        perturbation: of the forget side; None: none.
        seed: the run's.
    """

    def __init__(
        self,
        method: TwoSided,
        model: "PreTrainedModel",
        reference: Reference,
        surgery: Surgery | None,
        perturbation: Perturbation | None,
        seed: int,
    ):
        self.method = method
        self.reference = reference
        self.surgery = surgery
        self.perturbation = perturbation
        self.seed = seed
        self._attack: LatentAttack | None = None
        if isinstance(perturbation, LAT):
            self._attack = LatentAttack(perturbation, model)

    def close(self) -> None:
        """Leave the model as it was found."""
        if self._attack is not None:
            self._attack.remove()

    def compute(self, vectors: GradientVectors, step: StepInputs) -> None:
        """Compute the gradient of a step into `.grad`, summed over processes."""
        with vectors.without_reduction():
            self._compute_forget(vectors, step)
            if self.surgery is None:
                # The retain gradient is added to what is there: no copy is held.
                if self.method.retain_streams():
                    self._run("retain", vectors, step, step.record)
                vectors.reduce()
                return
            vectors.reduce()
            is_reached = vectors.list_reached()
            forget = vectors.take()
            self._run("retain", vectors, step, step.record)
            vectors.reduce()
        is_reached = [a or b for a, b in zip(is_reached, vectors.list_reached(), strict=True)]
        with torch.no_grad():
            retain = vectors.view()
            combined = self.surgery.combine(forget, retain, vectors.dots)
            for place, tensor in zip(retain, combined, strict=True):
                place.copy_(tensor)
        vectors.clear_unreached(is_reached)

    def _run(
        self,
        side: Side,
        vectors: GradientVectors,
        step: StepInputs,
        record: Record,
        factor: float = 1.0,
    ) -> None:
        """Add the gradient of one side over all micro-batches to `.grad`."""
        for batch in step.iterate_batches():
            rows = select_side(self.method, batch, side)
            loss = self._compute_loss(side, rows, vectors.model, step, record)
            (loss * (factor * vectors.loss_scale)).backward()

    def _compute_loss(
        self, side: Side, rows: Batch, model: "Module", step: StepInputs, record: Record
    ) -> "Tensor":
        """Compute the loss of one side on one micro-batch, and record it."""
        reference: Reference | _UndisturbedReference = self.reference
        if self._attack is not None:
            reference = _UndisturbedReference(self.reference, self._attack)
        with step.autocast():
            loss, shares = micro_batch_loss(model, self.method, rows, reference, step.counts, side)
        record(rows, loss.detach(), shares)
        return loss

    def _compute_forget(self, vectors: GradientVectors, step: StepInputs) -> None:
        """Compute the gradient of the forget side into `.grad`, of this process alone."""
        if isinstance(self.perturbation, WeightPerturbation):
            self._compute_at_moved_weights(self.perturbation, vectors, step)
        elif self._attack is not None:
            self._compute_under_attack(self._attack, vectors, step)
        else:
            self._run("forget", vectors, step, step.record)

    def _compute_at_moved_weights(
        self, perturbation: WeightPerturbation, vectors: GradientVectors, step: StepInputs
    ) -> None:
        gradient: list[Tensor] = []
        if perturbation.NEEDS_GRADIENT:
            self._run("forget", vectors, step, step.record)
            vectors.reduce()
            gradient = vectors.take()
        else:
            for batch in step.iterate_batches():
                self._measure_forget(select_side(self.method, batch, "forget"), vectors, step)

        weights = vectors.copy_weights()
        num_draws = perturbation.count_draws()
        for draw in range(num_draws):
            draw_noise = functools.partial(
                vectors.draw_noise, self.seed, "perturbation", step.number, draw
            )
            surroundings = Surroundings(gradient, draw_noise, vectors.dots)
            vectors.move_weights(perturbation.move(surroundings))
            del surroundings
            if draw == num_draws - 1:  # its copy is not held during the last passes
                gradient = []
            try:
                self._run("forget", vectors, step, step.record_perturbed, 1 / num_draws)
            finally:
                vectors.restore_weights(weights)

    def _compute_under_attack(
        self, attack: LatentAttack, vectors: GradientVectors, step: StepInputs
    ) -> None:
        for batch in step.iterate_batches():
            rows = select_side(self.method, batch, "forget")
            self._measure_forget(rows, vectors, step)
            delta = attack.find_vectors(rows, vectors.model, step.counts, step.autocast)
            with attack.hold(rows, delta):
                loss = self._compute_loss(
                    "forget", rows, vectors.model, step, step.record_perturbed
                )
                (loss * vectors.loss_scale).backward()

    def _measure_forget(self, rows: Batch, vectors: GradientVectors, step: StepInputs) -> None:
        """Record what a plain step would log of the forget side, where no pass gives it anyway."""
        with torch.no_grad():
            self._compute_loss("forget", rows, vectors.model, step, step.record)


class _UndisturbedReference:
    """The reference without what an attack adds: under an adapter it is the same modules."""

    def __init__(self, reference: Reference, attack: LatentAttack):
        self.reference = reference
        self.attack = attack

    def compute(self, batch: Batch) -> dict[str, Any]:
        with self.attack.suspend():
            return self.reference.compute(batch)
