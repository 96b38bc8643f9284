"""PDU: flatten the logits of what is forgotten, with the retain loss as a constraint that a
multiplier enforces."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.errors import UserError
from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method
from unteach.wording import quote_value

if TYPE_CHECKING:
    from torch import Tensor


@method("PDU", paper="arXiv:2506.05314", cost="1 forget + 1 retain forward", reference="none")
@dataclass
class PDU(Unlearn):
    """L = gamma mean (max_v z - mean_v z)^2 + lambda (L_retain - eps), the mean over the positions
    that predict labels.

    lambda starts at alpha and becomes max(0, lambda + dual_step_size (L_retain - eps)) once an
    optimiser step or an epoch, after dual_warmup_epochs. The retain term that is logged is L_retain
    - eps, by how much the constraint is broken. pdu_shift=false scores the positions of the labels
    themselves, as published.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {**Unlearn.QUIRKS, "pdu_shift": False}

    retain_loss_eps: float = field(
        kw_only=True, metadata={"help": "the retain loss that is allowed"}
    )
    primal_dual: bool = field(default=True, metadata={"help": "false: lambda stays alpha"})
    dual_step_size: float = 1.0
    dual_update_upon: Literal["step", "epoch"] = "step"
    dual_warmup_epochs: float = 5.0
    loss_names: tuple[str, ...] = field(
        default=("forget_loss", "retain_loss"),
        metadata={"help": "what the two terms are called in the log"},
    )
    pdu_shift: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha:
            raise UserError(
                "alpha must be above 0: it is where the multiplier of the retain constraint starts"
            )
        if len(set(self.loss_names)) != 2:
            raise UserError(
                f"loss_names must be two different names, got {quote_value(self.loss_names)}"
            )
        self.multiplier = self.alpha
        self._violations: list[float] = []

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        return OutputSpec(fn=squared_peak, positions="answer" if self.pdu_shift else "labels")

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        return Term("forget", policy.value, "forget.tokens" if self.pdu_shift else "forget.labels")

    def forget_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        (forget,) = super().forget_terms(policy, reference)
        forget.name, _ = self._name_terms()
        return [forget]

    def retain_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        (retain,) = super().retain_terms(policy, reference)
        retain.value = retain.value - self.retain_loss_eps
        retain.factor = self.multiplier
        _, retain.name = self._name_terms()
        return [retain]

    def _name_terms(self) -> list[str]:
        """Give the names of the forget and the retain term; the log adds the suffix again."""
        return [name.removesuffix("_loss") for name in self.loss_names]

    def after_step(self, terms: dict[str, float], epoch: float) -> None:
        _, retain_name = self._name_terms()
        self._violations.append(terms[retain_name])
        if self.dual_update_upon == "epoch" and epoch != int(epoch):
            return
        violation = sum(self._violations) / len(self._violations)
        self._violations = []
        if self.primal_dual and epoch > self.dual_warmup_epochs:
            self.multiplier = max(0.0, self.multiplier + self.dual_step_size * violation)

    def state(self) -> dict[str, Any]:
        return {"multiplier": self.multiplier, "violations": self._violations}

    def load_state(self, state: dict[str, Any]) -> None:
        self.multiplier = state["multiplier"]
        self._violations = state["violations"]


def squared_peak(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """(max_v z - mean_v z)^2: [n, V] -> [n]."""
    return (logits.amax(-1) - logits.mean(-1)).square()
