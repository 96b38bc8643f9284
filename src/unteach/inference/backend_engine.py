"""A backend that runs a model in this process, as vLLM, made an engine: what is measured is kept,
and found again."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unteach.config.inference import Sampling
from unteach.config.schema import ModelConfig
from unteach.distributed.process_context import DistContext
from unteach.engines.base import (
    GENERATE,
    SAMPLE,
    WHOLE_DISTRIBUTION,
    Ids,
    Pair,
    ProgressCallback,
    Score,
    Store,
)
from unteach.engines.text_engine import get_context_length
from unteach.errors import UserError
from unteach.inference.backends.base import Answer, AnswerScore, Failure, Job, Request, Session
from unteach.models import loading
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from unteach.inference.backends.vllm import VLLM

SCORE = "score"
WRITTEN_TOGETHER = 64
"""Measurements that are put on disk at once."""
LARGEST_SEED = 1 << 31


class BackendEngine:
    """A model that a backend runs, from when something must be measured for the first time.

    Args:
        backend: runs it.
        model: which model, and how it is loaded.
        longest: tokens of the longest prompt with what may follow it.
        store: what was measured before.
    """

    def __init__(
        self,
        backend: "VLLM",
        dist: DistContext,
        model: ModelConfig,
        longest: int,
        store: Store,
    ):
        self.backend = backend
        self.model = model
        self.store = store
        self.job = Job(model, "generate", Sampling(), dist, longest=longest)

    @functools.cached_property
    def session(self) -> Session:
        session: Session = self.backend.open(self.job)
        return session

    @property
    def context(self) -> int | None:
        return get_context_length(loading.load_empty(self.model).model)

    @functools.cached_property
    def repetition_penalty(self) -> float | None:
        """What the model's own file says; transformers applies it to the likeliest text."""
        empty = loading.load_empty(self.model)
        penalty: float | None = empty.model.generation_config.repetition_penalty
        return penalty

    def close(self) -> None:
        """Stop the model, if it was started."""
        if "session" in self.__dict__:
            self.session.close()
            del self.__dict__["session"]

    def score(self, pairs: Sequence[Pair], on_progress: ProgressCallback = None) -> list[Score]:
        """Score (prompt, answer) pairs; a backend gives the log-prob of each token, and neither
        whether it was the likeliest nor what the others had (NaN)."""

        def build_request(i: int) -> Request:
            prompt, answer = pairs[i]
            return Request(i, prompt=prompt, answer=answer)

        def ask(requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
            return self.session.score(requests, set())

        def read(i: int, answer: Answer) -> Score:
            assert isinstance(answer, AnswerScore), "it was asked for scores"
            logprob = np.array(answer.logprobs, dtype=np.float32)
            unknown = np.full_like(logprob, np.nan)
            token = np.array(pairs[i][1], dtype=np.int64)
            return Score(token[len(token) - len(logprob) :], logprob, unknown, unknown, unknown)

        results: list[Score] = self._measure(SCORE, pairs, build_request, ask, read, on_progress)
        return results

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        on_progress: ProgressCallback = None,
        until: Sequence[str] = (),
        **sampling: object,
    ) -> list[list[int]]:
        """Continue prompts by their likeliest tokens; return the ids of each, without a stop."""
        assert not until and not sampling, "only the likeliest text is asked for"
        greedy = Sampling(max_new_tokens, repetition_penalty=self.repetition_penalty)
        texts = self._continue(GENERATE, prompts, greedy, 0, on_progress)
        return [ids for [ids] in texts]

    def sample(
        self,
        prompts: Sequence[Ids],
        num_samples: int,
        max_new_tokens: int,
        seed: int,
        on_progress: ProgressCallback = None,
        **sampling: object,
    ) -> list[list[list[int]]]:
        """Sample several continuations of each prompt, by seeds of the prompt alone."""
        assert sampling == WHOLE_DISTRIBUTION, "the whole distribution is drawn from"
        drawn = Sampling(max_new_tokens, temperature=1.0, num_return_sequences=num_samples)
        return self._continue(SAMPLE, prompts, drawn, seed, on_progress)

    def grad_norms(
        self, pairs: Sequence[Pair], p: float, on_progress: ProgressCallback = None
    ) -> list[float]:
        raise AssertionError("a backend takes no gradients")

    def _continue(
        self,
        name: str,
        prompts: Sequence[Ids],
        sampling: Sampling,
        seed: int,
        on_progress: ProgressCallback,
    ) -> list[list[list[int]]]:
        def build_request(i: int) -> Request:
            own_seed = derive_seed(seed, *prompts[i]) % LARGEST_SEED
            return Request(i, prompt=prompts[i], seed=own_seed)

        def ask(requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
            return self.session.generate(requests, sampling, set())

        def read(i: int, answer: Answer) -> list[list[int]]:
            assert isinstance(answer, list), "it was asked for texts"
            return [list(completion.ids) for completion in answer]

        settings = [sampling.max_new_tokens, sampling.num_return_sequences, seed]
        arguments = json.dumps([*settings, sampling.repetition_penalty])
        # Its first word says how the store keeps the results: as a list of texts.
        kind = f"{SAMPLE} {name} {arguments}"
        texts: list[list[list[int]]] = self._measure(
            kind, prompts, build_request, ask, read, on_progress
        )
        return texts

    def _measure(
        self,
        kind: str,
        items: Sequence[Any],
        build_request: Callable[[int], Request],
        ask: Callable[[Sequence[Request]], Iterator[tuple[int, Answer]]],
        read: Callable[[int, Answer], Any],
        on_progress: ProgressCallback,
    ) -> list[Any]:
        """Return the result of each item: those in the store, and the others by the backend."""
        results = [self.store.get(kind, item) for item in items]
        missing = [i for i, result in enumerate(results) if result is None]
        if on_progress:
            on_progress(len(items) - len(missing))
        if not missing:
            return results
        unwritten: list[int] = []
        try:
            for i, answer in ask([build_request(i) for i in missing]):
                if isinstance(answer, Failure):
                    raise UserError(f"backend: no answer to a question of this audit: {answer.why}")
                results[i] = read(i, answer)
                unwritten.append(i)
                if len(unwritten) == WRITTEN_TOGETHER:
                    self._write(kind, items, results, unwritten)
                if on_progress:
                    on_progress(1)
                self.job.dist.check_preemption()
        finally:
            self._write(kind, items, results, unwritten)
        return results

    def _write(
        self, kind: str, items: Sequence[Any], results: Sequence[Any], unwritten: list[int]
    ) -> None:
        """Put what is measured and not written yet into the store."""
        if unwritten:
            self.store.put(kind, [items[i] for i in unwritten], [results[i] for i in unwritten])
            unwritten.clear()
