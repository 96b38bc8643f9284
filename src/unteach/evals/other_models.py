"""Other models than the one that is evaluated: a reference, the retain model, a classifier of
texts.

Each is loaded only if its store lacks something, and freed afterwards.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import fingerprints, run_dir
from unteach.config.schema import ModelConfig
from unteach.config.suites import SuiteConfig
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Ids, ProgressCallback, Score
from unteach.engines.classifier import Classifier
from unteach.engines.hf import HFEngine
from unteach.engines.text_engine import get_context_length
from unteach.errors import UserError
from unteach.evals import suite_plan, suites
from unteach.evals.base import Progress, Value
from unteach.evals.measurement_cache import Store
from unteach.lazy import torch, transformers
from unteach.models import integrity, loading, model_handlers
from unteach.models.placement import place_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class DeferredEngine(HFEngine):
    """Run a model that is loaded when it must measure something for the first time.

    Args:
        load: loads it.
        empty: the same without its weights, by whose settings of generation the texts that it
            wrote are found; None: by its own.
    """

    def __init__(
        self,
        load: Callable[[], "PreTrainedModel"],
        tokenizer: "PreTrainedTokenizerBase",
        batch_size: int | None,
        dist: DistContext,
        store: Store,
        stops: Sequence[int] = (),
        empty: "PreTrainedModel | None" = None,
    ):
        self._load = load
        self._empty = empty
        super().__init__(None, tokenizer, batch_size, dist, store, stops)

    @functools.cached_property
    def model(self) -> "PreTrainedModel":  # type: ignore[override]
        return self._load()

    def read_generation_settings(self) -> dict[str, Any]:
        if self._empty is None:
            return super().read_generation_settings()
        return dict(self._empty.generation_config.to_diff_dict())


class OtherModels:
    """Run other models in the precision of the one that is evaluated.

    Attributes:
        evaluated: the model that is evaluated; a reference reads its tokens.
        batch_size: an upper bound; None leaves it to the memory.
        dist: the processes that share the passes.
        cache: the folder of measurements.
        progress: shows each pass.
    """

    def __init__(
        self,
        evaluated: loading.LoadedModel,
        batch_size: int | None,
        dist: DistContext,
        cache: Path,
        progress: Progress,
    ):
        self.evaluated = evaluated
        self.batch_size = batch_size
        self.dist = dist
        self.cache = cache
        self.progress = progress

    def score(
        self,
        path: str,
        pairs: list[tuple[Ids, Ids]],
        on_progress: ProgressCallback,
    ) -> list[Score]:
        """Score the same tokens by a reference model.

        Raises:
            UserError: its tokenizer spells them otherwise.
        """
        folder = run_dir.find_model_folder(path)
        tokenizer, config = _load_tokenizer_and_config("reference_model_path", path, folder)
        if not self._has_same_tokens(tokenizer, pairs):
            raise UserError(
                f"reference_model_path={path}: its tokenizer is another than the model's; "
                "mia_reference subtracts losses over the same tokens. Name a model with the same "
                "tokenizer."
            )
        weights = loading.identify_model(folder, config, self.cache / fingerprints.MEMORY_FILE)
        model_config = ModelConfig({model_handlers.PATH: folder})
        with self._outside_autocast():
            engine = self._build_engine(model_config, self.evaluated.tokenizer, weights)
            return engine.score(pairs, on_progress)

    def evaluate(self, path: str, configs: dict[str, SuiteConfig]) -> dict[str, dict[str, Value]]:
        """Run whole suites on a retain model, for its log, in the template of the evaluated one."""
        config = ModelConfig(
            {model_handlers.PATH: path},
            template_args=self.evaluated.template.args,
        )
        with _name_key_in_errors("retain_model", path):
            empty = loading.load_empty(config)
        weights = empty.identity(self.cache / fingerprints.MEMORY_FILE)
        engine = self._build_engine(config, empty.tokenizer, weights, empty.template.stops)

        def progress(what: str, total: int) -> Callable[[int], None]:
            return self.progress(f"{what}, {Path(path).name}", total)

        context = get_context_length(empty.model)
        with self._outside_autocast():
            plans = suite_plan.plan_all(configs, empty.template, context)
            return suites.carry_out(plans, engine, progress, None, self)

    def classify(
        self,
        path: str,
        texts: Sequence[str],
        on_progress: ProgressCallback,
    ) -> list[dict[str, float]]:
        """Give texts' class probabilities by a sequence classifier."""
        tokenizer, config = _load_tokenizer_and_config("classifier_path", path, path)
        weights = loading.identify_model(path, config, self.cache / fingerprints.MEMORY_FILE)

        def load() -> "PreTrainedModel":
            with _name_key_in_errors("classifier_path", path):
                auto = transformers.AutoModelForSequenceClassification
                model = integrity.load_model(auto, path, use_safetensors=True)
                integrity.refuse_not_finite(model, path)
                return model.to(self._find_device())  # type: ignore[arg-type]

        store = Store(self.cache, weights, "float32", self.dist.rank)
        num_labels = len(config.id2label)
        labels = [config.id2label[number] for number in range(num_labels)]
        with self._outside_autocast():
            classifier = Classifier(
                load,
                tokenizer,
                config,
                self.batch_size,
                self.dist,
                store,
            )
            probabilities_by_text = classifier.probabilities(texts, on_progress)
        named = []
        for probabilities in probabilities_by_text:
            named.append(dict(zip(labels, probabilities, strict=True)))
        return named

    def _build_engine(
        self,
        config: ModelConfig,
        tokenizer: "PreTrainedTokenizerBase",
        weights: str,
        stops: Sequence[int] = (),
    ) -> HFEngine:
        """Build the engine of a model that is loaded in the precision of the evaluated one."""
        model_args = {**config.model_args, "dtype": self.evaluated.compute}
        same_precision = replace(config, model_args=model_args)

        def load() -> "PreTrainedModel":
            loaded = loading.load(same_precision, training=False)
            model: PreTrainedModel = place_model(loaded.model, self.dist)
            return model

        store = Store(self.cache, weights, self.evaluated.compute, self.dist.rank)
        return DeferredEngine(
            load,
            tokenizer,
            self.batch_size,
            self.dist,
            store,
            stops,
        )

    def _find_device(self) -> "torch.device":
        """Find where the evaluated model runs; a sharded one has parameters in several places."""
        if self.dist.is_sharded:
            return self.dist.device
        device: torch.device = next(self.evaluated.model.parameters()).device
        return device

    @contextlib.contextmanager
    def _outside_autocast(self) -> Iterator[None]:
        """Leave a training run's autocast, as these weights are in its precision already; free
        their memory afterwards."""
        with torch.autocast(self._find_device().type, enabled=False):
            yield
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _has_same_tokens(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pairs: list[tuple[Ids, Ids]],
    ) -> bool:
        """Say whether a tokenizer spells all tokens of some pairs as the evaluated model's does."""
        token_ids: set[int] = set()
        for prompt, answer in pairs:
            token_ids.update(prompt, answer)
        own_tokenizer = self.evaluated.tokenizer
        for token_id in token_ids:
            if _spell(tokenizer, token_id) != _spell(own_tokenizer, token_id):
                return False
        return True


def _spell(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> str | None:
    """Spell one token; None where the vocabulary is too small for it."""
    if token_id >= len(tokenizer):
        return None
    return str(tokenizer.convert_ids_to_tokens(token_id))


def _load_tokenizer_and_config(
    key: str,
    path: str,
    folder: str,
) -> "tuple[PreTrainedTokenizerBase, Any]":
    """Load what belongs to a model without its weights.

    Args:
        key: names the model in the suite.
        path: the key's value, for messages.
        folder: where the model is.
    """
    with _name_key_in_errors(key, path):
        tokenizer = model_handlers.load_tokenizer(folder, {}, {})
        config: Any = model_handlers.from_hub(transformers.AutoConfig, folder)
    return tokenizer, config


@contextlib.contextmanager
def _name_key_in_errors(key: str, path: str) -> Iterator[None]:
    """Have the message about a model that cannot be loaded begin with the key that named it."""
    try:
        yield
    except UserError as error:
        # What is wrong, without the key of the model that is evaluated.
        reason = str(error).partition(f"={path}: ")[2]
        raise UserError(f"{key}={path}: {reason or error}") from None
