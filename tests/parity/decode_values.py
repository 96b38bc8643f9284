"""Rules of decoding: the block `decode`, logits in and logits or probabilities out."""

import re
from typing import Any

import torch
from comparison import Compared, NotOffered, Outcomes, Reference, find_difference

from unteach.methods.decode.uld import subtract_assistant
from unteach.methods.decode.whp import hold_back_reinforced

TOLERANCE = 1e-5


def compare_decode(reference: Reference, block: dict[str, Any]) -> Outcomes:
    for name, part in block.items():
        if name == "whp":
            yield from compare_whp(part)
        elif name == "uld":
            yield from compare_uld(part)
        else:
            yield NotOffered(name, "unteach has no such rule of decoding")


def compare_whp(part: dict[str, Any]) -> Outcomes:
    base, reinforced = torch.tensor(part["baseline"]), torch.tensor(part["reinforced"])
    for alpha, expected in part["results"].items():
        found = hold_back_reinforced(base, reinforced, float(alpha))
        yield Compared(f"whp alpha {alpha}", find_difference(found, expected), TOLERANCE)


def compare_uld(part: dict[str, Any]) -> Outcomes:
    """The corrected probabilities; the published logits are left unnormalised."""
    base, assistant = torch.tensor(part["base"]), torch.tensor(part["assistant"])
    for name, expected in part["corrected_probabilities"].items():
        weight, tau = map(float, re.findall(r"-?\d+\.?\d*", name))
        found = subtract_assistant(base, assistant, weight, tau).exp()
        yield Compared(f"uld {name}", find_difference(found, expected), TOLERANCE)
