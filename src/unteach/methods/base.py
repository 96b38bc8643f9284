"""The contract of a method: streams in, unreduced terms out. The trainer does everything else, once for all methods."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.errors import UserError
from unteach.models.forward import IGNORED, Answers, Want, within

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Term:
    """One summand of the loss, not yet reduced.

    value: one number per unit (token or sequence) of this micro-batch.
    divisor: the name of the count, over the whole optimiser step, that the sum is divided by (`forget.tokens`…).
    factor: what the term is multiplied by in the loss.
    """

    name: str
    value: "Tensor"
    divisor: str
    factor: float = 1.0


class Method:
    """A rule that turns a batch into a loss. Subclasses are dataclasses; their fields are `trainer.method_args`.

    QUIRKS: values of the fields under `compat: openunlearning`.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {}

    def streams(self) -> tuple[str, ...]:
        """The names of the streams it trains on."""
        raise NotImplementedError

    def reference(self) -> dict[str, Literal["logprobs"] | Want]:
        """What it compares with, a stream: the reference's answer log-probs, or what a pass of a frozen model yields.

        Empty: no reference is held or computed.
        """
        return {}

    def batch_level(self) -> str:
        """Why a step of this method depends on how its rows are dealt to micro-batches; empty: it does not."""
        return ""

    def wants(self, reference: dict[str, Any]) -> dict[str, Want]:
        """What the policy's pass should yield for each stream."""
        return {stream: Want() for stream in self.streams()}

    def terms(self, policy: dict[str, Answers], reference: dict[str, Any]) -> list[Term]:
        """The terms of one micro-batch."""
        raise NotImplementedError

    def counts(self, batch: dict[str, Any]) -> "dict[str, Tensor]":
        """The units in one micro-batch by name: what divisors refer to. Known before any forward, from labels alone."""
        found = {}
        for stream, (start, stop) in batch["rows"].items():
            labels, mask = batch["labels"][start:stop], batch["attention_mask"][start:stop]
            found[f"{stream}.tokens"] = (labels[:, 1:] != IGNORED).sum()
            found[f"{stream}.all_tokens"] = ((mask[:, 1:] == 1) & (mask[:, :-1] == 1)).sum()
            found[f"{stream}.sequences"] = batch["weight"][start:stop].sum()
            found[f"{stream}.positions"] = within(mask).sum()
        return found


def cross_entropy(name: str, stream: str, answers: Answers, factor: float = 1.0, units: str = "tokens") -> Term:
    """CE: the mean over answer tokens of -log p_t."""
    return Term(name, -answers.value, f"{stream}.{units}", factor)


@dataclass
class Unlearn(Method):
    """gamma * L_forget + alpha * L_retain, where a method writes L_forget and any retain term goes with it.

    Retain terms: NLL, the cross-entropy of the retain answers; KL, the mean over their tokens of KL(ref || policy)
    over the whole vocabulary.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {"kl_over": "all"}

    gamma: float = field(default=1.0, metadata={"help": "weight of the forget term"})
    alpha: float = field(default=1.0, metadata={"help": "weight of the retain term; 0 makes no retain pass at all"})
    retain_loss_type: Literal["NLL", "KL"] = field(default="NLL", metadata={"help": "what holds the retain answers"})
    kl_over: Literal["answer", "all"] = field(
        default="answer",
        metadata={"help": "positions of the KL term; all: also prompt, padding and last (as published)"},
    )

    def __post_init__(self) -> None:
        for name in ("gamma", "alpha"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")

    def forget(self, policy: Answers, reference: Any) -> Term:
        """The forget term; its factor is set by the caller."""
        raise NotImplementedError

    def forget_want(self, reference: Any) -> Want:
        return Want()

    def forget_reference(self) -> Literal["logprobs"] | Want | None:
        """What the forget term needs of the reference."""
        return None

    def streams(self) -> tuple[str, ...]:
        return ("forget", "retain") if self.alpha else ("forget",)

    def reference(self) -> dict[str, Literal["logprobs"] | Want]:
        needed: dict[str, Literal["logprobs"] | Want] = {}
        if kind := self.forget_reference():
            needed["forget"] = kind
        if self._kl:
            needed["retain"] = Want(of=None, over=self._kl_positions)
        return needed

    def batch_level(self) -> str:
        if self._kl and self.kl_over == "all":
            return "kl_over=all averages over padding, and padding depends on the micro-batch"
        return ""

    def wants(self, reference: dict[str, Any]) -> dict[str, Want]:
        wants = {"forget": self.forget_want(reference.get("forget"))}
        if self.alpha:
            wants["retain"] = self._kl_want(reference["retain"]) if self._kl else Want()
        return wants

    def terms(self, policy: dict[str, Answers], reference: dict[str, Any]) -> list[Term]:
        forget = self.forget(policy["forget"], reference.get("forget"))
        forget.factor = self.gamma
        if not self.alpha:
            return [forget]
        retain = policy["retain"]
        if self._kl:
            units = "tokens" if self.kl_over == "answer" else "positions"
            return [forget, Term("retain", retain.value, f"retain.{units}", self.alpha)]
        return [forget, cross_entropy("retain", "retain", retain, self.alpha)]

    @property
    def _kl(self) -> bool:
        return bool(self.alpha) and self.retain_loss_type == "KL"

    @property
    def _kl_positions(self) -> Literal["answer", "every"]:
        return "answer" if self.kl_over == "answer" else "every"

    def _kl_want(self, reference: Any) -> Want:
        return Want(of=reference.kl_to, over=self._kl_positions, extra=(reference.hidden,))
