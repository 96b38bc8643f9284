"""Sequence classification: which class a text belongs to, read off its last token."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.errors import UserError, unknown
from unteach.lazy import torch
from unteach.methods.base import Context, Method, Term
from unteach.methods.finetune import scores
from unteach.models.forward import IGNORED, OutputSpec, TokenOutputs
from unteach.registry import method
from unteach.wording import shown

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
        if self.labels is not None and (
            len(set(self.labels)) < 2 or len(set(self.labels)) < len(self.labels)
        ):
            raise UserError(f"labels must be two or more different ones, got {shown(self.labels)}")
        if (
            isinstance(self.class_weights, dict)
            and min(self.class_weights.values(), default=0) <= 0
        ):
            raise UserError(f"class_weights must be above 0, got {shown(self.class_weights)}")
        self.names: tuple[str, ...] = ()
        self.weights: list[float] = []

    def prepare(self, context: Context) -> None:
        self.names = context.labels
        if self.class_weights == "inferred":
            rows = context.streams["train"]
            seen = Counter(rows.example(number)["labels"][-1] for number in range(len(rows)))
            self.weights = [1 / seen[k] if seen[k] else 0.0 for k in range(len(self.names))]
        elif self.class_weights:
            for name in self.class_weights:
                if name not in self.names:
                    raise UserError(
                        f"trainer.method_args.class_weights: {unknown('label', name, self.names)}"
                    )
            if absent := [name for name in self.names if name not in self.class_weights]:
                raise UserError(
                    f"trainer.method_args.class_weights: no weight for {', '.join(absent)}"
                )
            self.weights = [self.class_weights[name] for name in self.names]

    def streams(self) -> tuple[str, ...]:
        return ("train",)

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"train": OutputSpec(fn=class_logprobs, positions="labels")}

    def weight_of(self, classes: "Tensor") -> "Tensor":
        return torch.tensor(self.weights or [1.0] * len(self.names), device=classes.device)[classes]

    def counts(self, batch: dict[str, Any]) -> "dict[str, Tensor]":
        labels = batch["labels"][slice(*batch["rows"]["train"])]
        return {
            **super().counts(batch),
            "train.class_weights": self.weight_of(labels[labels != IGNORED]).sum(),
        }

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        answers = policy["train"]
        classes = answers.label
        loss = -answers.value.gather(-1, classes[:, None])[:, 0] * self.weight_of(classes)
        right = (answers.value.argmax(-1) == classes).float()
        return [
            Term("train", loss, "train.class_weights"),
            Term("accuracy", right, "train.labels", None),
        ]

    def metric_names(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1", "precision_*", "recall_*")

    def eval_outputs(self, policy: dict[str, TokenOutputs]) -> "dict[str, Tensor]":
        return {"label": policy["train"].label, "probabilities": policy["train"].value.exp()}

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        return scores.classification(rows["label"], rows["probabilities"], self.names)


def class_logprobs(logits: "Tensor", labels: "Tensor") -> "Tensor":
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
        return {"train": OutputSpec(fn=only_output, positions="labels")}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        answers = policy["train"]
        assert answers.target is not None, "ScoredDataset gives every row a target"
        return [
            Term("train", (answers.value - answers.target[answers.row]).square(), "train.labels")
        ]

    def metric_names(self) -> tuple[str, ...]:
        return ("mae", "mse", "r2")

    def eval_outputs(self, policy: dict[str, TokenOutputs]) -> "dict[str, Tensor]":
        answers = policy["train"]
        assert answers.target is not None, "ScoredDataset gives every row a target"
        return {"target": answers.target[answers.row], "said": answers.value}

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        return scores.regression(rows["target"], rows["said"])


def only_output(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """The one output: [n, 1] -> [n]."""
    return logits[:, 0]
