"""A sequence classifier: which class each text belongs to, and how surely."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from unteach.distributed.process_context import DistContext
from unteach.engines.base import ProgressCallback, Store
from unteach.engines.batching import BatchRunner, Row
from unteach.engines.class_logits import compute_class_logits
from unteach.errors import UserError
from unteach.models.batch_probe import describe_padded_batches

logger = logging.getLogger(__name__)


class Classifier(BatchRunner):
    """load: gives the model when something must be measured. config: the model's own."""

    def __init__(
        self,
        load: Callable[[], Any],
        tokenizer: Any,
        config: Any,
        batch_size: int | None,
        dist: DistContext,
        store: Store | None,
    ):
        super().__init__(None, batch_size, dist, store)
        del self.model
        self._load, self.tokenizer, self.config = load, tokenizer, config

    @functools.cached_property
    def model(self) -> Any:  # type: ignore[override]
        return self._load()

    def probabilities(
        self, texts: Sequence[str], on_progress: ProgressCallback = None
    ) -> list[list[float]]:
        """The probability of each class, in the order of the classes; a text is read as far as the
        classifier reads.

        A special token that is written in a text is text there.
        """
        read = getattr(self.config, "max_position_embeddings", None)
        longest = min(n for n in (self.tokenizer.model_max_length, read) if n)
        read_as_text = {"truncation": True, "max_length": longest, "split_special_tokens": True}
        encoded = {text: tuple(self.tokenizer(text, **read_as_text)["input_ids"]) for text in texts}
        rows_of_ids = [encoded[text] for text in texts]
        pad = self.tokenizer.pad_token_id
        if pad is None:
            raise UserError(
                f"the classifier {self.config._name_or_path} has no padding token in its tokenizer"
            )

        def work(batch: list[Row]) -> list[list[float]]:
            # an empty text may have no token at all
            rows = [list(rows_of_ids[i]) or [pad] for [i] in batch]
            parts = [rows] if self.takes_padded_rows else [[row] for row in rows]
            found: list[list[float]] = []
            for part in parts:
                found += compute_class_logits(self.model, part, pad).softmax(-1).tolist()
            return found

        return self._measured(
            "classify",
            self.batching("classify", rows_of_ids, lambda ids: len(ids) or 1),
            work,
            on_progress,
        )

    @functools.cached_property
    def takes_padded_rows(self) -> bool:
        """Whether padded rows are what they are alone; says it where they are not."""
        reason = describe_padded_batches(self.model, self.tokenizer)
        if reason and self.dist.is_main:
            logger.info(reason)
        return reason is None
