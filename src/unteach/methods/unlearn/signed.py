"""Learning and unlearning from one file, row by row."""

from dataclasses import dataclass
from typing import Any

from unteach.methods.base import Term
from unteach.methods.finetune.sft import SFT
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method("SignedSFT", paper="arXiv:2210.01504", cost="1 forward", reference="none")
@dataclass
class SignedSFT(SFT):
    """The mean over answer tokens of w CE_t, w = -1 for rows that are to be forgotten and 1 for all
    others.

    Rows say so in the column that the dataset's forget_key names; where none is to be forgotten
    this is SFT.
    """

    ROWS = "signed"
    ASCENDS = True

    def metric_names(self) -> tuple[str, ...]:
        return ()

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        return {}  # a loss with signs is no perplexity

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        (term,) = super().terms(policy, reference)
        outputs = policy["train"]
        term.value = term.value * outputs.weight[outputs.row]
        return [term]
