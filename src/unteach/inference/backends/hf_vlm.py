"""A vision-language model in this process, on the rows of a table: an image that cannot be read
fails its row alone."""

import logging
from array import array
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from unteach.config.inference import Sampling
from unteach.data.io import images
from unteach.engines.batching import Batch, BatchRunner
from unteach.engines.finiteness import NEVER, NOT_FINITE, FiniteCheck
from unteach.engines.generation import find_stop
from unteach.engines.sampling import build_repetition_penalty
from unteach.engines.text_engine import get_context_length
from unteach.errors import UserError
from unteach.inference.backends.base import Answer, Answered, Completion, Failure, Job, Request, cut
from unteach.inference.backends.local_batches import (
    PoolPlanner,
    build_sampler,
    find_finish_reason,
    move_to_device,
    run_batches,
)
from unteach.lazy import torch, transformers
from unteach.models import vision
from unteach.models.batch_probe import describe_padded_batches

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BatchFeature

logger = logging.getLogger(__name__)

TOKENS_PER_IMAGE = 576
CHARACTERS_PER_TOKEN = 3
"""About what an image and a text cost, for planning batches; memory says the rest."""
MAX_ROWS = 8
"""Rows of a batch, unless batch_size says more or fewer."""
PROCESSOR_ERRORS = (ValueError, TypeError, IndexError, KeyError)
"""What a processor raises where the placeholders of a text and its images do not go together."""

Prompt = tuple[str, "list[Image]"]
"""A text with placeholders, and the images that go there."""


