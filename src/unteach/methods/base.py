"""The contract of a method: streams in, unreduced terms out. The trainer does everything else, once
for all methods."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.config.schema import BESIDE
from unteach.data.collators import SEGMENT
from unteach.errors import UserError
from unteach.methods.retain import JS, KL, NLL, EmbedDiff, Retain
from unteach.methods.terms import UNITS, Over, Term, cross_entropy, mean_of_rows
from unteach.models.forward import IGNORED, OutputSpec, TokenOutputs, goes_on, within
from unteach.models.reference import Needed

if TYPE_CHECKING:
    from torch import Tensor

    from unteach.data.template import Template

__all__ = ["UNITS", "Method", "Term", "Unlearn", "cross_entropy", "mean_of_rows"]


@dataclass(frozen=True)
class Context:
    """What a method may know before the first step.

    seed: the run's; width: the size of the model's hidden states; labels: a classifier's, in order;
    streams: the rows; template: how the model is asked, and what makes tokens of words.
    """

    seed: int
    width: int
    labels: tuple[str, ...] = ()
    streams: dict[str, Any] = field(default_factory=dict)
    template: "Template | None" = None


class Method:
    """A rule that turns a batch into a loss. Subclasses are dataclasses; their fields are
    `trainer.method_args`.

    QUIRKS: values of the fields under `compat: openunlearning`. ROWS: what a row of its data is: a
    prompt and its answer (or a chat), the same with a mark whether it is forgotten, plain text, a
    prompt with a chosen and a rejected answer, an answer that was liked or not, a text with its
    class, or with a number. ASCENDS: whether its loss falls for ever as the model gets worse; such
    a run is watched for a collapse (training/guard.py). MISMATCHES: whether answers of data.retain
    are its other answers to the questions of data.forget, where the rows give none.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {}
    ROWS: ClassVar[
        Literal["answers", "signed", "text", "pairs", "feedback", "classes", "numbers"]
    ] = "answers"
    ASCENDS: ClassVar[bool] = False
    MISMATCHES: ClassVar[bool] = False

    def streams(self) -> tuple[str, ...]:
        """The names of the streams it trains on; those of schema.BESIDE stand beside one another in
        the same rows."""
        raise NotImplementedError

    def is_finetuning(self) -> bool:
        """Whether all it trains on is rows of `train`, which it learns: then held-out rows are
        measured by its rule."""
        return {BESIDE.get(name, name) for name in self.streams()} == {"train"}

    def reference(self) -> Needed:
        """What it compares with, a stream: the reference's answer log-probs, or what a pass of a
        frozen model yields.

        Empty: no reference is held or computed.
        """
        return {}

    def layers(self) -> dict[str, str]:
        """The streams whose pass ends at a layer, and that layer's name (a regex)."""
        return {}

    def trainable(self) -> Sequence[str]:
        """Regexes of the names of the parameters that it trains; those that no pass reaches stay
        frozen anyway."""
        return (".*",)

    def depends_on_micro_batches(self) -> str:
        """Why a step of this method depends on how its rows are dealt to micro-batches; empty: it
        does not."""
        return ""

    def ask(self, question: str, answer: str) -> str | None:
        """What the model is asked so that it invents the row's alternate itself; None: the data has
        alternates."""
        return None

    def prepare(self, context: Context) -> None:
        """Called once, before anything is trained or restored."""

    def has_prepass(self) -> bool:
        """Whether a pass without gradient goes over a whole step before any of its losses."""
        return type(self).prepass is not Method.prepass

    def prepass_specs(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        """What that pass should yield for each stream."""
        raise NotImplementedError

    def prepass(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> "dict[str, Tensor]":
        """What that pass says of one micro-batch, as sums by name; `terms` finds them, summed over
        the whole step, with all counts in reference["step"]."""
        raise NotImplementedError

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        """What the policy's pass should yield for each stream."""
        return {stream: OutputSpec() for stream in self.streams()}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        """The terms of one micro-batch."""
        raise NotImplementedError

    def metric_names(self) -> tuple[str, ...]:
        """The names of what a validation tells of it beside `loss`; `*` stands for any label."""
        return ()

    def eval_outputs(self, policy: dict[str, TokenOutputs]) -> "dict[str, Tensor]":
        """What a validation keeps of each row of a batch that counts, by name: [B, …]."""
        return {}

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        """What a validation tells beside its loss and the terms that are no part of it.

        rows: what was noted of each, in their order. Numbers are logged; tables (lists of mappings)
            go to files.
        """
        return {}

    def after_step(self, terms: dict[str, float], epoch: float) -> None:
        """Called after each optimiser step with the step's terms, reduced over micro-batches and
        processes, before their factors. epoch: how many are done, the current one's done part
        included."""

    def state(self) -> dict[str, Any]:
        """What changes while it trains, as numbers and lists of them; it goes into every
        checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""

    def counts(self, batch: dict[str, Any]) -> "dict[str, Tensor]":
        """The units in one micro-batch by name: what divisors refer to. Known before any forward,
        from labels alone."""
        found = {}
        for stream, (start, stop) in batch["rows"].items():
            labels, mask = batch["labels"][start:stop], batch["attention_mask"][start:stop]
            weight = batch["weight"][start:stop]
            found[f"{stream}.tokens"] = ((labels[:, 1:] != IGNORED) & (mask[:, :-1] == 1)).sum()
            found[f"{stream}.labels"] = (labels != IGNORED).sum()
            followed = (mask[:, 1:] == 1) & (mask[:, :-1] == 1) & (weight != 0)[:, None]
            if SEGMENT in batch:
                followed = followed & goes_on(batch[SEGMENT][start:stop])[:, :-1]
            found[f"{stream}.all_tokens"] = followed.sum()
            found[f"{stream}.sequences"] = (weight != 0).sum()
            found[f"{stream}.positions"] = within(mask, weight).sum()
        return found


@dataclass
class Unlearn(Method):
    """gamma * L_forget + alpha * L_retain, where a method writes L_forget and any retain term goes
    with it."""

    QUIRKS: ClassVar[dict[str, Any]] = {"kl_over": "all"}

    gamma: float = field(default=1.0, metadata={"help": "weight of the forget term"})
    alpha: float = field(
        default=1.0, metadata={"help": "weight of the retain term; 0 makes no retain pass at all"}
    )
    retain_loss_type: Literal["NLL", "KL", "EMBED_DIFF", "JS"] = field(
        default="NLL", metadata={"help": "what holds the retain answers"}
    )
    retain_layer: str = field(
        default=r"model\.layers\.7",
        metadata={"help": "EMBED_DIFF: the layer whose output is held, by regex"},
    )
    kl_over: Literal["answer", "all"] = field(
        default="answer",
        metadata={
            "help": "positions of the KL term; all: also prompt, padding and last (as published)"
        },
    )

    def __post_init__(self) -> None:
        for name in ("gamma", "alpha"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")

    def forget(self, policy: TokenOutputs, reference: Any) -> Term:
        """The forget term; its factor is set by the caller."""
        raise NotImplementedError

    def forget_term(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> Term:
        """The same, for a method that sees more streams than `forget` in it."""
        return self.forget(policy["forget"], reference.get("forget"))

    def forget_want(self, reference: Any) -> OutputSpec:
        return OutputSpec(positions=self.over())

    def forget_reference(self) -> Literal["logprobs"] | OutputSpec | None:
        """What the forget term needs of the reference."""
        return None

    def over(self) -> Over:
        """The positions that its cross-entropies are over."""
        return "answer"

    def retain(self) -> Retain:
        if self.retain_loss_type == "EMBED_DIFF":
            return EmbedDiff(self.retain_layer)
        if self.retain_loss_type == "KL":
            return KL("every" if self.kl_over == "all" else self.over())
        if self.retain_loss_type == "JS":
            return JS(self.over())
        return NLL(self.over())

    def streams(self) -> tuple[str, ...]:
        return ("forget", "retain") if self.alpha else ("forget",)

    def reference(self) -> Needed:
        kinds = {
            "forget": self.forget_reference(),
            "retain": self.retain().reference() if self.alpha else None,
        }
        return {stream: kind for stream, kind in kinds.items() if kind is not None}

    def layers(self) -> dict[str, str]:
        layer = self.retain().layer if self.alpha else None
        return {"retain": layer} if layer else {}

    def depends_on_micro_batches(self) -> str:
        if self.alpha and self.retain_loss_type == "KL" and self.kl_over == "all":
            return "kl_over=all averages over padding, and padding depends on the micro-batch"
        return ""

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        wants = {"forget": self.forget_want(reference.get("forget"))}
        if self.alpha:
            wants["retain"] = self.retain().want(reference.get("retain"))
        return wants

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        forget = self.forget_term(policy, reference)
        forget.factor = self.gamma
        if not self.alpha:
            return [forget]
        retain = self.retain().term(policy["retain"], reference.get("retain"))
        retain.factor = self.alpha
        return [forget, retain]
