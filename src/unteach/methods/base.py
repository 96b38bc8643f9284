"""The contract of a method: streams in, unreduced terms out.

The trainer does everything else, once for all methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.config.schema import BESIDE
from unteach.data.batches import Batch
from unteach.errors import UserError
from unteach.methods.context import Context
from unteach.methods.retain import JS, KL, NLL, EmbedDiff, Retain
from unteach.methods.terms import (
    UNITS,
    Positions,
    StreamReference,
    Term,
    cross_entropy,
    mean_over_rows,
)
from unteach.methods.unit_counts import count_units
from unteach.models.decoding import Decoding
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.models.layer_names import DEFAULT_LAYER
from unteach.models.reference import ReferenceSpecs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "UNITS",
    "Context",
    "Method",
    "Side",
    "StreamReference",
    "Term",
    "TwoSided",
    "Unlearn",
    "cross_entropy",
    "find_sides_fault",
    "mean_over_rows",
]


Side = Literal["forget", "retain"]
"""The terms of a loss that forget, or those that retain."""


class Method:
    """A rule that turns a batch into a loss. Subclasses are dataclasses; their fields are
    `trainer.method_args`.

    Attributes:
        QUIRKS: values of the fields under `compat: openunlearning`.
        ROWS: what a row of its data is: a prompt and its answer (or a chat), the same with a mark
            whether it is forgotten, plain text, a prompt with a chosen and a rejected answer, an
            answer that was liked or not, a text with its class, or with a number.
        ASCENDS: whether its loss falls for ever as the model gets worse; such a run is watched for
            a collapse (training/guard.py).
        MISMATCHES: whether answers of data.retain are its other answers to the questions of
            data.forget, where the rows give none.
        IS_EDIT: whether its run has no steps: the weights are changed once (methods/edit/base.py).
    """

    QUIRKS: ClassVar[dict[str, Any]] = {}
    ROWS: ClassVar[
        Literal["answers", "signed", "text", "pairs", "feedback", "classes", "numbers"]
    ] = "answers"
    ASCENDS: ClassVar[bool] = False
    MISMATCHES: ClassVar[bool] = False
    IS_EDIT: ClassVar[bool] = False

    def streams(self) -> tuple[str, ...]:
        """Name the streams it trains on.

        Those of schema.BESIDE are parts of the rows of another stream.
        """
        raise NotImplementedError

    def is_finetuning(self) -> bool:
        """Say whether all it trains on is rows of `train`, which it learns: then held-out rows are
        measured by its rule."""
        return {BESIDE.get(name, name) for name in self.streams()} == {"train"}

    def reference(self) -> ReferenceSpecs:
        """Say what it compares with, by stream: the reference's answer log-probs, or what a pass of
        a frozen model yields.

        Empty: no reference is held or computed.
        """
        return {}

    def layers(self) -> dict[str, str | tuple[str, ...]]:
        """Name the layer at which the pass of a stream ends, for streams whose does; of several
        names it is the highest.

        A layer is named as models/layer_names.py has it: `layers.7`, `layers.25%`, or a regex.
        """
        return {}

    def modules(self) -> tuple[str, ...]:
        """Name the modules whose outputs it takes beside those layers; they are tried before
        anything is trained."""
        return ()

    def lens(self) -> tuple[str, ...]:
        """Name the modules whose outputs it reads as the head reads the last hidden states; this
        is tried too."""
        return ()

    def trainable(self) -> Sequence[str]:
        """Give regexes of the names of the parameters that it trains; those that no pass reaches
        stay frozen anyway."""
        return (".*",)

    def decoding(self) -> Decoding | None:
        """Say how the logits of the model that it starts from are changed by those of the model
        that it trains: the two are saved as one folder, which forgets in its decoding.

        None: the model that forgets is the one that it trains.
        """
        return None

    def kept_layers(self) -> int | None:
        """Say of how many of the start's first layers the model is made that it trains; None: all.
        Only for a method with a decoding."""
        return None

    def default_peft_args(self) -> dict[str, Any] | None:
        """Give LoraConfig's fields of the adapter that it trains where the run says nothing of one;
        None: it trains the whole model then."""
        return None

    def depends_on_micro_batches(self) -> str:
        """Say why a step of this method depends on how its rows are split into micro-batches;
        empty: it does not."""
        return ""

    def ask(self, question: str, answer: str) -> str | None:
        """Write the prompt to which the model itself invents a row's alternate; None: the data has
        alternates."""
        return None

    def prepare(self, context: Context) -> None:
        """Prepare; called once, before anything is trained or restored."""

    def has_prepass(self) -> bool:
        """Say whether a pass without gradient goes over a whole step before any of its losses."""
        return type(self).prepass is not Method.prepass

    def prepass_specs(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        """Say what that pass should yield, by stream."""
        raise NotImplementedError

    def prepass(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> "dict[str, Tensor]":
        """Sum what that pass yields for one micro-batch, by name.

        `terms` gets the sums over the whole step, with all counts, in reference["step"].
        """
        raise NotImplementedError

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        """Say what the policy's pass should yield, by stream."""
        return {stream: OutputSpec() for stream in self.streams()}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        """Build the terms of one micro-batch."""
        raise NotImplementedError

    def metric_names(self) -> tuple[str, ...]:
        """Name what a validation reports beside `loss`; `*` stands for any label."""
        return ()

    def eval_outputs(self, policy: dict[str, TokenOutputs]) -> "dict[str, Tensor]":
        """Give what a validation keeps of each row of a batch that counts, by name: [B, …]."""
        return {}

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        """Compute what a validation reports beside its loss and the terms that are no part of it.

        Args:
            loss: over all rows.
            rows: the `eval_outputs` of all rows by name, in their order.

        Returns:
            Numbers, which are logged, and tables (lists of mappings), which go to files.
        """
        return {}

    def after_step(self, terms: dict[str, float], epoch: float) -> None:
        """Update what the method learns by itself; called after each optimiser step.

        Args:
            terms: of the step, reduced over micro-batches and processes, before their factors.
            epoch: how many are done, with the done part of the current one.
        """

    def state(self) -> dict[str, Any]:
        """Give what changes while it trains, as numbers and lists of them; it goes into every
        checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""

    def counts(self, batch: Batch) -> "dict[str, Tensor]":
        """Count the units in one micro-batch, by the names that divisors refer to.

        They are known before any forward, from labels and masks alone.
        """
        return count_units(batch)


class TwoSided(Method):
    """A method each of whose terms either forgets or retains, from streams of its side alone.

    So the gradient of each side can be computed by itself (trainer.surgery, trainer.perturb).
    Subclasses write what follows for each side; `streams`, `wants` and `terms` join the two.
    """

    def forget_streams(self) -> tuple[str, ...]:
        """Name the streams that the forget terms are made of."""
        raise NotImplementedError

    def retain_streams(self) -> tuple[str, ...]:
        """Name the streams that the retain terms are made of; none: there are no such terms."""
        return ()

    def forget_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        """Say what the policy's pass over the streams of the forget terms should yield."""
        return {stream: OutputSpec() for stream in self.forget_streams()}

    def retain_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        """Say what the policy's pass over the streams of the retain terms should yield."""
        return {stream: OutputSpec() for stream in self.retain_streams()}

    def forget_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        """Build the terms of one micro-batch that forget, with their factors."""
        raise NotImplementedError

    def retain_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        """Build the terms of one micro-batch that retain, with their factors; called where
        `retain_streams` names some."""
        raise NotImplementedError

    def streams(self) -> tuple[str, ...]:
        return (*self.forget_streams(), *self.retain_streams())

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        wants = self.forget_wants(reference)
        if self.retain_streams():
            wants = {**wants, **self.retain_wants(reference)}
        return wants

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        terms = self.forget_terms(policy, reference)
        if self.retain_streams():
            terms = [*terms, *self.retain_terms(policy, reference)]
        return terms


