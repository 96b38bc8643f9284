"""A sequence classifier on the rows of a table: the label of each text, and how surely."""

import logging
from array import array
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from unteach import run_dir
from unteach.config.inference import Sampling
from unteach.config.schema import ModelConfig
from unteach.engines.batching import Batch, BatchRunner
from unteach.engines.class_logits import compute_class_logits
from unteach.errors import UserError
from unteach.inference.backends.base import Answered, ClassScores, Job, Request
from unteach.inference.backends.local_batches import move_to_device, run_batches
from unteach.lazy import torch, transformers
from unteach.models import adapters, heads, loading
from unteach.models.batch_probe import describe_padded_batches
from unteach.models.hub import PATH
from unteach.models.layers import unwrap_model
from unteach.models.load_as import load_as
from unteach.models.loading import LoadedModel
from unteach.models.model_handlers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
logger = logging.getLogger(__name__)


def load(config: ModelConfig) -> LoadedModel:
    """Load a sequence classifier and its tokenizer."""
    path = run_dir.find_model_folder(str(config.model_args[PATH]))
    head = heads.read_head(path)
    if adapters.is_adapter(path) and head:
        return loading.load(config, training=False, head=head)

    def refuse_other_models(settings: "PretrainedConfig") -> None:
        architectures = settings.architectures or []
        if not any(name.endswith(heads.CLASSIFIER) for name in architectures):
            what = ", ".join(architectures) or "it does not say what"
            raise UserError(f"{path}: holds no classifier ({what}), and kind=classify asks one")

    model, compute, source = load_as(
        transformers.AutoModelForSequenceClassification,
        config,
        path,
        refuse_other_models,
    )
    tokenizer = load_tokenizer(path, config.tokenizer_args, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    no_template: Any = None
    return LoadedModel(model, tokenizer, no_template, compute, path, head=head)


def load_empty(config: ModelConfig) -> LoadedModel:
    """Load the same with no weights."""
    with torch.device("meta"):
        return load(config)


class ClassifierSession(BatchRunner):
    """Classifies a request's prompt; the classes are named by the model's head. Without any it is a
    regression."""

    def __init__(
        self,
        job: Job,
        batch_size: int | None,
        tokens_per_batch: int | None,
    ):
        loaded = load(job.model)
        super().__init__(loaded.model, batch_size, job.dist, None)
        move_to_device(self.model, job.dist.device)
        self.autocast = loaded.autocast
        self.padding_id = loaded.tokenizer.pad_token_id
        config = unwrap_model(self.model).config
        # By which a causal model finds the last token of a row.
        config.pad_token_id = self.padding_id
        if batch_size != 1:
            reason = describe_padded_batches(self.model, loaded.tokenizer)
            if reason:
                self.batch_size = 1
                if job.dist.is_main:
                    logger.info(reason)
        self.labels: Sequence[str] = [str(config.id2label[i]) for i in range(config.num_labels)]
        if loaded.head:
            self.labels = loaded.head.labels
        if tokens_per_batch:
            self.budgets["classify"] = tokens_per_batch

    def classify(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        """Classify the prompts of requests."""

        def classify_batch(batch: Batch) -> list[ClassScores]:
            prompts = [requests[i].prompt for [i] in batch]
            with self.autocast():
                logits = compute_class_logits(self.model, prompts, self.padding_id)
            probabilities = logits.softmax(-1)
            scores = []
            for row, row_probabilities in zip(logits.tolist(), probabilities.tolist(), strict=True):
                scores.append(ClassScores(tuple(row), tuple(row_probabilities)))
            return scores

        lengths = array("q", (len(request.prompt) for request in requests))
        planner = self.build_planner("classify", lengths, int)
        yield from run_batches(
            self,
            "classify",
            requests,
            planner,
            classify_batch,
            done,
        )

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Set[int],
    ) -> Answered:
        raise AssertionError("a classifier continues nothing")

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("a classifier scores no answer")

    def close(self) -> None:
        """Nothing stays open."""
