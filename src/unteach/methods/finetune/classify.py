"""Sequence classification: which class a text belongs to, read off its last token."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.data.batches import Batch
from unteach.data.streams import Stream
from unteach.errors import UserError, describe_unknown
from unteach.lazy import torch
from unteach.methods.base import Context, Method, Term
from unteach.methods.finetune import scores
from unteach.models.forward import IGNORED, OutputSpec, TokenOutputs
from unteach.registry import method
from unteach.wording import quote_value

if TYPE_CHECKING:
    from torch import Tensor


@method("Classify", cost="1 forward", reference="none")
@dataclass
class Classify(Method):
    """The mean over texts of -w_y log p_y: the sum of them over the sum of w_y, y a text's class.

    A new head of one output a class stands on the model's body; a model that was saved as a
    classifier keeps its own.
    """

    ROWS: ClassVar = "classes"

    labels: list[str] | None = field(
        default=None,
        metadata={"help": "all classes, in order; null: those that the training rows have"},
    )
    class_weights: dict[str, float] | Literal["inferred"] | None = field(
        default=None,
        metadata={
            "help": "w of each label, of which only the ratios matter; inferred: 1 / its training "
            "rows"
        },
    )

    def __post_init__(self) -> None:
        if self.labels is not None:
            num_different = len(set(self.labels))
            if num_different < 2 or num_different < len(self.labels):
                raise UserError(
                    f"labels must be two or more different ones, got {quote_value(self.labels)}"
                )
        weights = self.class_weights
        if isinstance(weights, dict) and min(weights.values(), default=0) <= 0:
            raise UserError(f"class_weights must be above 0, got {quote_value(weights)}")
        self.names: tuple[str, ...] = ()
        self.weights: list[float] = []

    def prepare(self, context: Context) -> None:
        self.names = context.labels
        if self.class_weights == "inferred":
            self.weights = self._infer_weights(context.streams["train"])
        elif self.class_weights:
            self._refuse_other_labels(self.class_weights)
            self.weights = [self.class_weights[name] for name in self.names]

    def _infer_weights(self, rows: Stream) -> list[float]:
        """Weigh each class by 1 / the number of its training rows; one without rows by 0."""
        num_rows = Counter(rows.example(row)["labels"][-1] for row in range(len(rows)))
        weights = []
        for class_index in range(len(self.names)):
            count = num_rows[class_index]
            weights.append(1 / count if count else 0.0)
        return weights

    def _refuse_other_labels(self, class_weights: dict[str, float]) -> None:
        """Raise UserError unless each class has a weight, and nothing else has."""
        for name in class_weights:
            if name not in self.names:
                raise UserError(
                    "trainer.method_args.class_weights: "
                    f"{describe_unknown('label', name, self.names)}"
                )
        absent = [name for name in self.names if name not in class_weights]
        if absent:
            raise UserError(f"trainer.method_args.class_weights: no weight for {', '.join(absent)}")

    def streams(self) -> tuple[str, ...]:
        return ("train",)

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"train": OutputSpec(fn=compute_class_logprobs, positions="labels")}

    def look_up_weights(self, classes: "Tensor") -> "Tensor":
        """Look up the weight of each row's class: [n] -> [n]."""
        weights = self.weights or [1.0] * len(self.names)
        return torch.tensor(weights, device=classes.device)[classes]

    def counts(self, batch: Batch) -> "dict[str, Tensor]":
        counts = super().counts(batch)
        start, stop = batch["rows"]["train"]
        labels = batch["labels"][start:stop]
        classes = labels[labels != IGNORED]
        counts["train.class_weights"] = self.look_up_weights(classes).sum()
        return counts

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        logprobs = policy["train"].value  # [n, C]
        classes = policy["train"].label  # [n]
        own_logprobs = logprobs.gather(-1, classes[:, None])[:, 0]
        loss = -own_logprobs * self.look_up_weights(classes)
        is_right = (logprobs.argmax(-1) == classes).float()
        return [
            Term("train", loss, "train.class_weights"),
            Term("accuracy", is_right, "train.labels", None),
        ]

    def metric_names(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1", "precision_*", "recall_*")

    def eval_outputs(self, policy: dict[str, TokenOutputs]) -> "dict[str, Tensor]":
        return {"label": policy["train"].label, "probabilities": policy["train"].value.exp()}

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        return scores.score_classification(rows["label"], rows["probabilities"], self.names)


def compute_class_logprobs(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """The log-probs of all classes: [n, C] -> [n, C]."""
    return logits.log_softmax(-1)


@method("Regress", cost="1 forward", reference="none")
@dataclass
class Regress(Method):
    """The mean over texts of (z - y)^2, y a text's number and z what a head of one output reads off
    its last token."""

    ROWS: ClassVar = "numbers"

    def streams(self) -> tuple[str, ...]:
        return ("train",)

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"train": OutputSpec(fn=read_output, positions="labels")}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        outputs = policy["train"]
        errors = outputs.value - select_targets(outputs)
        return [Term("train", errors.square(), "train.labels")]

    def metric_names(self) -> tuple[str, ...]:
        return ("mae", "mse", "r2")

    def eval_outputs(self, policy: dict[str, TokenOutputs]) -> "dict[str, Tensor]":
        outputs = policy["train"]
        return {"target": select_targets(outputs), "said": outputs.value}

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        return scores.score_regression(rows["target"], rows["said"])


def read_output(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """The one output of the head: [n, 1] -> [n]."""
    return logits[:, 0]


def select_targets(outputs: TokenOutputs) -> "Tensor":
    """Select the number of each position's row: [N]."""
    assert outputs.target is not None, "ScoredDataset gives every row a target"
    return outputs.target[outputs.row]
