"""The head of a classifier: what its outputs mean, and where that is kept."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, json_files
from unteach.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "unteach_head.json"
"""Beside an adapter, which has no configuration of a model."""
CLASSIFIER = "ForSequenceClassification"


@dataclass(frozen=True)
class Head:
    """What stands in the place of a language model's head: one output a label, or one number where
    there are none."""

    labels: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return the same as a model's configuration says it."""
        if not self.labels:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def save(self, folder: Path) -> None:
        atomic.write_json(folder / FILE, {"labels": list(self.labels)})

    def __str__(self) -> str:
        return f"a classifier of {', '.join(self.labels)}" if self.labels else "a regression"


def read_head(path: str | None) -> Head | None:
    """Read the head of the classifier in a folder; None where there is none."""
    if not path:
        return None
    folder = Path(path)
    if (folder / FILE).exists():
        return Head(tuple(json_files.read_json(folder / FILE, "the adapter's head")["labels"]))
    if not (folder / "config.json").exists():
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:  # loading says what is wrong with it
        return None
    if not isinstance(config, dict) or not _is_classifier(config.get("architectures")):
        return None
    labels = config.get("id2label") or {}
    if config.get("problem_type") == "regression" or len(labels) == 1:
        return Head()
    return Head(tuple(labels[key] for key in sorted(labels, key=int)))


def _is_classifier(architectures: object) -> bool:
    if not isinstance(architectures, list):
        return False
    return any(str(name).endswith(CLASSIFIER) for name in architectures)


def refuse_other_head(head: Head | None, path: str | None) -> None:
    """Raise UserError where a folder holds a classifier and something else is asked for."""
    kept = read_head(path)
    if kept is None:
        return
    if head is None:
        raise UserError(
            f"{path} is {kept}, and a language model is needed here; `unteach infer kind=classify` "
            "asks it, and trainer=classify or regress goes on with it"
        )
    if head != kept:
        raise UserError(
            f"{path} is {kept}, and this run trains {head}; give it the same labels, or its base "
            f"model"
        )


def refuse_no_score(model: "PreTrainedModel") -> None:
    """Raise UserError where the head does not read the last token's hidden state through one
    layer."""
    if not hasattr(model, "score"):
        raise UserError(
            f"{type(model).__name__}: its head is not one layer on the last token; classifiers are "
            "trained on decoders (Llama, Qwen, Gemma, Phi, GPT-2, GPT-NeoX and their like)"
        )
