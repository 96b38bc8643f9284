"""One-shot edits: the block `edits`, matrices and edited models of the kit."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import torch
from comparison import Compared, NotOffered, Outcomes, Reference, find_difference

from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.methods.edit import fila, lunar, repselect
from unteach.methods.edit.base import EditContext
from unteach.methods.edit.spectral import collapse, find_directions
from unteach.models import loading
from unteach.models.forward import OutputSpec
from unteach.models.hub import PATH
from unteach.models.loading import LoadedModel
from unteach.testing import build_method
from unteach.testing.examples import build_examples, build_streams
from unteach.training.drift import DriftMeter, OwnText

TOLERANCE = 1e-5
KIT_TOLERANCE = 1e-4


def compare_edits(reference: Reference, block: dict[str, Any]) -> Outcomes:
    for name, part in block.items():
        if name in PARTS:
            yield from PARTS[name](reference, part)
        else:
            yield NotOffered(name, "unteach has nothing of it yet")


def compare_collapse(reference: Reference, part: dict[str, Any]) -> Outcomes:
    matrix = torch.tensor(part["matrix"])
    for name, sides in part["results"].items():
        kind, _, count = name.partition("_q")
        directions = find_directions(matrix, int(count))
        for side, expected in sides.items():
            found = collapse(matrix, directions, side, kind)  # type: ignore[arg-type]
            difference = find_difference(found, expected)
            # Where all is weakened to nothing, only the rounding of the file's own is left.
            if float(torch.tensor(expected).norm()) < 1e-5:
                difference = float(found.norm()) / float(matrix.norm())
            yield Compared(f"repselect_collapse {name} {side}", difference, TOLERANCE)


def load(reference: Reference, name: str) -> LoadedModel:
    model_args = {PATH: str(reference.kit / name), "dtype": "float32"}
    template_args = TemplateArgs(**reference.values["template"])
    config = ModelConfig(model_args, template_args=template_args)
    loaded = loading.load(config, training=True)
    loaded.model.requires_grad_(False)
    loaded.model.eval()
    return loaded


def build_context(
    reference: Reference,
    loaded: LoadedModel,
    texts: list[str] | None = None,
    refusal: list[dict[str, Any]] | None = None,
) -> EditContext:
    """What an edit gets in a run on the kit's rows; KL is measured on the given texts."""
    rows = {"forget": reference.rows("forget10"), "retain": reference.rows("retain90")}
    if refusal:
        rows["refusal"] = refusal
    examples = {
        stream: build_examples(loaded.template, rows[stream], False, stream) for stream in rows
    }
    meter = None
    if texts:
        meter = DriftMeter(loaded, [])
        for text in texts:
            first, *rest = loaded.tokenizer(text, truncation=True, max_length=128)["input_ids"]
            meter.texts.append(OwnText((first,), tuple(rest)))
        meter.remember()

    def load_weights(path: str) -> dict[str, torch.Tensor]:
        return dict(load(reference, Path(path).name).model.named_parameters())

    return EditContext(
        loaded=loaded,
        streams=build_streams(examples),
        collator=DataCollatorForSupervisedDataset(loaded.tokenizer),
        batch_size=2,
        seed=0,
        report=lambda note: None,
        load_weights=load_weights,
        measure_kl=meter.measure if meter else lambda: 0.0,
    )


def measure_ce(context: EditContext) -> dict[str, float]:
    """The CE of both streams, the mean over their answer tokens."""
    measured = {}
    for stream in ("forget", "retain"):
        total, num_tokens = 0.0, 0
        for batch in context.iterate_batches(stream):
            with torch.no_grad():
                outputs = context.model(batch=batch, want={stream: OutputSpec()})[stream]
            total -= float(outputs.value.sum())
            num_tokens += len(outputs.value)
        measured[f"{stream}_ce"] = total / num_tokens
    return measured


def compare_repselect(reference: Reference, part: dict[str, Any]) -> Outcomes:
    """The corrected values; of the authors' own the adaptive search, on their path of KL."""
    for expected in part["corrected"]["results"]:
        args = {**expected["args"]}
        loaded = load(reference, part["model"])
        context = build_context(reference, loaded, part["kl_texts"])
        edit = build_method("RepSelect", args)
        step = edit.find_step(context)
        found = {
            "filtered_norm": repselect.measure_norm(step),
            "first_weight_norm": float(next(iter(step.values())).norm()),
        }
        edit.edit(context)
        found["kl"] = context.measure_kl()
        found.update(measure_ce(context))
        for name, value in expected.items():
            if name != "args":
                difference = find_difference(found[name], value)
                label = f"repselect {args['collapse']} {name}"
                yield Compared(label, difference, KIT_TOLERANCE)
    yield from compare_search(part)


def compare_search(part: dict[str, Any]) -> Outcomes:
    """The strengths that the search looks at, given what it found at each.

    The authors' lower end stays at the start while the strength grows, and ours follows; from where
    theirs has caught up both halve one bracket.
    """
    for expected in part["results"]:
        if expected["method"] != "RepSelectAdaptive":
            continue
        kl_by_strength = sorted(map(tuple, expected["path"]))
        looks: list[tuple[float, float]] = []
        args = expected["args"]
        for strength in repselect.search_strength(args["start"], args["budget"], looks):
            looks.append((strength, interpolate(kl_by_strength, strength)))
        grown = [pair[0] for pair in expected["path"][:4]]
        ours = [strength for strength, _ in looks[:4]]
        yield Compared("repselect adaptive growth", find_difference(ours, grown), TOLERANCE)
        last = looks[-1][1] / args["budget"]
        yield Compared("repselect adaptive end", max(0.0, 0.95 - last, last - 1.0), 0.0)


