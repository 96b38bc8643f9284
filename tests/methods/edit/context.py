"""What an edit works with, without a run around it."""

from typing import Any

from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.methods.edit.base import EditContext
from unteach.models.loading import LoadedModel
from unteach.testing.examples import build_streams


def build_context(
    loaded: LoadedModel,
    rows: dict[str, Any],
    batch_size: int = 4,
    notes: list[str] | None = None,
    **more: Any,
) -> EditContext:
    """A context over examples by stream; more: other fields of it."""
    loaded.model.requires_grad_(False)
    loaded.model.eval()
    fields: dict[str, Any] = {
        "loaded": loaded,
        "streams": build_streams(rows),
        "collator": DataCollatorForSupervisedDataset(loaded.tokenizer),
        "batch_size": batch_size,
        "seed": 0,
        "report": (notes if notes is not None else []).append,
        "load_weights": lambda path: {},
        "measure_kl": lambda: 0.0,
    }
    return EditContext(**{**fields, **more})
