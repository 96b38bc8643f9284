"""A sequence classifier: which class each text belongs to, and how surely."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from unteach.distributed.process_context import DistContext
from unteach.engines.base import ProgressCallback, Store
from unteach.engines.batching import Batch, BatchRunner
from unteach.engines.class_logits import compute_class_logits
from unteach.errors import UserError
from unteach.models.batch_probe import describe_padded_batches

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
logger = logging.getLogger(__name__)


class Classifier(BatchRunner):
    """Classifies texts; the model is loaded once something must be measured.

    Args:
        load: loads the model.
        config: the model's own.
    """

    def __init__(
        self,
        load: "Callable[[], PreTrainedModel]",
        tokenizer: "PreTrainedTokenizerBase",
        config: "PretrainedConfig",
        batch_size: int | None,
        dist: DistContext,
        store: Store | None,
    ):
        super().__init__(None, batch_size, dist, store)
        self._load = load
        self.tokenizer = tokenizer
        self.config = config

    @functools.cached_property
    def model(self) -> "PreTrainedModel":  # type: ignore[override]
        return self._load()

    def probabilities(
        self, texts: Sequence[str], on_progress: ProgressCallback = None
    ) -> list[list[float]]:
        """Return the probability of each class, in the order of the classes.

        A text is read as far as the classifier reads; a special token that is written in a text is
        text there.
        """
        padding_id = self.tokenizer.pad_token_id
        if padding_id is None:
            raise UserError(
                f"the classifier {self.config._name_or_path} has no padding token in its tokenizer"
            )
        ids_of_texts = {text: self._tokenize(text) for text in set(texts)}
        items = [ids_of_texts[text] for text in texts]

        def classify(batch: Batch) -> list[list[float]]:
            # An empty text may have no token at all.
            rows = [list(items[i]) or [padding_id] for [i] in batch]
            if self.takes_padded_rows:
                return self._classify_rows(rows, padding_id)
            results: list[list[float]] = []
            for row in rows:
                results += self._classify_rows([row], padding_id)
            return results

        planner = self.build_planner("classify", items, lambda ids: len(ids) or 1)
        return self.measure("classify", planner, classify, on_progress)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        """Tokenise a text as far as the classifier reads it."""
        limits = [
            self.tokenizer.model_max_length,
            getattr(self.config, "max_position_embeddings", None),
        ]
        encoded = self.tokenizer(
            text,
            truncation=True,
            max_length=min(limit for limit in limits if limit),
            split_special_tokens=True,
        )
        return tuple(encoded["input_ids"])

    def _classify_rows(self, rows: list[list[int]], padding_id: int) -> list[list[float]]:
        logits = compute_class_logits(self.model, rows, padding_id)
        probabilities: list[list[float]] = logits.softmax(-1).tolist()
        return probabilities

    @functools.cached_property
    def takes_padded_rows(self) -> bool:
        """Whether padded rows are what they are alone; a note is printed where they are not."""
        reason = describe_padded_batches(self.model, self.tokenizer)
        if reason and self.dist.is_main:
            logger.info(reason)
        return reason is None
