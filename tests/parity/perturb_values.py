"""Perturbed forget gradients on the kit's model: the blocks `perturb` and `latent`."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from comparison import Compared, NotOffered, Outcomes, Reference, find_difference

from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.data.batches import Batch, SlotDataset, collate
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.steps import Slot
from unteach.methods.base import Term
from unteach.methods.wrap.perturb import LAT, SAM, Perturbation, RandomSmoothing, Surroundings
from unteach.models import loading
from unteach.models.forward import TokenOutputs
from unteach.models.hub import PATH
from unteach.models.reference import Reference as MethodReference
from unteach.models.reference import compute_table
from unteach.testing import build_method
from unteach.testing.examples import build_examples, build_streams
from unteach.training.gradient_vectors import GradientVectors
from unteach.training.latent_attack import LatentAttack
from unteach.training.step import count_step_units, select_side, setup_method
from unteach.training.two_gradients import StepInputs, TwoGradients

TOLERANCE = 1e-4
LATENT_TOLERANCE = 1e-3


@dataclass
class World:
    """The kit's policy, one micro-batch, and what a method needs of them."""

    method: Any
    model: Any
    batch: Batch
    reference: MethodReference
    counts: dict[str, torch.Tensor] = field(default_factory=dict)


class WavyNoise(RandomSmoothing):
    """Random smoothing with the noise of the file, which is none."""

    draw = 0

    def move(self, surroundings: Surroundings) -> Iterator[torch.Tensor]:
        for noise in surroundings.draw_noise():
            place = torch.arange(noise.numel()).reshape(noise.shape)
            yield self.sigma * math.sqrt(2) * (0.5 + self.draw + 0.37 * place).cos()
        self.draw += 1


class WatchedLAT(LAT):
    """LAT that keeps the adversary's loss before each of its steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.losses: list[float] = []

    def terms(self, policy: dict[str, TokenOutputs]) -> list[Term]:
        (term,) = super().terms(policy)
        self.losses.append(float(term.value.detach().mean()))
        return [term]


def compare_perturb(reference: Reference, block: dict[str, Any]) -> Outcomes:
    """Total, gradient norm and angles; of losses that are quirks, the corrected values alone."""
    entries = [*block["results"], *block["corrected"]]
    for entry in entries:
        name = f"{entry['method']} {entry['base']} {entry['args']}"
        if "batch's mean" in entry["base"]:
            yield NotOffered(name, "a quirk: the loss of a batch's mean; the corrected is compared")
            continue
        found = compute_perturbed(reference, entry)
        differences = [find_difference(value, entry[key]) for key, value in found.items()]
        yield Compared(name, max(differences), TOLERANCE)


def build_perturbation(entry: dict[str, Any]) -> Perturbation:
    args = entry["args"]
    if entry["method"] == "SAM":
        return SAM(rho=args["rho"])
    return WavyNoise(sigma=args["sigma"], n=args["samples"])


def compute_perturbed(reference: Reference, entry: dict[str, Any]) -> dict[str, float]:
    """unteach's step: the losses at the perturbed weights, and the gradient beside those of -CE_f
    and CE_r at the weights themselves."""
    args = {"alpha": entry["args"]["alpha"]}
    name = entry["base"].split()[0]
    if name == "NPO":
        args["beta"] = 0.1
    forget, _ = compute_gradient(build_world(reference, "GradAscent", {}), None)
    retain, _ = compute_gradient(build_world(reference, "GradDiff", {"gamma": 0.0}), None)
    combined, total = compute_gradient(
        build_world(reference, name, args), build_perturbation(entry)
    )
    norm = combined.norm()
    return {
        "total": total,
        "grad_norm": float(norm),
        "cos_forget": float(combined @ forget / (norm * forget.norm())),
        "cos_retain": float(combined @ retain / (norm * retain.norm())),
    }


def compute_gradient(world: World, perturbation: Perturbation | None) -> tuple[torch.Tensor, float]:
    """The gradient of a step in fp64, and its loss where the gradient was computed."""
    two = TwoGradients(world.method, world.model, world.reference, None, perturbation, seed=0)
    losses = {"forget": 0.0, "retain": 0.0, "perturbed": 0.0}
    draws = perturbation.count_draws() if isinstance(perturbation, RandomSmoothing) else 1

    def record(batch: Batch, loss: torch.Tensor, shares: Any) -> None:
        losses["retain" if "retain" in batch["rows"] else "forget"] += float(loss)

    def record_perturbed(batch: Batch, loss: torch.Tensor, shares: Any) -> None:
        losses["perturbed"] += float(loss) / draws

    vectors = GradientVectors(world.model, "one", 1)
    inputs = StepInputs(0, lambda: [world.batch], world.counts, record, record_perturbed)
    two.compute(vectors, inputs)
    gradient = torch.cat([tensor.double().flatten() for tensor in vectors.take()])
    first = losses["forget"] if perturbation is None else losses["perturbed"]
    return gradient, first + losses["retain"]


def build_world(reference: Reference, name: str, args: dict[str, Any]) -> World:
    def load(path: Any) -> Any:
        template_args = TemplateArgs(**reference.values["template"])
        config = ModelConfig({PATH: str(path), "dtype": "float32"}, template_args=template_args)
        return loading.load(config, training=True)

    loaded, method = load(reference.policy), build_method(name, args)
    rows = {"forget": reference.rows("forget10"), "retain": reference.rows("retain90")}
    examples = {
        stream: build_examples(loaded.template, rows[stream], False, stream)
        for stream in method.streams()
    }
    streams = build_streams(examples)
    setup_method(loaded.model, method, 0, streams, loaded.template)
    slots = []
    for stream, of_stream in examples.items():
        slots += [Slot(stream, row, 0, weight=1.0) for row in range(len(of_stream))]
    dataset = SlotDataset(streams, next(iter(streams)))
    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    batch = collate([dataset[slot] for slot in slots], collator)
    tables = {}
    for stream in method.reference():
        draws = [(row, 0) for row in range(len(examples[stream]))]
        frozen = load(reference.reference).model
        tables[stream] = compute_table(frozen, streams[stream], draws, collator, size=4)
    counts = {unit: n.float() for unit, n in count_step_units(method, [batch]).items()}
    compared = MethodReference(method.reference(), tables)
    return World(method, loaded.model, batch, compared, counts)


def compare_latent(reference: Reference, block: dict[str, Any]) -> Outcomes:
    """The adversary's loss before each of its steps, its vectors, and the loss and gradient of the
    defence."""
    args = block["args"]
    adversary = WatchedLAT(
        module=rf"model\.layers\.{args['layer']}\.mlp",
        epsilon=args["epsilon"],
        lr=args["lr"],
        steps=args["steps"],
    )
    world = build_world(reference, "GradAscent", {})
    gradient, loss = compute_gradient(world, adversary)
    losses = adversary.losses
    # The vectors themselves, which a step does not give.
    attack = LatentAttack(adversary, world.model)
    rows = select_side(world.method, world.batch, "forget")
    world.model(batch=rows, want=adversary.wants())
    delta = attack.find_vectors(rows, world.model, world.counts, contextlib.nullcontext)
    found: dict[str, Any] = {
        "adversary_loss": losses[: args["steps"]],
        "attack_norm": float(delta.norm()),
        "longest": float(delta.norm(dim=-1).max()),
        "defence_loss": loss,
        "defence_grad_norm": float(gradient.norm()),
    }
    for key, value in found.items():
        yield Compared(key, find_difference(value, block["results"][key]), LATENT_TOLERANCE)
