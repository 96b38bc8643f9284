"""What the data says about the model that a run trains: a classifier's labels, the words that a new
tokenizer learns from."""

from unteach import run_dir
from unteach.config import schema
from unteach.data.handlers.labelled import labels_of_rows
from unteach.data.io import sources, tokenized_paths
from unteach.errors import UserError
from unteach.models import heads
from unteach.models.heads import Head
from unteach.models.hub import PATH
from unteach.training.build_streams import HOLDOUT


def build_head(config: schema.TrainConfig) -> Head | None:
    """Build the head of the classifier that the run's method trains; None for a language model.

    Its labels are the method's, those that the model was saved with, or those of the rows of
    data.train.
    """
    kind = getattr(config.trainer.method, "ROWS", "answers")
    if kind not in ("classes", "numbers"):
        return None
    if kind == "numbers":
        return Head()
    path = config.model.model_args.get(PATH)
    saved_head = heads.saved(run_dir.find_model_folder(str(path)) if path else None)
    labels = config.trainer.method.labels or (saved_head.labels if saved_head else None)
    parts = config.data.streams["train"].values()
    return Head(tuple(labels or labels_of_rows([(part.cls, part.args) for part in parts])))


def read_training_texts(config: schema.TrainConfig) -> list[str]:
    """Read the words of the training data, for a tokenizer that is learned from them."""
    texts = []
    for stream, parts in config.data.streams.items():
        if stream == HOLDOUT:
            continue
        for part in parts.values():
            if tokenized_paths.is_tokenized(part.args.get("hf_args", {}).get("path")):
                raise UserError(
                    "a tokenizer cannot be learned from tokens; name the model whose tokenizer "
                    "made them"
                )
            for row in sources.load_rows(part.args.get("hf_args", {})):
                words = [value for value in row.values() if isinstance(value, str)]
                texts.append("\n".join(words))
    return texts
