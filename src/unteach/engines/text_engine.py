"""A transformers model that continues prompts: the likeliest text of each, or samples."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unteach.config.inference import DRAWN
from unteach.distributed.process_context import SINGLE_PROCESS, DistContext
from unteach.engines import padding, token_budget
from unteach.engines.base import GENERATE, SAMPLE, Ids, ProgressCallback, Store
from unteach.engines.batching import Batch, BatchRunner, Work, get_device_type
from unteach.engines.generation import ContinuousBatching
from unteach.engines.sampling import SeededSampler, build_warpers
from unteach.models.decoding import list_models
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def get_context_length(model: "PreTrainedModel") -> int | None:
    """Return how many tokens a model can read; None where its configuration does not say."""
    lengths = []
    for part in list_models(model):
        length = getattr(part.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(length, int):
            lengths.append(length)
    return min(lengths, default=None)


class TextEngine(BatchRunner):
    """A transformers model that continues prompts of token ids.

    Args:
        batch_size: rows of a batch at most; None leaves it to the budget.
        store: what was measured before.
        stops: the ids at which a continuation is over; without them, the tokenizer's end of
            sequence.
    """

    def __init__(
        self,
        model: "PreTrainedModel | None",
        tokenizer: "PreTrainedTokenizerBase",
        batch_size: int | None = None,
        dist: DistContext = SINGLE_PROCESS,
        store: Store | None = None,
        stops: Sequence[int] = (),
    ):
        super().__init__(model, batch_size, dist, store)
        self.tokenizer = tokenizer
        self.stops = list(stops) or [tokenizer.eos_token_id]

    @property
    def context(self) -> int | None:
        return get_context_length(self.model)

    def get_budget(self, pass_name: str) -> int:
        if pass_name in (GENERATE, SAMPLE) and pass_name not in self.budgets:
            budget = token_budget.compute_token_budget(self.model, get_device_type())
            if budget:
                return budget
        return super().get_budget(pass_name)

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        on_progress: ProgressCallback = None,
        until: Sequence[str] = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """Continue prompts; return the ids of each, up to and without a stop.

        Args:
            until: strings after which no more is needed; what follows the first of them is not cut
                off.
            seed: of what is sampled, each prompt by its index, so that nothing depends on how
                prompts are batched; None takes the likeliest token.
            sampling: further arguments of the library's `generate()`.
        """
        settings = self.read_generation_settings()
        arguments: list[Any] = [max_new_tokens, self.stops, sampling, settings]
        if until:
            arguments.append(list(until))
        seeds = None
        if seed is not None:
            arguments.append(seed)
            seeds = [[derive_seed(seed, i)] for i in range(len(prompts))]

        def continue_batch(batch: Batch) -> list[list[int]]:
            texts = self._continue(prompts, batch, max_new_tokens, until, seeds, sampling)
            return [ids for [ids] in texts]

        def count_tokens(prompt: Ids) -> int:
            return len(prompt) + max_new_tokens

        kind = _name_pass(GENERATE, arguments)
        return self._run_pass(kind, prompts, count_tokens, continue_batch, on_progress)

    def sample(
        self,
        prompts: Sequence[Ids],
        num_samples: int,
        max_new_tokens: int,
        seed: int,
        on_progress: ProgressCallback = None,
        **sampling: object,
    ) -> list[list[list[int]]]:
        """Sample several continuations of each prompt, which is read once for all of them.

        Args:
            seed: of what is sampled; a sample depends on it, its prompt and its number, and not on
                the prompts beside it.
            sampling: further arguments of the library's `generate()`.

        Returns:
            Of each prompt the ids of its continuations, up to and without a stop.
        """
        settings = self.read_generation_settings()
        arguments = [max_new_tokens, self.stops, sampling, settings, seed, num_samples]
        seeds = []
        for prompt in prompts:
            seeds.append([derive_seed(seed, *prompt, number) for number in range(num_samples)])

        def continue_batch(batch: Batch) -> list[list[list[int]]]:
            return self._continue(prompts, batch, max_new_tokens, (), seeds, sampling)

        def count_tokens(prompt: Ids) -> int:
            return num_samples * (len(prompt) + max_new_tokens)

        kind = _name_pass(SAMPLE, arguments)
        return self._run_pass(kind, prompts, count_tokens, continue_batch, on_progress)

    def _run_pass(
        self,
        kind: str,
        prompts: Sequence[Ids],
        count_tokens: Callable[[Ids], int],
        work: Work,
        on_progress: ProgressCallback,
    ) -> list[Any]:
        """Run a pass over prompts; where all texts are known, without the model, by which alone it
        could be planned.

        Args:
            count_tokens: of what a prompt comes to at most.
        """
        if not self.list_unmeasured(kind, prompts):
            if on_progress:
                on_progress(len(prompts))
            assert self.store is not None or not prompts, "without a store nothing is known"
            return [self.store.get(kind, prompt) for prompt in prompts] if self.store else []
        planner = self.build_planner(kind.partition(" ")[0], prompts, count_tokens)
        # A batch leaves something to do for every process.
        prompts_per_process = math.ceil(len(prompts) / self.dist.world_size)
        planner.max_items = min(planner.max_items, prompts_per_process)
        return self.measure(kind, planner, work, on_progress)

    def _continue(
        self,
        prompts: Sequence[Ids],
        batch: Batch,
        max_new_tokens: int,
        until: Sequence[str],
        seeds: Sequence[Sequence[int]] | None,
        sampling: Mapping[str, object],
    ) -> list[list[list[int]]]:
        """Continue the prompts of a batch, each as often as it has seeds; without any, once, by the
        likeliest tokens."""
        indices = [i for [i] in batch]
        library_args: dict[str, Any] = dict(sampling)
        sampler = None
        num_texts = 1
        if seeds is not None:
            # With a seed this sampler draws, and not the library.
            limits = {name: library_args.pop(name) for name in DRAWN if name in library_args}
            library_args["do_sample"] = False
            num_texts = len(seeds[indices[0]])
            row_seeds = [seed for i in indices for seed in seeds[i]]
            sampler = SeededSampler(build_warpers(**limits), row_seeds)
        continuous = ContinuousBatching(
            self,
            max_new_tokens,
            list(until),
            library_args,
            refuse_non_finite=True,
        )
        rows = [prompts[i] for i in indices for _ in range(num_texts)]
        max_rows = self.batch_size if num_texts > 1 else None
        texts = continuous.generate(rows, sampler, max_rows)
        return [texts[start : start + num_texts] for start in range(0, len(texts), num_texts)]

    def read_generation_settings(self) -> dict[str, Any]:
        """Read what the model's own file says of generation, and the library does not."""
        return dict(self.model.generation_config.to_diff_dict())

    def pad_rows(self, rows: list[list[int]], left: bool) -> "dict[str, Tensor]":
        return padding.pad_rows(rows, self.tokenizer.pad_token_id, self.device, left)


def _name_pass(name: str, arguments: Sequence[Any]) -> str:
    """Name a pass by all that its results depend on beside the prompts."""
    spelled = json.dumps(arguments, sort_keys=True, default=str)
    return f"{name} {spelled}"
