"""What holds of a model beside its own forward, and so how a pass over it may be laid out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unteach.models.layers import unwrap_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unteach.models.adapters import BasePolicy

ATTRIBUTE = "_unteach_capabilities"


@dataclass(frozen=True)
class Capabilities:
    """What was found to hold of a model; without a probe, what holds of most.

    Attributes:
        head: how last hidden states become logits. `known`: the output embeddings, and what the
            configuration says of scaling and capping; `own`: only as the rest of the model's own
            forward does it; `none`: not from the hidden states alone, so that nothing is scored or
            trained.
        right_padding: a row that is padded on the right is what it is alone.
        left_padding: the same on the left.
        packing: rows laid end to end in one, told apart by their positions, are each what they are
            alone.
        continuing: rows that are continued together, of which some leave the cache, go on as each
            does alone.
    """

    head: Literal["known", "own", "none"] = "known"
    right_padding: bool = True
    left_padding: bool = True
    packing: bool = True
    continuing: bool = True


def get_capabilities(model: "PreTrainedModel | BasePolicy") -> Capabilities:
    """Return what was found of a model when it was loaded."""
    capabilities: Capabilities = getattr(unwrap_model(model), ATTRIBUTE, Capabilities())
    return capabilities


def set_capabilities(model: "PreTrainedModel", capabilities: Capabilities) -> None:
    setattr(unwrap_model(model), ATTRIBUTE, capabilities)
