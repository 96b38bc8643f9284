"""Scores by other models than the one that is evaluated."""

from pathlib import Path
from typing import Any

from unteach import runs
from unteach.engines.base import Ids, Said, Score
from unteach.engines.hf import HFEngine
from unteach.engines.processes import Processes
from unteach.errors import UserError
from unteach.evals.cache import Store
from unteach.models import handlers, loading
from unteach.schema import ModelConfig


class ReferenceModels:
    """Other models that read the same tokens. Each is loaded only if its store lacks something, and freed afterwards.

    like: the model that is evaluated; its precision and its tokens are theirs.
    """

    def __init__(self, like: loading.Loaded, batch_size: int, here: Processes, cache: Path):
        self.like, self.batch_size, self.here, self.cache = like, batch_size, here, cache

    def score(self, path: str, pairs: list[tuple[Ids, Ids]], said: Said) -> list[Score]:
        import transformers

        folder = runs.model_folder(path)
        try:
            tokenizer = handlers.load_tokenizer(folder, {}, {})
            config = handlers.from_hub(transformers.AutoConfig, folder)
        except UserError as error:
            raise UserError(f"reference_model_path={path}: {error}") from None
        if not self._same_tokens(tokenizer, pairs):
            raise UserError(
                f"reference_model_path={path}: its tokenizer is another than the model's; mia_reference subtracts "
                "losses over the same tokens. Name a model with the same tokenizer."
            )
        weights = loading.identity(folder, config, self.cache / runs.FINGERPRINTS)
        store = Store(self.cache, weights, self.like.compute, self.here.rank)
        found = [store.get("score", pair) for pair in pairs]
        lacking = any(score is None for score in found)
        if self.here.gather:
            lacking = any(self.here.gather([lacking]))
        if lacking:
            return self._measured(folder, pairs, store, said)
        if said:
            said(len(pairs))
        return found

    def _measured(self, folder: str, pairs: list[tuple[Ids, Ids]], store: Store, said: Said) -> list[Score]:
        import torch

        asked = ModelConfig({handlers.PATH: folder, "dtype": self.like.compute})
        device = next(self.like.model.parameters()).device
        model = loading.load(asked, training=False).model.to(device)
        with torch.autocast(device.type, enabled=False):  # its weights are in its precision already
            engine = HFEngine(model, self.like.tokenizer, self.batch_size, self.here, store)
            scores = engine.score(pairs, said)
        del model, engine
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return scores

    def _same_tokens(self, tokenizer: Any, pairs: list[tuple[Ids, Ids]]) -> bool:
        used = sorted({token for pair in pairs for ids in pair for token in ids})

        def spelled(one: Any) -> list[str | None]:
            return [one.convert_ids_to_tokens(token) if token < len(one) else None for token in used]

        return spelled(tokenizer) == spelled(self.like.tokenizer)
