"""transformers in this process: the engine that evaluates, on the rows of a table."""

import logging
from array import array
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unteach.config.inference import DRAWN, Sampling
from unteach.engines.base import Pair
from unteach.engines.batching import Batch
from unteach.engines.finiteness import NEVER, NOT_FINITE, FiniteCheck
from unteach.engines.generation import ContinuousBatching, find_stop
from unteach.engines.hf import HFEngine
from unteach.engines.sampling import build_repetition_penalty
from unteach.errors import UserError
from unteach.inference.backends.base import (
    Answered,
    AnswerScore,
    Completion,
    Failure,
    Job,
    Request,
    Session,
    cut,
)
from unteach.inference.backends.classifier import ClassifierSession
from unteach.inference.backends.hf_vlm import VisionSession
from unteach.inference.backends.local_batches import (
    PoolPlanner,
    build_sampler,
    find_finish_reason,
    run_batches,
)
from unteach.lazy import transformers
from unteach.models import loading, placement
from unteach.models.capabilities import get_capabilities
from unteach.models.layers import unwrap_model
from unteach.registry import backend

if TYPE_CHECKING:
    from transformers import GenerationConfig

logger = logging.getLogger(__name__)

TOKENS = {"cuda": 32768, "cpu": 8192}
"""Tokens of the rows that are continued at once, with those to come, until memory says
otherwise."""
ROWS_PER_SLOT = 4
"""Rows of a pool to each of its slots."""


@backend("hf")
@dataclass
class HuggingFace:
    """transformers in this process: rows sorted by length, in batches that the memory corrects.

    batch_size: rows of a batch at most. tokens_per_batch: its padded tokens at most, with those to
    come; null begins with what suits the device. Both are halved together where memory runs out.
    """

    batch_size: int | None = None
    tokens_per_batch: int | None = None

    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        (
            *DRAWN,
            "do_sample",
            "repetition_penalty",
            "num_beams",
            "num_return_sequences",
            "stop_strings",
            "perplexity",
        )
    )
    KINDS: ClassVar[frozenset[str]] = frozenset({"generate", "score", "classify"})
    MODALITIES: ClassVar[frozenset[str]] = frozenset({"lm", "vlm"})
    LOCAL: ClassVar[bool] = True
    DECODES: ClassVar[bool] = True
    FREE: ClassVar[frozenset[str]] = frozenset({"batch_size", "tokens_per_batch"})

    def __post_init__(self) -> None:
        for name in ("batch_size", "tokens_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")

    def check(self) -> None:
        """Nothing can be wrong with what is imported anyway."""

    def open(self, job: Job) -> Session:
        if job.kind == "classify":
            return ClassifierSession(job, self.batch_size, self.tokens_per_batch)
        if job.modality == "vlm":
            return VisionSession(job, self.batch_size, self.tokens_per_batch)
        return CausalLMSession(job, self.batch_size, self.tokens_per_batch)


NO_TEXT = (
    "_",
    "output_",
    "return_",
    "use_cache",
    "cache_",
    "transformers_version",
    "pad_token",
    "bos_token",
    "eos_token",
)
"""How names of generation settings begin that change no text."""


def describe_unused(own_settings: "GenerationConfig") -> str:
    """Name what a model's own file says of how it wants to be sampled."""
    settings = []
    for name, value in own_settings.to_diff_dict().items():
        if not name.startswith(NO_TEXT):
            settings.append(f"{name}={value}")
    return ", ".join(settings)


@dataclass
class GeneratedTexts:
    """The texts of a batch of requests, one request after the other.

    Attributes:
        ids: of each text, without its end.
        broken: the requests, by their index in the batch, whose logits were not finite.
    """

    ids: list[list[int]]
    broken: set[int]


