"""One of the models of an audit: loaded when something must be measured for the first time, and
let go before the next one is."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unteach import fingerprints
from unteach.config.schema import ModelConfig
from unteach.data.template import Template
from unteach.data.tokenized.token_files import build_template_facts, hash_tokenizer
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Engine
from unteach.evals.measurement_cache import Store
from unteach.evals.other_models import DeferredEngine
from unteach.models import loading
from unteach.models.placement import place_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Change = Callable[["PreTrainedModel"], contextlib.AbstractContextManager[object]]
"""Changes a model's weights in place, and back at the end."""


@dataclass
class AuditedModel:
    """A model by its configuration.

    Attributes:
        config: where it is, and how it is asked.
        batch_size: rows of a batch at most; None leaves it to the memory.
        cache: the folder of measurements.
        dist: the processes that share the passes.
    """

    config: ModelConfig
    batch_size: int | None
    cache: Path
    dist: DistContext

    @functools.cached_property
    def empty(self) -> loading.LoadedModel:
        """The model without its weights."""
        return loading.load_empty(self.config)

    @property
    def template(self) -> Template:
        return self.empty.template

    @functools.cached_property
    def identity(self) -> str:
        """What tells its weights from all others."""
        return self.empty.identity(self.cache / fingerprints.MEMORY_FILE)

    @functools.cached_property
    def tokenization(self) -> str:
        """What tells how it makes tokens of rows from all other ways: tokenizer and template."""
        rules = [hash_tokenizer(self.empty.tokenizer), build_template_facts(self.template)]
        return fingerprints.hash_value(rules)

    def find_weights(self) -> ModelConfig:
        """Find what its weights are loaded by."""
        return self.config

    @functools.cached_property
    def model(self) -> "PreTrainedModel":
        """The model with its weights, on its device."""
        loaded = loading.load(self.find_weights(), training=False)
        placed: PreTrainedModel = place_model(loaded.model, self.dist)
        return placed

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are in memory."""
        return "model" in self.__dict__

    def release(self) -> None:
        """Let the weights go; they are loaded again where they are needed."""
        self.__dict__.pop("model", None)

    @contextlib.contextmanager
    def open_engine(self, label: str = "", change: Change | None = None) -> Iterator[Engine]:
        """Open an engine that runs the model.

        Args:
            label: what tells changed weights from the model's own.
            change: changes the weights while the engine is open; not called where the cache has all
                that is asked.
        """
        weights = f"{self.identity} {label}".strip()
        store = Store(self.cache, weights, self.empty.compute, self.dist.rank)
        with contextlib.ExitStack() as changes:

            def load() -> "PreTrainedModel":
                if change is not None:
                    changes.enter_context(change(self.model))
                return self.model

            yield DeferredEngine(
                load,
                self.empty.tokenizer,
                self.batch_size,
                self.dist,
                store,
                self.template.stops,
                empty=self.empty.model,
            )