def find_sides_fault(method: Method) -> str:
    """Say why the forget and the retain gradient of a method cannot be computed apart; empty: they
    can."""
    if not isinstance(method, TwoSided):
        return "it does not say which of its terms forget and which retain"
    for name in ("streams", "wants", "terms"):
        if getattr(type(method), name) is not getattr(TwoSided, name):
            return (
                f"its class writes `{name}` for both sides in one; they are apart where it writes "
                f"forget_{name} and retain_{name}"
            )
    if not method.retain_streams():
        return "it has no retain term here"
    return ""


@dataclass
class Unlearn(TwoSided):
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
        default=DEFAULT_LAYER,
        metadata={"help": "EMBED_DIFF: the layer whose output is held: by number, depth or regex"},
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

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        """Build the forget term; its factor is set by the caller."""
        raise NotImplementedError

    def forget_term(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> Term:
        """Build the forget term of a method that sees more streams than `forget` in it."""
        return self.forget(policy["forget"], reference.get("forget"))

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        """Say what the policy's pass over `forget` should yield."""
        return OutputSpec(positions=self.positions())

    def forget_reference(self) -> Literal["logprobs"] | OutputSpec | None:
        """Say what the forget term needs of the reference."""
        return None

    def positions(self) -> Positions:
        """Name the positions that its cross-entropies are over."""
        return "answer"

    def retain(self) -> Retain:
        """Build the retain term that the fields name."""
        if self.retain_loss_type == "EMBED_DIFF":
            return EmbedDiff(self.retain_layer)
        if self.retain_loss_type == "KL":
            return KL("every" if self.kl_over == "all" else self.positions())
        if self.retain_loss_type == "JS":
            return JS(self.positions())
        return NLL(self.positions())

    def forget_streams(self) -> tuple[str, ...]:
        return ("forget",)

    def retain_streams(self) -> tuple[str, ...]:
        return ("retain",) if self.alpha else ()

    def reference(self) -> ReferenceSpecs:
        needed: ReferenceSpecs = {}
        forget = self.forget_reference()
        if forget is not None:
            needed["forget"] = forget
        retain = self.retain().reference() if self.alpha else None
        if retain is not None:
            needed["retain"] = retain
        return needed

    def layers(self) -> dict[str, str | tuple[str, ...]]:
        layer = self.retain().layer if self.alpha else None
        return {"retain": layer} if layer else {}

    def depends_on_micro_batches(self) -> str:
        if self.alpha and self.retain_loss_type == "KL" and self.kl_over == "all":
            return "kl_over=all averages over padding, and padding depends on the micro-batch"
        return ""

    def forget_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"forget": self.forget_want(reference.get("forget"))}

    def retain_wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"retain": self.retain().want(reference.get("retain"))}

    def forget_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        term = self.forget_term(policy, reference)
        term.factor = self.gamma
        return [term]

    def retain_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        term = self.retain().term(policy["retain"], reference.get("retain"))
        term.factor = self.alpha
        return [term]