class CausalLMSession:
    """A causal language model that continues or scores."""

    labels: Sequence[str] = ()

    def __init__(
        self,
        job: Job,
        batch_size: int | None,
        tokens_per_batch: int | None,
    ):
        self.loaded = loaded = loading.load(job.model, training=False)
        loaded.model = placement.place_model(loaded.model, job.dist)
        own_settings = loaded.model.generation_config
        unused = describe_unused(own_settings)
        if unused and job.dist.is_main and job.kind == "generate":
            logger.info(
                f"the model's own generation settings are not used ({unused}); say what you "
                f"want of them"
            )

        # A text ends where the template or the model's own settings end one.
        own_stops = own_settings.eos_token_id or []
        if isinstance(own_stops, int):
            own_stops = [own_stops]
        stops = list(dict.fromkeys([*loaded.template.stops, *own_stops]))
        settings = transformers.GenerationConfig(
            pad_token_id=loaded.tokenizer.pad_token_id,
            eos_token_id=stops,
        )
        loaded.model.generation_config = settings
        unwrap_model(loaded.model).generation_config = settings

        self.engine = HFEngine(
            loaded.model,
            loaded.tokenizer,
            batch_size,
            job.dist,
            stops=stops,
        )
        device_type = "cuda" if job.dist.device.type == "cuda" else "cpu"
        self.engine.budgets["generate"] = tokens_per_batch or TOKENS[device_type]
        if tokens_per_batch:
            self.engine.budgets["score"] = tokens_per_batch

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Set[int],
    ) -> Answered:
        """Continue the prompts of requests."""
        num_beams = sampling.num_beams or 1
        lengths = (len(request.prompt) + sampling.max_new_tokens for request in requests)
        planner = PoolPlanner(
            array("q", lengths),
            self.engine.batch_size,
            self.engine.get_budget("generate"),
            texts_per_row=max(sampling.num_return_sequences, num_beams),
            rows_per_slot=1 if num_beams > 1 else ROWS_PER_SLOT,
            num_processes=self.engine.dist.world_size,
        )

        def answer_batch(batch: Batch) -> list[list[Completion] | Failure]:
            batch_requests = [requests[i] for [i] in batch]
            num_slots = planner.count_slots(batch[0]) * planner.texts_per_row
            with self.loaded.autocast():
                if num_beams > 1:
                    texts = self._search_beams(batch_requests, sampling)
                else:
                    texts = self._continue(batch_requests, sampling, num_slots)
                completions = self._build_completions(
                    batch_requests,
                    texts.ids,
                    sampling,
                    num_slots,
                )
            # Nothing that is made of such logits means anything.
            answers: list[list[Completion] | Failure] = [*completions]
            for i in texts.broken:
                answers[i] = Failure(NOT_FINITE)
            return answers

        yield from run_batches(
            self.engine,
            "generate",
            requests,
            planner,
            answer_batch,
            done,
        )

    def _continue(
        self,
        requests: list[Request],
        sampling: Sampling,
        num_slots: int,
    ) -> GeneratedTexts:
        """Continue requests.

        Args:
            num_slots: texts that go on at once.
        """
        num_texts = sampling.num_return_sequences
        prompts = []
        for request in requests:
            prompts += [request.prompt] * num_texts
        library_args: dict[str, Any] = {}
        if sampling.repetition_penalty:
            library_args["repetition_penalty"] = sampling.repetition_penalty
        batching = ContinuousBatching(
            self.engine,
            sampling.max_new_tokens,
            sampling.stop_strings,
            library_args,
        )
        ids = batching.generate(prompts, build_sampler(requests, sampling), num_slots)
        broken = {text_index // num_texts for text_index in batching.non_finite}
        return GeneratedTexts(ids, broken)

    def _search_beams(self, requests: list[Request], sampling: Sampling) -> GeneratedTexts:
        """Do the same by the library's beam search.

        All go at once where the model takes rows of unequal lengths, and else one by one.
        """
        if get_capabilities(self.engine.model).continuing:
            return self._search_batch(requests, sampling)
        texts = GeneratedTexts([], set())
        for i, request in enumerate(requests):
            request_texts = self._search_batch([request], sampling)
            texts.ids += request_texts.ids
            if request_texts.broken:
                texts.broken.add(i)
        return texts

    def _search_batch(self, requests: list[Request], sampling: Sampling) -> GeneratedTexts:
        """Search for the likeliest texts of a batch in one go."""
        tensors = self.engine.pad_rows([list(request.prompt) for request in requests], left=True)
        finite = FiniteCheck()
        processors: list[Any] = [finite]
        penalty = build_repetition_penalty(sampling.repetition_penalty)
        if penalty:
            penalty.mask = tensors["attention_mask"]
            processors.append(penalty)
        library_args: dict[str, Any] = {}
        if sampling.stop_strings:
            library_args["stop_strings"] = sampling.stop_strings
            library_args["tokenizer"] = self.engine.tokenizer
        sequences = self.engine.model.generate(
            **tensors,
            **library_args,
            logits_processor=processors,
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            num_beams=sampling.num_beams,
            num_return_sequences=sampling.num_return_sequences,
        )
        rows: list[list[int]] = sequences[:, tensors["input_ids"].shape[1] :].tolist()
        ids = [row[: find_stop(row, self.engine.stops)] for row in rows]
        broken = set()
        for i, is_broken in enumerate(finite.find_broken([NEVER] * len(requests))):
            if is_broken:
                broken.add(i)
        return GeneratedTexts(ids, broken)

    def _build_completions(
        self,
        requests: list[Request],
        texts: list[list[int]],
        sampling: Sampling,
        num_slots: int,
    ) -> list[list[Completion]]:
        """Turn ids into completions, those of each request in one list.

        Args:
            texts: ids, one request after the other.
            num_slots: texts that are scored at once for their perplexity.
        """
        num_texts = sampling.num_return_sequences
        decode = self.loaded.template.decode
        cuts = [cut(ids, decode, sampling.stop_strings) for ids in texts]
        logprobs: list[tuple[float, ...] | None] = [None] * len(texts)
        if sampling.perplexity:
            pairs: list[Pair] = []
            for i, (ids, cut_text) in enumerate(zip(texts, cuts, strict=True)):
                pairs.append((requests[i // num_texts].prompt, tuple(ids[: cut_text.tokens])))
            logprobs = [*self._score_texts(pairs, num_slots)]

        completions: list[list[Completion]] = [[] for _ in requests]
        for i, (ids, cut_text) in enumerate(zip(texts, cuts, strict=True)):
            finish = find_finish_reason(cut_text.stopped, len(ids), sampling.max_new_tokens)
            completion = Completion(cut_text.text, finish, cut_text.tokens, logprobs[i])
            completions[i // num_texts].append(completion)
        return completions

    def _score_texts(self, pairs: list[Pair], batch_size: int) -> list[tuple[float, ...]]:
        """Return the log-probs of texts after their prompts; of an empty one there are none."""
        logprobs: list[tuple[float, ...]] = [()] * len(pairs)
        indices = [i for i, (_, text) in enumerate(pairs) if text]
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            scores = self.engine.score_rows([[pairs[i]] for i in batch])
            for i, score in zip(batch, scores, strict=True):
                logprobs[i] = tuple(map(float, score.logprob))
        return logprobs

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        """Score the answers of requests."""
        pairs = [(request.prompt, request.answer) for request in requests]

        def score_batch(batch: Batch) -> list[AnswerScore]:
            with self.loaded.autocast():
                scores = self.engine.score_batch(pairs, batch)
            return [AnswerScore(tuple(map(float, score.logprob))) for score in scores]

        planner = self.engine.plan_scores(pairs)
        yield from run_batches(
            self.engine,
            "score",
            requests,
            planner,
            score_batch,
            done,
        )

    def classify(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("a language model has no classes")

    def close(self) -> None:
        """Nothing stays open."""
