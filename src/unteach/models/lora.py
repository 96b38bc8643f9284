"""The pairs of matrices of a LoRA adapter: where they are, and which adapters are more than such
pairs."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.models.adapters import TRAINED

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PreTrainedModel

FACTOR = re.compile(rf"(.*)\.lora_(embedding_)?([AB])\.{TRAINED}(?:\.weight)?")


@dataclass(frozen=True)
class LoraPair:
    """The two factors of one adapted layer, which adds s B A x to what its weight gives.

    Attributes:
        layer: the name of the layer in the model.
        a_name, b_name: of the factors.
    """

    layer: str
    a_name: str
    b_name: str
    a: "Parameter"
    b: "Parameter"


def find_lora_pairs(model: "PreTrainedModel") -> list[LoraPair]:
    """Find the pairs of the adapter that trains."""
    factors: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        match = FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match[1], {})[match[3]] = (name, parameter)
    pairs = []
    for layer, found in factors.items():
        (a_name, a), (b_name, b) = found["A"], found["B"]
        pairs.append(LoraPair(layer, a_name, b_name, a, b))
    return pairs


def refuse_other_adapters(model: "PreTrainedModel", what: str) -> None:
    """Raise UserError unless all that an adapter adds is its pairs B A: no DoRA, no module saved
    whole, no bias, no other kind of adapter."""
    config: Any = model.peft_config[TRAINED]
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    more = []
    if kind != "LORA":
        more.append(f"is of the kind {kind}")
    if getattr(config, "use_dora", False):
        more.append("is a DoRA (use_dora)")
    if getattr(config, "modules_to_save", None):
        more.append("has modules that it trained whole (modules_to_save)")
    if getattr(config, "trainable_token_indices", None):
        more.append("has rows of tokens that it trained whole (trainable_token_indices)")
    if getattr(config, "bias", "none") != "none" or getattr(config, "lora_bias", False):
        more.append("trained biases")
    if more:
        raise UserError(
            f"this adapter {' and '.join(more)}: only a LoRA of pairs of matrices {what}. Merge it "
            "first (`unteach export`) and name the whole models"
        )
