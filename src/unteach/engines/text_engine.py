"""A transformers model that continues prompts: the likeliest text of each, or samples."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unteach.config.inference import DRAWN
from unteach.distributed.process_context import SINGLE_PROCESS, DistContext
from unteach.engines import padding, token_budget
from unteach.engines.base import GENERATE, SAMPLE, Ids, ProgressCallback, Store
from unteach.engines.batching import Batch, BatchPlanner, BatchRunner, Work, get_device_type
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


class TextPlanner(BatchPlanner):
    """Plans prompts, of which each may be continued several times: then also a single one can be
    done by a smaller budget, some of its texts after the others."""

    num_texts = 1

    def lower_budget(self, failed: list[Batch]) -> bool:
        if self.num_texts == 1:
            return super().lower_budget(failed)
        self.budget = min(self.budget, *map(self.count_tokens, failed)) // 2
        widest = max(self.get_width(batch[0]) for batch in failed)
        return self.budget >= widest // self.num_texts


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
        self.reads_ahead = True

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

        kind = _name_pass(GENERATE, arguments)
        return self._run_pass(kind, prompts, 1, max_new_tokens, continue_batch, on_progress)

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

        kind = _name_pass(SAMPLE, arguments)
        return self._run_pass(
            kind, prompts, num_samples, max_new_tokens, continue_batch, on_progress
        )

    def _run_pass(
        self,
        kind: str,
        prompts: Sequence[Ids],
        num_texts: int,
        max_new_tokens: int,
        work: Work,
        on_progress: ProgressCallback,
    ) -> list[Any]:
        """Run a pass over prompts; where all texts are known, without the model, by which alone it
        could be planned.

        Args:
            num_texts: of each prompt.
        """
        if not self.list_unmeasured(kind, prompts):
            if on_progress:
                on_progress(len(prompts))
            assert self.store is not None or not prompts, "without a store nothing is known"
            return [self.store.get(kind, prompt) for prompt in prompts] if self.store else []

        def count_tokens(prompt: Ids) -> int:
            return num_texts * (len(prompt) + max_new_tokens)

        pass_name = kind.partition(" ")[0]
        budget = self.get_budget(pass_name)
        planner = TextPlanner(prompts, count_tokens, self.batch_size, budget)
        planner.num_texts = num_texts
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
        num_texts = 1 if seeds is None else len(seeds[indices[0]])
        rows = [prompts[i] for i in indices for _ in range(num_texts)]
        row_seeds = [] if seeds is None else [seed for i in indices for seed in seeds[i]]

        # The samples of one prompt may be more rows than there is memory for.
        num_at_once = len(rows)
        if num_texts > 1:
            row_tokens = max(map(len, rows)) + max_new_tokens
            fitting = max(self.get_budget(SAMPLE) // row_tokens, 1)
            num_at_once = min(self.batch_size or fitting, fitting)
        texts: list[list[int]] = []
        for start in range(0, len(rows), num_at_once):
            part = slice(start, start + num_at_once)
            texts += self._continue_rows(
                rows[part], row_seeds[part], max_new_tokens, until, sampling
            )
        return [texts[start : start + num_texts] for start in range(0, len(texts), num_texts)]

    def _continue_rows(
        self,
        rows: Sequence[Ids],
        seeds: Sequence[int],
        max_new_tokens: int,
        until: Sequence[str],
        sampling: Mapping[str, object],
    ) -> list[list[int]]:
        """Continue rows that go on together, each by a seed of its own where there are seeds."""
        library_args: dict[str, Any] = dict(sampling)
        sampler = None
        if seeds:
            # With a seed this sampler draws, and not the library.
            limits = {name: library_args.pop(name) for name in DRAWN if name in library_args}
            library_args["do_sample"] = False
            sampler = SeededSampler(build_warpers(**limits), seeds)
        continuous = ContinuousBatching(
            self,
            max_new_tokens,
            list(until),
            library_args,
            refuse_non_finite=True,
        )
        return continuous.generate(rows, sampler)

    def read_generation_settings(self) -> dict[str, Any]:
        """Read what the model's own file says of generation, and the library does not."""
        return dict(self.model.generation_config.to_diff_dict())

    def pad_rows(self, rows: list[list[int]], left: bool) -> "dict[str, Tensor]":
        return padding.pad_rows(rows, self.tokenizer.pad_token_id, self.device, left)


def _name_pass(name: str, arguments: Sequence[Any]) -> str:
    """Name a pass by all that its results depend on beside the prompts."""
    spelled = json.dumps(arguments, sort_keys=True, default=str)
    return f"{name} {spelled}"
