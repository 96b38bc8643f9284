"""Read from the data what the model of a run needs: a classifier's labels, the text that a new
tokenizer learns from."""

from dataclasses import replace

from unteach import run_dir
from unteach.config import schema
from unteach.config.schema import MODEL_KEY
from unteach.data.handlers.labelled import collect_labels
from unteach.data.io import sources, tokenized_paths
from unteach.errors import UserError
from unteach.methods.base import Method
from unteach.models import adapters, decoding_folder, heads
from unteach.models.heads import Head
from unteach.models.hub import PATH
from unteach.training.build_streams import HOLDOUT


def describe_trained_model(config: schema.TrainConfig) -> tuple[schema.ModelConfig, int | None]:
    """Describe the model that the run's method trains.

    Returns:
        The model as configured, with the adapter that the method trains by default, and of how many
        of its first layers the trained one is made; None: all.

    Raises:
        UserError: it cannot be trained so.
    """
    method = config.trainer.method
    model = config.model
    path = model.model_args.get(PATH)
    decoding_folder.refuse_decoding(
        path and str(path),
        "a method trains one; start from the base/ inside it, which has forgotten nothing",
    )
    if not isinstance(method, Method):
        return model, None
    default = method.default_peft_args()
    if model.peft_args is None and default is not None:
        model = replace(model, peft_args=default)
    if method.decoding() is None:
        return model, None
    _refuse_for_decoding(config)
    return model, method.kept_layers()


def _refuse_for_decoding(config: schema.TrainConfig) -> None:
    """Raise UserError where the model cannot be saved as the base beside a second one."""
    model = config.model
    handler = config.trainer.handler
    saved = f"trainer={handler} saves the model that it starts from beside the one that it trains"
    path = model.model_args.get(PATH)
    if not path:
        raise UserError(f"{MODEL_KEY}: {saved}, and a model made from scratch knows nothing yet")
    folder = run_dir.find_model_folder(str(path))
    if adapters.is_adapter(folder):
        raise UserError(
            f"{MODEL_KEY}: {saved}, and {folder} is an adapter. Merge it first (unteach export "
            f"{folder} to=FOLDER), and start from FOLDER"
        )
    refused = {
        "model.added_tokens": model.added_tokens,
        "model.merge_adapter": model.merge_adapter,
        "model.model_args.quantization_config": model.model_args.get("quantization_config"),
        "model.model_args.device_map": model.model_args.get("device_map"),
    }
    for key, value in refused.items():
        if value:
            raise UserError(
                f"{key}: {saved}, both whole and with the same tokens, the second as it was "
                "trained; leave it out"
            )


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
