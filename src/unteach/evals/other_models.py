"""Other models than the one that is evaluated: a reference, the retain model, a classifier of
texts.

Each is loaded only if its store lacks something, and freed afterwards.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import fingerprints, run_dir
from unteach.config.schema import ModelConfig
from unteach.config.suites import SuiteConfig
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Ids, ProgressCallback, Score
from unteach.engines.classifier import Classifier
from unteach.engines.hf import HFEngine, get_context_length
from unteach.errors import UserError
from unteach.evals import suites
from unteach.evals.base import Value
from unteach.evals.measurement_cache import Store
from unteach.evals.measurement_plan import Progress
from unteach.lazy import torch, transformers
from unteach.models import integrity, loading, model_handlers
from unteach.models.placement import place_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Deferred(HFEngine):
    """An engine whose model is loaded when it must measure something."""

    def __init__(self, load: Callable[[], Any], tokenizer: Any, *args: Any):
        self._load = load
        super().__init__(None, tokenizer, *args)

    @functools.cached_property
    def model(self) -> Any:  # type: ignore[override]
        return self._load()


class OtherModels:
    """like: the model that is evaluated; their precision is its own, and a reference's tokens
    are."""

    def __init__(
        self,
        like: loading.LoadedModel,
        batch_size: int | None,
        dist: DistContext,
        cache: Path,
        progress: Progress,
    ):
        self.like = like
        self.batch_size = batch_size
        self.dist = dist
        self.cache = cache
        self.progress = progress

    def score(
        self, path: str, pairs: list[tuple[Ids, Ids]], on_progress: ProgressCallback
    ) -> list[Score]:
        """The scores of the same tokens by a reference model."""
        folder = run_dir.find_model_folder(path)
        with _named("reference_model_path", path):
            tokenizer = model_handlers.load_tokenizer(folder, {}, {})
            config = model_handlers.from_hub(transformers.AutoConfig, folder)
        if not self._same_tokens(tokenizer, pairs):
            raise UserError(
                f"reference_model_path={path}: its tokenizer is another than the model's; "
                "mia_reference subtracts losses over the same tokens. Name a model with the same "
                "tokenizer."
            )
        weights = loading.identify_model(folder, config, self.cache / fingerprints.MEMORY_FILE)
        with self._plain():
            return self._engine(
                ModelConfig({model_handlers.PATH: folder}), self.like.tokenizer, weights
            ).score(pairs, on_progress)

    def evaluate(self, path: str, configs: dict[str, SuiteConfig]) -> dict[str, dict[str, Value]]:
        """The values of whole suites, for the log of a retain model; it is asked in the words of
        the evaluated one."""
        asked = ModelConfig({model_handlers.PATH: path}, template_args=self.like.template.args)
        with _named("retain_model", path):
            empty = loading.load_empty(asked)
        weights = empty.identity(self.cache / fingerprints.MEMORY_FILE)
        engine = self._engine(asked, empty.tokenizer, weights, empty.template.stops)
        with self._plain():
            planned = suites.plans(configs, empty.template, get_context_length(empty.model))
            return suites.carry_out(planned, engine, self._of(path), None, self)

    def classify(
        self, path: str, texts: Sequence[str], on_progress: ProgressCallback
    ) -> list[dict[str, float]]:
        """The class probabilities of texts, by a sequence classifier."""
        with _named("classifier_path", path):
            tokenizer = model_handlers.load_tokenizer(path, {}, {})
            config = model_handlers.from_hub(transformers.AutoConfig, path)
        weights = loading.identify_model(path, config, self.cache / fingerprints.MEMORY_FILE)

        def load() -> Any:
            with _named("classifier_path", path):
                auto = transformers.AutoModelForSequenceClassification
                model = integrity.load_model(auto, path, use_safetensors=True)
                integrity.refuse_not_finite(model, path)
                return model.to(self._device())  # type: ignore[arg-type]

        store = Store(self.cache, weights, "float32", self.dist.rank)
        labels = [config.id2label[number] for number in range(len(config.id2label))]
        with self._plain():
            found = Classifier(
                load, tokenizer, config, self.batch_size, self.dist, store
            ).probabilities(texts, on_progress)
        return [dict(zip(labels, one, strict=True)) for one in found]

    def _engine(
        self,
        asked: ModelConfig,
        tokenizer: "PreTrainedTokenizerBase",
        weights: str,
        stops: Sequence[int] = (),
    ) -> HFEngine:
        asked.model_args["dtype"] = self.like.compute

        def load() -> Any:
            return place_model(loading.load(asked, training=False).model, self.dist)

        store = Store(self.cache, weights, self.like.compute, self.dist.rank)
        return Deferred(load, tokenizer, self.batch_size, self.dist, store, stops)

    def _device(self) -> Any:
        return (
            self.dist.device if self.dist.is_sharded else next(self.like.model.parameters()).device
        )

    @contextlib.contextmanager
    def _plain(self) -> Iterator[None]:
        """Outside a training run's autocast, as its weights are in its precision already; frees its
        memory."""
        with torch.autocast(self._device().type, enabled=False):
            yield
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _of(self, path: str) -> Progress:
        """The progress, with the model named."""
        return lambda what, total: self.progress(f"{what}, {Path(path).name}", total)

    def _same_tokens(self, tokenizer: Any, pairs: list[tuple[Ids, Ids]]) -> bool:
        used = sorted({token for pair in pairs for ids in pair for token in ids})

        def spelled(one: Any) -> list[str | None]:
            return [
                one.convert_ids_to_tokens(token) if token < len(one) else None for token in used
            ]

        return spelled(tokenizer) == spelled(self.like.tokenizer)


@contextlib.contextmanager
def _named(key: str, path: str) -> Iterator[None]:
    """A model that cannot be loaded is said with the key that named it."""
    try:
        yield
    except UserError as error:
        # what is wrong, without the key of the model that is evaluated
        said = str(error).partition(f"={path}: ")[2]
        raise UserError(f"{key}={path}: {said or error}") from None
