"""transformers in this process: the engine that evaluates, on the rows of a table."""

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from unteach.config.inference import DRAWN, Sampling
from unteach.engines.batching import Row
from unteach.engines.finiteness import NEVER, NOT_FINITE, FiniteCheck
from unteach.engines.generation import ContinuousBatching
from unteach.engines.hf import HFEngine
from unteach.engines.sampling import SeededSampler, build_repetition_penalty, build_warpers
from unteach.errors import UserError
from unteach.inference.backends.base import (
    Answered,
    Completion,
    Failure,
    Job,
    Request,
    Scored,
    Session,
    cut,
)
from unteach.inference.backends.classifier import ClassifierSession
from unteach.inference.backends.hf_vlm import VisionSession
from unteach.inference.backends.local_batches import Pools, find_finish_reason, run_batches
from unteach.lazy import transformers
from unteach.models import loading, placement
from unteach.models.capabilities import get_capabilities
from unteach.models.layers import unwrap_model
from unteach.registry import backend
from unteach.seeds import subseed

logger = logging.getLogger(__name__)

TOKENS = {"cuda": 32768, "cpu": 8192}
"""Tokens of the rows that are continued at once, with those to come, until memory says
otherwise."""
TURNS = 4
"""Rows of a pool to each of its places."""


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
    FREE: ClassVar[frozenset[str]] = frozenset({"batch_size", "tokens_per_batch"})

    def __post_init__(self) -> None:
        for name in ("batch_size", "tokens_per_batch"):
            if (value := getattr(self, name)) is not None and value < 1:
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


def not_used(own: Any) -> str:
    """What a model's own file says of how it wants to be sampled, in words."""
    said = own.to_diff_dict().items()
    return ", ".join(f"{name}={value}" for name, value in said if not name.startswith(NO_TEXT))


