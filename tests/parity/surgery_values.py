"""Gradient surgery: the block `surgery`, pure vectors and gradients of the kit's model."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from comparison import Compared, NotOffered, Outcomes, Reference, find_difference

from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.methods.wrap.surgery import (
    BLUR,
    GRU,
    SAGO,
    NGDiff,
    PCGrad,
    SAGOPreferRetain,
    dot_products,
)
from unteach.models import loading
from unteach.models.hub import PATH
from unteach.testing import build_method, step_gradient
from unteach.testing.examples import build_examples

VECTOR_TOLERANCE = 1e-6
KIT_TOLERANCE = 1e-4

Gradients = list[torch.Tensor]
Rule = Callable[[Gradients, Gradients], Iterator[torch.Tensor]]


def add(forget: Gradients, retain: Gradients) -> Iterator[torch.Tensor]:
    """No surgery."""
    return (f + r for f, r in zip(forget, retain, strict=True))


RULES: dict[str, Rule] = {
    "sum": add,
    "sago": SAGO().combine,
    "sago_prefer_retain": SAGOPreferRetain().combine,
    "pcgrad": PCGrad().combine,
    "pcgrad_global": PCGrad(per="global").combine,
    "blur": BLUR().combine,
    "ngdiff": NGDiff().combine,
}
"""unteach's rule by the file's name; it takes gradients with their factors."""


def weigh(gradients: Gradients, factor: float) -> Gradients:
    return [factor * gradient for gradient in gradients]


def compare_surgery(reference: Reference, block: dict[str, Any]) -> Outcomes:
    """Vectors, GRU's two steps, and the norm and angles of the kit's combined gradients."""
    for name, part in block.items():
        if name not in PARTS:
            yield NotOffered(name, "unteach has nothing of it yet")
        else:
            yield from PARTS[name](reference, part)


def compare_vectors(reference: Reference, part: dict[str, Any]) -> Outcomes:
    inputs = part["inputs"]
    forget, retain = (read_tensors(inputs[side]) for side in ("forget", "retain"))
    for name, expected in list_results(part):
        if name not in RULES:
            yield NotOffered(f"vectors {name}", "there is no such rule")
            continue
        weighted = (weigh(forget, inputs["gamma"]), weigh(retain, inputs["alpha"]))
        found = list(RULES[name](*weighted))
        yield Compared(f"vectors {name}", find_difference(found, expected), VECTOR_TOLERANCE)


def compare_gru(reference: Reference, part: dict[str, Any]) -> Outcomes:
    """Two steps, the second of which remembers the retain gradient of the first."""
    inputs = part["inputs"]
    steps = [("forget", "retain"), ("forget2", "retain2")]
    for name, expected in list_results(part):
        options = read_variant(name, inputs)
        if options is None:
            yield NotOffered(f"gru_two_steps {name}", "there is no such variant")
            continue
        rule, found = GRU(momentum=inputs["moving_avg"], **options), []
        for forget_name, retain_name in steps:
            forget, retain = read_tensors(inputs[forget_name]), read_tensors(inputs[retain_name])
            found.append(list(rule.combine(forget, retain)))
        difference = find_difference(found, expected)
        yield Compared(f"gru_two_steps {name}", difference, VECTOR_TOLERANCE)


def read_variant(name: str, inputs: dict[str, Any]) -> dict[str, float] | None:
    """The arguments of a variant of GRU by its name; None: there is no such one."""
    if clipped := re.fullmatch(r"gru_cos_clip_(-?[\d.]+)", name):
        return {"cos_clip": float(clipped[1])}
    return {"gru": {}, "gru_ce": {"ce_coeff": inputs["ce_coeff"]}}.get(name)


def compare_kit(reference: Reference, part: dict[str, Any]) -> Outcomes:
    forget = compute_gradients(reference, "GradAscent", {})
    retain = compute_gradients(reference, "GradDiff", {"gamma": 0.0})
    for name, expected in list_results(part):
        if name not in RULES:
            yield NotOffered(f"kit {name}", "there is no such rule")
            continue
        weighted = (weigh(forget, part["gamma"]), weigh(retain, part["alpha"]))
        combined = list(RULES[name](*weighted))
        norm = dot(combined, combined).sqrt()
        found = {"norm": norm, "cos_forget": forget, "cos_retain": retain}
        for side in ("cos_forget", "cos_retain"):
            other = found[side]
            length = dot(other, other).sqrt()
            found[side] = dot(combined, other) / (norm * length)
        differences = [find_difference(found[key], value) for key, value in expected.items()]
        yield Compared(f"kit {name}", max(differences), KIT_TOLERANCE)


def dot(a: Gradients, b: Gradients) -> torch.Tensor:
    return dot_products(a, b).sum()


PARTS = {"vectors": compare_vectors, "gru_two_steps": compare_gru, "kit": compare_kit}


def list_results(part: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a part has by name: from the authors' code, and from a formula alone."""
    return [*part["results"].items(), *part.get("formula_only", {}).items()]


def read_tensors(lists: list[Any]) -> Gradients:
    return [torch.tensor(numbers) for numbers in lists]


def compute_gradients(reference: Reference, method_name: str, args: dict[str, Any]) -> Gradients:
    """The gradient of one step on the kit, a tensor a parameter."""
    model_args = {PATH: str(reference.policy), "dtype": "float32"}
    template_args = TemplateArgs(**reference.values["template"])
    loaded = loading.load(ModelConfig(model_args, template_args=template_args), training=True)
    method = build_method(method_name, args)
    rows = {"forget": reference.rows("forget10"), "retain": reference.rows("retain90")}
    examples = {
        stream: build_examples(loaded.template, rows[stream], False, stream)
        for stream in method.streams()
    }
    step_gradient(loaded, method, examples, None, num_micro_batches=1)
    return [p.grad for p in loaded.model.parameters() if p.grad is not None]