def interpolate(points: list[tuple[float, ...]], x: float) -> float:
    """KL at a strength, linear in the logarithms between the file's points."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1 * (1 + 1e-12):
            share = math.log(x / x0) / math.log(x1 / x0)
            return math.exp((1 - share) * math.log(y0) + share * math.log(y1))
    raise AssertionError(f"{x} lies outside the path")


def compare_task_vector(reference: Reference, part: dict[str, Any]) -> Outcomes:
    loaded = load(reference, part["model"])
    context = build_context(reference, loaded)
    args = {name: part[name] for name in ("finetuned", "pretrained", "alpha")}
    build_method("TaskVector", args).edit(context)
    found = measure_ce(context)
    squares = [weight.double().square().sum() for weight in loaded.model.parameters()]
    found["weight_norm"] = float(torch.stack(squares).sum().sqrt())
    for name, value in part["results"].items():
        yield Compared(f"task_vector {name}", find_difference(found[name], value), TOLERANCE)


def compare_lunar(reference: Reference, part: dict[str, Any]) -> Outcomes:
    """The direction, the problem at its start and along the authors' AdamW (full batch, which is
    run here on ours), and the exact solution."""
    loaded = load(reference, part["model"])
    lines = (reference.kit / "data" / "holdout10.jsonl").read_text().splitlines()
    context = build_context(reference, loaded, refusal=[json.loads(line) for line in lines[:8]])
    args = {"target_layers": (rf"model\.layers\.{part['layer']}",), "coeff": part["coeff"]}
    edit = build_method("LUNAR", {**args, "ridge_lambda": 1e-3})
    [(name, module)] = edit.find_modules(loaded.model).items()
    shift = edit.build_shift(context, name, module)
    direction = shift.target / part["coeff"]
    change = torch.zeros(module.weight.shape, dtype=torch.float64, requires_grad=True)
    loss = shift.loss(change)
    [gradient] = torch.autograd.grad(loss, change)
    found: dict[str, Any] = {
        "direction_norm": float(direction.norm()),
        "direction_first": direction[:4],
        "forget_tokens": float(shift.num_forget),
        "retain_tokens": float(shift.num_tokens - shift.num_forget),
        "loss_at_start": float(loss.detach()),
        "grad_norm_at_start": float(gradient.norm()),
    }
    losses, moved = descend(shift, module.weight.detach().double(), part)
    found["losses_full_batch_adamw"] = torch.tensor(losses)
    found["weight_change_norm"] = moved
    for label, value in found.items():
        yield Compared(f"lunar {label}", find_difference(value, part[label]), TOLERANCE)

    edit.edit(context)
    exact = torch.outer(shift.target, shift.solve(1e-3))
    for label, value in {"loss": shift.loss(exact), "weight_change_norm": exact.norm()}.items():
        difference = find_difference(float(value), part["closed_form"][label])
        yield Compared(f"lunar exact {label}", difference, KIT_TOLERANCE)
    edited = measure_change(reference, part["model"], loaded)
    difference = find_difference(edited, part["closed_form"]["weight_change_norm"])
    yield Compared("lunar edited weights", difference, KIT_TOLERANCE)


def descend(
    shift: lunar.Shift, start: torch.Tensor, part: dict[str, Any]
) -> tuple[list[float], float]:
    """Take as many epochs of AdamW as the file has losses, as published: rate 0.01, decay 0.01,
    x0.9 an epoch. Give the loss before each, and how far the weight has moved."""
    weight = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    losses = []
    for _ in part["losses_full_batch_adamw"]:
        optimizer.zero_grad()
        loss = shift.loss(weight - start)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses, float((weight.detach() - start).norm())


def measure_change(reference: Reference, name: str, edited: LoadedModel) -> float:
    """How far an edited model is from the kit's, over all weights."""
    total = 0.0
    untouched = dict(load(reference, name).model.named_parameters())
    for weight_name, weight in edited.model.named_parameters():
        total += float((weight - untouched[weight_name]).double().square().sum())
    return math.sqrt(total)


def compare_fila(reference: Reference, part: dict[str, Any]) -> Outcomes:
    """The factors of a small matrix, and of a weight of the kit's by the corrected importance."""
    small = part["small"]
    matrices = [torch.tensor(small[name]) for name in ("weight", "fisher_forget", "fisher_retain")]
    a, b = fila.factorize(*matrices, small["rank"], small["scaling"])
    found = {"A_abs": a.abs(), "B_abs": b.abs(), "BA": b @ a}
    found["base"] = matrices[0] - small["scaling"] * (b @ a)
    for name, value in found.items():
        yield Compared(f"fila {name}", find_difference(value, small[name]), TOLERANCE)

    kit = part["kit"]
    loaded = load(reference, kit["model"])
    weight = loaded.model.get_parameter(kit["weight"])
    context = build_context(reference, loaded)
    fisher = {}
    for stream in ("forget", "retain"):
        fisher[stream] = fila.compute_fisher(context, stream, {kit["weight"]: weight})[
            kit["weight"]
        ]
    a, b = fila.factorize(weight, fisher["forget"], fisher["retain"], kit["rank"], kit["scaling"])
    numbers = {
        "fisher_forget_sum": float(fisher["forget"].double().sum()),
        "fisher_retain_sum": float(fisher["retain"].double().sum()),
        "BA_norm": float((b @ a).norm()),
        "base_norm": float((weight - kit["scaling"] * (b @ a)).norm()),
    }
    for name, number in numbers.items():
        difference = find_difference(number, part["corrected"][name])
        yield Compared(f"fila kit {name}", difference, KIT_TOLERANCE)


PARTS = {
    "fila": compare_fila,
    "lunar": compare_lunar,
    "repselect_collapse": compare_collapse,
    "repselect": compare_repselect,
    "task_vector": compare_task_vector,
}
