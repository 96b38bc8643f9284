"""A vision-language model in this process, on the rows of a table: an image that cannot be read
fails its row alone."""

import contextlib
import logging
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from unteach.config.inference import DRAWN, Sampling
from unteach.data.io import images
from unteach.engines.batching import BatchRunner, Row
from unteach.engines.finiteness import NEVER, NOT_FINITE, FiniteCheck
from unteach.engines.hf import get_context_length
from unteach.engines.sampling import SeededSampler, build_repetition_penalty, build_warpers
from unteach.errors import UserError
from unteach.inference.backends.base import Answer, Answered, Completion, Failure, Job, Request, cut
from unteach.inference.backends.local_batches import (
    Pools,
    find_finish_reason,
    move_to_device,
    run_batches,
)
from unteach.lazy import torch, transformers
from unteach.models import vision
from unteach.models.batch_probe import describe_padded_batches
from unteach.seeds import subseed

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

IMAGE_TOKENS, CHARACTERS_PER_TOKEN = 576, 3
"""About what an image and a text cost, for planning batches; memory says the rest."""
MOST = 8
"""Rows of a batch, unless batch_size says more or fewer."""
WRONG = (ValueError, TypeError, IndexError, KeyError)
"""What a processor raises where the placeholders of a text and its images do not go together."""

Asked = tuple[str, list[Any]]
"""A text with placeholders, and the images that go there."""