class CausalLMSession:
    """A causal language model that continues or scores."""

    labels: Sequence[str] = ()

    def __init__(self, job: Job, batch_size: int | None, tokens_per_batch: int | None):
        self.loaded = loaded = loading.load(job.model, training=False)
        loaded.model = placement.place_model(loaded.model, job.dist)
        own = loaded.model.generation_config
        if job.dist.is_main and job.kind == "generate" and (unused := not_used(own)):
            logger.info(
                f"the model's own generation settings are not used ({unused}); say what you "
                f"want of them"
            )
        ids = [own.eos_token_id] if isinstance(own.eos_token_id, int) else own.eos_token_id or []
        stops = list(dict.fromkeys((*loaded.template.stops, *ids)))
        plain = transformers.GenerationConfig(
            pad_token_id=loaded.tokenizer.pad_token_id, eos_token_id=stops
        )
        loaded.model.generation_config = unwrap_model(loaded.model).generation_config = plain
        self.engine = HFEngine(loaded.model, loaded.tokenizer, batch_size, job.dist, stops=stops)
        self.engine.budgets["generate"] = (
            tokens_per_batch or TOKENS["cuda" if job.dist.device.type == "cuda" else "cpu"]
        )
        if tokens_per_batch:
            self.engine.budgets["score"] = tokens_per_batch

    def generate(self, requests: Sequence[Request], sampling: Sampling, done: Set[int]) -> Answered:
        engine, beams = self.engine, sampling.num_beams or 1
        batching = Pools(
            requests,
            lambda request: len(request.prompt) + sampling.max_new_tokens,
            engine.batch_size,
            engine.budget("generate"),
            times=max(sampling.num_return_sequences, beams),
            turns=1 if beams > 1 else TURNS,
            world=engine.dist.world_size,
        )

        def work(batch: list[Row]) -> list[list[Completion] | Failure]:
            asked = [requests[i] for [i] in batch]
            slots = batching.places(batch[0]) * batching.times
            with self.loaded.autocast():
                made, broken = (
                    self._beams(asked, sampling)
                    if beams > 1
                    else self._continued(asked, sampling, slots)
                )
                completions = self._completions(asked, made, sampling, slots)
            return [
                Failure(NOT_FINITE) if i in broken else one for i, one in enumerate(completions)
            ]

        yield from run_batches(engine, "generate", requests, batching, work, done)

    def _continued(
        self, asked: list[Request], sampling: Sampling, slots: int
    ) -> tuple[list[list[int]], set[int]]:
        """The ids of each request's continuations, one request after the other, and the requests
        whose logits were not finite; so many go on at once."""
        times, draw = sampling.num_return_sequences, None
        if sampling.drawn:
            cuts = build_warpers(**{name: getattr(sampling, name) for name in DRAWN})
            draw = SeededSampler(
                cuts, [subseed(request.seed, turn) for request in asked for turn in range(times)]
            )
        given = (
            {"repetition_penalty": sampling.repetition_penalty}
            if sampling.repetition_penalty
            else {}
        )
        batching = ContinuousBatching(
            self.engine, sampling.max_new_tokens, sampling.stop_strings, given
        )
        made = batching.generate(
            [request.prompt for request in asked for _ in range(times)], draw, slots
        )
        return made, {row // times for row in batching.non_finite}

    def _beams(self, asked: list[Request], sampling: Sampling) -> tuple[list[list[int]], set[int]]:
        """The same by the library's beam search: in one go, where the model takes rows of unequal
        lengths."""
        if get_capabilities(self.engine.model).continuing:
            return self._search(asked, sampling)
        made, broken = list[list[int]](), set[int]()
        for i, request in enumerate(asked):
            rows, is_broken = self._search([request], sampling)
            made += rows
            broken |= {i} if is_broken else set()
        return made, broken

    def _search(self, asked: list[Request], sampling: Sampling) -> tuple[list[list[int]], set[int]]:
        tensors = self.engine._pad_rows([list(request.prompt) for request in asked], left=True)
        finite = FiniteCheck()
        given: dict[str, Any] = {"logits_processor": [finite]}
        if sampling.stop_strings:
            given |= {"stop_strings": sampling.stop_strings, "tokenizer": self.engine.tokenizer}
        if repeated := build_repetition_penalty(sampling.repetition_penalty):
            repeated.mask = tensors["attention_mask"]
            given["logits_processor"].append(repeated)
        made = self.engine.model.generate(
            **tensors,
            **given,
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            num_beams=sampling.num_beams,
            num_return_sequences=sampling.num_return_sequences,
        )
        rows: list[list[int]] = made[:, tensors["input_ids"].shape[1] :].tolist()
        stops = set(self.engine.stops)
        cut = [
            row[: next((i for i, token in enumerate(row) if token in stops), len(row))]
            for row in rows
        ]
        return cut, {
            i for i, is_broken in enumerate(finite.find_broken([NEVER] * len(asked))) if is_broken
        }

    def _completions(
        self, asked: list[Request], made: list[list[int]], sampling: Sampling, slots: int
    ) -> list[list[Completion]]:
        times = sampling.num_return_sequences
        text = self.loaded.template.decode
        stop_strings = sampling.stop_strings
        cuts = [cut(ids, text, stop_strings) for ids in made]
        prompts = [request.prompt for request in asked for _ in range(times)]
        pairs = [
            (prompt, tuple(ids[: one.tokens]))
            for prompt, ids, one in zip(prompts, made, cuts, strict=True)
        ]
        logprobs: list[tuple[float, ...] | None] = [None] * len(made)
        if sampling.perplexity:
            said = [i for i, (_, answer) in enumerate(pairs) if answer]
            parts = [said[i : i + slots] for i in range(0, len(said), slots)]
            scored = [
                score for part in parts for score in self.engine.scored([[pairs[i]] for i in part])
            ]
            logprobs = [()] * len(made)
            for i, score in zip(said, scored, strict=True):
                logprobs[i] = tuple(map(float, score.logprob))
        completions = [
            Completion(
                one.text,
                find_finish_reason(one.stopped, len(ids), sampling.max_new_tokens),
                one.tokens,
                known,
            )
            for ids, one, known in zip(made, cuts, logprobs, strict=True)
        ]
        return [completions[i : i + times] for i in range(0, len(completions), times)]

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        batching, scores = self.engine.scoring(
            [(request.prompt, request.answer) for request in requests]
        )

        def work(batch: list[Row]) -> list[Scored]:
            with self.loaded.autocast():
                return [Scored(tuple(map(float, score.logprob))) for score in scores(batch)]

        yield from run_batches(self.engine, "score", requests, batching, work, done)

    def classify(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("a language model has no classes")

    def close(self) -> None:
        """Nothing stays open."""
