"""LLMU: ascend on the answers to forget, learn wrong ones in their place, and stay near the model
as it was."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from unteach.data.streams import ALTERNATE
from unteach.errors import UserError
from unteach.methods.base import StreamReference, Term, Unlearn, cross_entropy
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method


@method(
    "LLMU",
    paper="arXiv:2310.10683",
    cost="1 forward of forget, mismatched answers and retain",
    reference="a frozen copy's logits on the retain rows",
    evidence="verified against the authors' code",
    license="MIT",
)
@dataclass
class LLMU(Unlearn):
    """L = -gamma CE_f + random_weight CE_m + alpha KL(ref || policy) on the retain rows, means over
    answer tokens.

    m are the questions of the forget rows with answers that are not theirs: where data.forget gives
    no other answers (a column alternate), those of retain rows, drawn anew in every epoch. It is
    GradDiff with KL, and plain fine-tuning on m.
    """

    ASCENDS: ClassVar[bool] = True
    MISMATCHES: ClassVar[bool] = True

    gamma: float = field(default=0.5, metadata={"help": "weight of the forget term"})
    random_weight: float = field(
        default=1.0, metadata={"help": "weight of the term of mismatched answers"}
    )
    retain_loss_type: Literal["NLL", "KL", "EMBED_DIFF", "JS"] = "KL"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_weight <= 0:
            raise UserError(
                f"random_weight must be above 0, got {self.random_weight}; without that term it is "
                "GradDiff with retain_loss_type=KL"
            )

    def forget_streams(self) -> tuple[str, ...]:
        return ("forget", ALTERNATE)

    def forget_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {**super().forget_wants(reference), ALTERNATE: OutputSpec()}

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        return Term("forget", policy.value, "forget.tokens")

    def forget_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        mismatched = cross_entropy("mismatched", ALTERNATE, policy[ALTERNATE], self.random_weight)
        return [*super().forget_terms(policy, reference), mismatched]