class VisionSession:
    """A model of transformers that continues conversations with images in them."""

    labels: Sequence[str] = ()

    def __init__(
        self,
        job: Job,
        batch_size: int | None,
        tokens_per_batch: int | None,
    ):
        self.loaded = loaded = vision.load(job.model)
        move_to_device(loaded.model, job.dist.device)
        self.stops = loaded.stops
        loaded.model.generation_config = transformers.GenerationConfig(
            pad_token_id=loaded.tokenizer.pad_token_id,
            eos_token_id=self.stops,
        )
        loaded.tokenizer.padding_side = "left"
        self.context = get_context_length(loaded.model)
        if batch_size != 1:
            reason = describe_padded_batches(loaded.model, loaded.tokenizer, left=True)
            if reason:
                batch_size = 1
                if job.dist.is_main:
                    logger.info(reason)
        self.engine = BatchRunner(loaded.model, batch_size or MAX_ROWS, job.dist, None)
        if tokens_per_batch:
            self.engine.budgets["generate"] = tokens_per_batch

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Set[int],
    ) -> Answered:
        """Continue the conversations of requests."""
        num_beams = sampling.num_beams or 1
        if sampling.perplexity and num_beams > 1:
            raise UserError(
                "perplexity: of beams that read images is not to be had; leave out perplexity or "
                "num_beams"
            )

        def estimate_length(request: Request) -> int:
            num_characters = sum(len(str(turn["content"])) for turn in request.messages or ())
            num_text_tokens = num_characters // CHARACTERS_PER_TOKEN
            num_image_tokens = TOKENS_PER_IMAGE * len(request.images)
            return num_text_tokens + num_image_tokens + sampling.max_new_tokens

        planner = PoolPlanner(
            array("q", map(estimate_length, requests)),
            self.engine.batch_size,
            self.engine.get_budget("generate"),
            texts_per_row=max(sampling.num_return_sequences, num_beams),
        )

        def answer_batch(batch: Batch) -> list[Answer]:
            batch_requests = [requests[i] for [i] in batch]
            return self._answer(batch_requests, sampling)

        yield from run_batches(
            self.engine,
            "generate",
            requests,
            planner,
            answer_batch,
            done,
        )

    def _answer(self, requests: list[Request], sampling: Sampling) -> list[Answer]:
        """Answer each request; those that cannot be asked are left out of the pass."""
        answers: dict[int, Answer] = {}
        prompts: dict[int, Prompt] = {}
        read = images.read_ahead(requests, lambda request: request.images)
        for i, (request, pictures) in enumerate(read):
            try:
                if isinstance(pictures, images.Unreadable):
                    raise pictures
                text = self.loaded.render_chat(request.messages or ())
                prompts[i] = (text, pictures)
            except (images.Unreadable, UserError) as error:
                answers[i] = Failure(str(error))

        tensors, failures = self._process_prompts(prompts, sampling.max_new_tokens)
        answers.update(failures)
        if tensors is not None:
            asked = [i for i in prompts if i not in failures]
            num_texts = sampling.num_return_sequences
            if sampling.drawn and num_texts > 1:
                # Each text that is drawn is a row of its own.
                repeated = []
                for i in asked:
                    repeated += [prompts[i]] * num_texts
                tensors = self._process(repeated)
            with self.loaded.autocast():
                made = self._generate(tensors, [requests[i] for i in asked], sampling)
            answers.update(zip(asked, made, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _process_prompts(
        self,
        prompts: dict[int, Prompt],
        max_new_tokens: int,
    ) -> "tuple[BatchFeature | None, dict[int, Failure]]":
        """Make the inputs of all prompts that the processor and the context take, and say why it is
        not the others."""
        if not prompts:
            return None, {}
        tensors = self._try_process(list(prompts.values()))
        if tensors is not None and self._explain_too_long(tensors, max_new_tokens) is None:
            return tensors, {}

        # Something is wrong with one of them: each is tried alone.
        failures: dict[int, Failure] = {}
        fitting = []
        for i, prompt in prompts.items():
            try:
                reason = self._explain_too_long(self._process([prompt]), max_new_tokens)
            except PROCESSOR_ERRORS as error:
                reason = f"the processor does not take this row: {error}"
            if reason:
                failures[i] = Failure(reason)
            else:
                fitting.append(prompt)
        return (self._process(fitting) if fitting else None), failures

    def _try_process(self, prompts: list[Prompt]) -> "BatchFeature | None":
        try:
            return self._process(prompts)
        except PROCESSOR_ERRORS:
            return None

    def _process(self, prompts: list[Prompt]) -> "BatchFeature":
        """Make what the model is given: texts padded on the left, their images as pixels."""
        texts = [text for text, _ in prompts]
        features: BatchFeature = self.loaded.processor(
            text=texts,
            images=[pictures for _, pictures in prompts],
            padding=True,
            return_tensors="pt",
            add_special_tokens=all(map(self.loaded.adds_special_tokens, texts)),
        )
        return features

    def _explain_too_long(self, tensors: "BatchFeature", max_new_tokens: int) -> str | None:
        """Say why the longest row, with the tokens to come, does not fit; None where it does."""
        longest = int(tensors["attention_mask"].sum(-1).max())
        if self.context is None or longest + max_new_tokens <= self.context:
            return None
        return (
            f"a prompt of {longest} tokens, those of its images among them, and {max_new_tokens} "
            f"new ones are more than the {self.context} that the model reads; ask for fewer "
            "max_new_tokens"
        )

    def _generate(
        self,
        tensors: "BatchFeature",
        requests: list[Request],
        sampling: Sampling,
    ) -> list[Answer]:
        """Call the library's generate() in one go: what a model keeps between two steps is its own
        affair."""
        model = self.loaded.model
        num_texts = sampling.num_return_sequences
        finite = FiniteCheck()
        recorder = LogprobRecorder() if sampling.perplexity else None
        processors: list[Any] = [finite]
        if recorder:
            processors.append(recorder)
        penalty = build_repetition_penalty(sampling.repetition_penalty)
        if penalty:
            penalty.mask = tensors["attention_mask"].to(model.device)
            processors.append(penalty)
        sampler = build_sampler(requests, sampling)
        if sampler:
            processors.append(sampler)

        library_args: dict[str, Any] = {}
        if sampling.stop_strings:
            library_args["stop_strings"] = sampling.stop_strings
            library_args["tokenizer"] = self.loaded.tokenizer
        sequences = model.generate(
            **tensors.to(model.device, dtype=next(model.parameters()).dtype),
            **library_args,
            logits_processor=processors,
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            num_beams=sampling.num_beams or 1,
            num_return_sequences=1 if sampler else num_texts,
        )

        new_ids = sequences[:, tensors["input_ids"].shape[1] :]
        prompt_lengths = tensors["attention_mask"].sum(-1).tolist()
        texts_per_prompt = len(sequences) // len(prompt_lengths)  # more than one only of beams
        logprobs: list[list[float]] | None = recorder.collect(new_ids) if recorder else None
        completions: list[list[Completion]] = [[] for _ in requests]
        for i, row in enumerate(new_ids.tolist()):
            row_logprobs = logprobs[i] if logprobs else None
            prompt_length = prompt_lengths[i // texts_per_prompt]
            completion = self._build_completion(
                row,
                row_logprobs,
                prompt_length,
                sampling,
            )
            completions[i // num_texts].append(completion)

        answers: list[Answer] = []
        flags = finite.find_broken([NEVER] * len(requests))
        for row_completions, is_broken in zip(completions, flags, strict=True):
            answers.append(Failure(NOT_FINITE) if is_broken else row_completions)
        return answers

    def _build_completion(
        self,
        row: list[int],
        logprobs: list[float] | None,
        prompt_tokens: int,
        sampling: Sampling,
    ) -> Completion:
        """Turn the ids of one text into a completion."""
        ids = row[: find_stop(row, self.stops)]
        cut_text = cut(ids, self.loaded.decode, sampling.stop_strings)
        return Completion(
            cut_text.text,
            find_finish_reason(cut_text.stopped, len(ids), sampling.max_new_tokens),
            cut_text.tokens,
            None if logprobs is None else tuple(logprobs[: cut_text.tokens]),
            prompt_tokens,
        )

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("kind=score asks no images")

    classify = score

    def close(self) -> None:
        """Nothing stays open."""


class LogprobRecorder:
    """Record the log p that the model itself gives each token that is taken.

    It must come before the processors that change logits.
    """

    def __init__(self) -> None:
        self.last_logprobs: Tensor | None = None
        self.recorded: list[Tensor] = []

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        # The token of the step before is known now.
        if self.last_logprobs is not None:
            self.recorded.append(self.last_logprobs.gather(-1, input_ids[:, -1:]))
        self.last_logprobs = scores.float().log_softmax(-1)
        return scores

    def collect(self, new_ids: "Tensor") -> list[list[float]]:
        """Return the log-probs of the tokens that were made in the end: [rows, T] -> lists."""
        assert self.last_logprobs is not None
        last = self.last_logprobs.gather(-1, new_ids[:, -1:])
        logprobs: list[list[float]] = torch.cat([*self.recorded, last], dim=-1).tolist()
        return logprobs