class VisionSession:
    """A model of transformers that continues conversations with images in them."""

    labels: Sequence[str] = ()

    def __init__(self, job: Job, batch_size: int | None, tokens_per_batch: int | None):
        self.loaded = loaded = vision.load(job.model)
        move_to_device(loaded.model, job.dist.device)
        self.stops = loaded.stops
        loaded.model.generation_config = transformers.GenerationConfig(
            pad_token_id=loaded.tokenizer.pad_token_id, eos_token_id=self.stops
        )
        loaded.tokenizer.padding_side = "left"
        self.context = get_context_length(loaded.model)
        if batch_size != 1 and (
            reason := describe_padded_batches(loaded.model, loaded.tokenizer, left=True)
        ):
            batch_size = 1
            if job.dist.is_main:
                logger.info(reason)
        self.engine = BatchRunner(loaded.model, batch_size or MOST, job.dist, None)
        if tokens_per_batch:
            self.engine.budgets["generate"] = tokens_per_batch

    def generate(self, requests: Sequence[Request], sampling: Sampling, done: Set[int]) -> Answered:
        if sampling.perplexity and (sampling.num_beams or 1) > 1:
            raise UserError(
                "perplexity: of beams that read images is not to be had; leave out perplexity or "
                "num_beams"
            )

        def length(request: Request) -> int:
            text = sum(len(str(turn["content"])) for turn in request.messages or ())
            return (
                text // CHARACTERS_PER_TOKEN
                + IMAGE_TOKENS * len(request.images)
                + sampling.max_new_tokens
            )

        times = max(sampling.num_return_sequences, sampling.num_beams or 1)
        budget = self.engine.budget("generate")
        batching = Pools(requests, length, self.engine.batch_size, budget, times=times)

        def work(batch: list[Row]) -> list[Answer]:
            read = images.read_ahead([requests[i] for [i] in batch], lambda request: request.images)
            return self._batch(list(read), sampling)

        yield from run_batches(self.engine, "generate", requests, batching, work, done)

    def _batch(self, read: list[tuple[Request, Any]], sampling: Sampling) -> list[Answer]:
        """An answer for each request; those that cannot be asked are left out of the pass."""
        answers = dict[int, Answer]()
        rows = dict[int, Asked]()
        for i, (request, pictures) in enumerate(read):
            try:
                if isinstance(pictures, images.Unreadable):
                    raise pictures
                rows[i] = self.loaded.shown(request.messages or ()), pictures
            except (images.Unreadable, UserError) as error:
                answers[i] = Failure(str(error))
        tensors, unfit = self._fitting(rows, sampling.max_new_tokens)
        answers |= unfit
        if tensors is not None:
            left = [i for i in rows if i not in unfit]
            if sampling.drawn and sampling.num_return_sequences > 1:
                tensors = self._inputs(
                    [rows[i] for i in left for _ in range(sampling.num_return_sequences)]
                )
            with self.loaded.autocast():
                answers |= zip(
                    left, self._told(tensors, [read[i][0] for i in left], sampling), strict=True
                )
        return [answers[i] for i in range(len(read))]

    def _fitting(self, rows: dict[int, Asked], new: int) -> tuple[Any, dict[int, Failure]]:
        """The inputs of all rows that the processor and the context take, and why it is not the
        others."""
        unfit = dict[int, Failure]()
        if rows:
            with contextlib.suppress(*WRONG):
                tensors = self._inputs(list(rows.values()))
                if self._room(tensors, new) is None:
                    return tensors, unfit
        for i, row in rows.items():
            try:
                if why := self._room(self._inputs([row]), new):
                    unfit[i] = Failure(why)
            except WRONG as error:
                unfit[i] = Failure(f"the processor does not take this row: {error}")
        left = [row for i, row in rows.items() if i not in unfit]
        return (self._inputs(left) if left else None), unfit

    def _inputs(self, rows: list[Asked]) -> Any:
        """What the model is given: texts padded on the left, their images as pixels."""
        texts = [text for text, _ in rows]
        return self.loaded.processor(
            text=texts,
            images=[pictures for _, pictures in rows],
            padding=True,
            return_tensors="pt",
            add_special_tokens=all(map(self.loaded.adds_special, texts)),
        )

    def _room(self, tensors: Any, new: int) -> str | None:
        """What is to be said where the longest row, and `new` tokens after it, are more than the
        model reads."""
        longest = int(tensors["attention_mask"].sum(-1).max())
        if self.context is None or longest + new <= self.context:
            return None
        return (
            f"a prompt of {longest} tokens, those of its images among them, and {new} new ones are "
            f"more than the {self.context} that the model reads; ask for fewer max_new_tokens"
        )

    def _told(self, tensors: Any, asked: list[Request], sampling: Sampling) -> list[Answer]:
        """The library's generate(), in one go: what a model keeps between two steps is its own
        affair."""
        finite = FiniteCheck()
        times, processors = sampling.num_return_sequences, list[Any]([finite])
        noted = Noted() if sampling.perplexity else None
        if noted:
            processors.append(noted)
        if repeated := build_repetition_penalty(sampling.repetition_penalty):
            repeated.mask = tensors["attention_mask"].to(self.loaded.model.device)
            processors.append(repeated)
        if sampling.drawn:
            cuts = build_warpers(**{name: getattr(sampling, name) for name in DRAWN})
            seeds = [subseed(request.seed, turn) for request in asked for turn in range(times)]
            processors.append(SeededSampler(cuts, seeds))
        model = self.loaded.model
        dtype = next(model.parameters()).dtype
        stopping = {"stop_strings": sampling.stop_strings, "tokenizer": self.loaded.tokenizer}
        made = model.generate(
            **tensors.to(model.device, dtype=dtype),
            logits_processor=processors,
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            num_beams=sampling.num_beams or 1,
            num_return_sequences=1 if sampling.drawn else times,
            **(stopping if sampling.stop_strings else {}),
        )
        prompts = tensors["attention_mask"].sum(-1).tolist()
        each = len(made) // len(prompts)  # more than one only of beams
        rows = made[:, tensors["input_ids"].shape[1] :]
        logprobs = noted.of(rows) if noted else [None] * len(made)
        told = [
            self._completion(row, known, prompts[i // each], sampling)
            for i, (row, known) in enumerate(zip(rows.tolist(), logprobs, strict=True))
        ]
        completions = [told[i : i + times] for i in range(0, len(told), times)]
        broken = finite.find_broken([NEVER] * len(asked))
        return [Failure(NOT_FINITE) if broken[i] else one for i, one in enumerate(completions)]

    def _completion(
        self, row: list[int], logprobs: list[float] | None, prompt_tokens: int, sampling: Sampling
    ) -> Completion:
        ids = row[: next((i for i, token in enumerate(row) if token in self.stops), len(row))]
        one = cut(ids, self.loaded.text, sampling.stop_strings)
        known = None if logprobs is None else tuple(logprobs[: one.tokens])
        return Completion(
            one.text,
            find_finish_reason(one.stopped, len(ids), sampling.max_new_tokens),
            one.tokens,
            known,
            prompt_tokens,
        )

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("kind=score asks no images")

    classify = score

    def close(self) -> None:
        """Nothing stays open."""


class Noted:
    """The first of the processors of logits: keeps the log p that the model itself gave each token
    that was taken."""

    def __init__(self) -> None:
        self.before: Tensor | None = None
        self.kept: list[Tensor] = []

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        if self.before is not None:
            self.kept.append(self.before.gather(-1, input_ids[:, -1:]))
        self.before = scores.float().log_softmax(-1)
        return scores

    def of(self, made: "Tensor") -> list[list[float]]:
        """Of the tokens [rows, length] that were made in the end, each row's."""
        assert self.before is not None
        last = self.before.gather(-1, made[:, -1:])
        found: list[list[float]] = torch.cat([*self.kept, last], dim=-1).tolist()
        return found
