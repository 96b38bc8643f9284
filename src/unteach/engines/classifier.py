"""A sequence classifier: which class each text belongs to, and how surely."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from unteach.engines.base import Said, Store
from unteach.engines.batches import Batches, Row
from unteach.engines.processes import Processes
from unteach.errors import UserError


class Classifier(Batches):
    """load: gives the model when something must be measured. config: the model's own."""

    def __init__(
        self, load: Callable[[], Any], tokenizer: Any, config: Any, batch_size: int | None, here: Processes,
        store: Store | None,
    ):  # fmt: skip
        super().__init__(None, batch_size, here, store)
        del self.model
        self._load, self.tokenizer, self.config = load, tokenizer, config

    @functools.cached_property
    def model(self) -> Any:  # type: ignore[override]
        return self._load()

    def probabilities(self, texts: Sequence[str], said: Said = None) -> list[list[float]]:
        """The probability of each class, in the order of the classes; a text is read as far as the classifier reads."""
        import torch

        read = getattr(self.config, "max_position_embeddings", None)
        longest = min(n for n in (self.tokenizer.model_max_length, read) if n)
        encoded = {text: self.tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in texts}
        pad = self.tokenizer.pad_token_id
        if pad is None:
            raise UserError(f"the classifier {self.config._name_or_path} has no padding token in its tokenizer")

        def work(batch: list[Row]) -> list[list[float]]:
            rows = [encoded[texts[i]] or [pad] for [i] in batch]  # an empty text may have no token at all
            most = max(map(len, rows))
            device = next(self.model.parameters()).device  # it is never sharded
            ids = torch.tensor([[*row, *[pad] * (most - len(row))] for row in rows], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (most - len(row)) for row in rows], device=device)
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
            found: list[list[float]] = logits.softmax(-1).tolist()
            return found

        return self._measured(
            "classify", self.batching("classify", texts, lambda text: len(encoded[text]) or 1), work, said
        )
