"""Read from the data what the model of a run needs: a classifier's labels, the text that a new
tokenizer learns from."""

from unteach import run_dir
from unteach.config import schema
from unteach.data.handlers.labelled import collect_labels
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
    labels = config.trainer.method.labels
    if not labels:
        path = config.model.model_args.get(PATH)
        saved_head = heads.read_head(run_dir.find_model_folder(str(path)) if path else None)
        labels = saved_head.labels if saved_head else None
    if not labels:
        datasets = config.data.streams["train"].values()
        labels = collect_labels([(dataset.cls, dataset.args) for dataset in datasets])
    return Head(tuple(labels))


def read_training_texts(config: schema.TrainConfig) -> list[str]:
    """Read the text of the training data, for a tokenizer that is learned from it."""
    texts = []
    for stream_name, datasets in config.data.streams.items():
        if stream_name == HOLDOUT:
            continue
        for dataset in datasets.values():
            hf_args = dataset.args.get("hf_args", {})
            if tokenized_paths.is_tokenized(hf_args.get("path")):
                raise UserError(
                    "a tokenizer cannot be learned from tokens; name the model whose tokenizer "
                    "made them"
                )
            for row in sources.load_rows(hf_args):
                columns = [value for value in row.values() if isinstance(value, str)]
                texts.append("\n".join(columns))
    return texts
