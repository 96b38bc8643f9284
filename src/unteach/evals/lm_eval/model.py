"""Our engine as lm-evaluation-harness sees a model. Imported only where that package is."""

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from unteach.data.chat_rendering import render
from unteach.data.template import Template
from unteach.engines.base import Engine, Ids
from unteach.errors import UserError
from unteach.evals.base import Progress
from unteach.evals.stop_strings import cut_at_stop

DEFAULT_CONTEXT = 2048
"""Tokens that a model reads which does not say how many it does."""
DEFAULT_NEW_TOKENS = 256
"""Of an answer to a task that does not say how many, as the harness has it."""

TokenRequest = tuple[Any, list[int], list[int]]
"""What the harness scores: its own key, the prompt's ids and the answer's."""


class EngineModel(TemplateLM):
    """Score and continue what the harness asks, each different question once.

    Attributes:
        num_cut_prompts: how many prompts lost their beginning, to fit into the context.
    """

    backend = "causal"

    def __init__(
        self,
        engine: Engine,
        template: Template,
        progress: Progress,
    ):
        super().__init__()
        self.engine = engine
        self.template = template
        self.progress = progress
        self.tokenizer = template.tokenizer
        self.max_length = engine.context or DEFAULT_CONTEXT
        self.num_cut_prompts = 0

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos_id = self.tokenizer.bos_token_id
        return self.eot_token_id if bos_id is None else int(bos_id)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        **_: object,
    ) -> list[int]:
        """Tokenize a text; it gets special tokens where it does not begin with them."""
        if add_special_tokens is None:
            prefix = str(self.tokenizer.decode(self.prefix_token_id))
            add_special_tokens = not string.startswith(prefix)
        ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return list(ids)

    def apply_chat_template(
        self,
        chat_history: list[dict[str, str]],
        add_generation_prompt: bool = True,
    ) -> str:
        """Write a conversation as the model reads it."""

        def render_chat() -> str:
            text = self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            return str(text)

        return render(self.tokenizer.chat_template, render_chat)

    def keep_end(self, prompt: list[int], room: int) -> Ids:
        """Keep as many tokens at a prompt's end as there is room for, and count the prompts that
        are cut."""
        if room < 1:
            raise UserError(
                "lm-evaluation-harness: an answer leaves no room for its question in the "
                f"{self.max_length} tokens that the model reads"
            )
        if len(prompt) > room:
            self.num_cut_prompts += 1
        return tuple(prompt[-room:])

    def _loglikelihood_tokens(
        self,
        requests: list[TokenRequest],
        **_: object,
    ) -> list[tuple[float, bool]]:
        """Give the sum of each answer's log-probs, and whether it is the greedy one."""
        pairs = []
        for _key, prompt, answer in requests:
            room = self.max_length - len(answer)
            kept_prompt = self.keep_end(prompt, room)
            pairs.append((kept_prompt, tuple(answer)))

        different = list(dict.fromkeys(pairs))
        advance = self.progress("scoring the answers of tasks", len(different))
        scores = self.engine.score(different, advance)
        results = {}
        for pair, score in zip(different, scores, strict=True):
            logprob = float(score.logprob.sum())
            is_greedy = bool(score.hit.all())
            results[pair] = (logprob, is_greedy)
        return [results[pair] for pair in pairs]

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,
    ) -> list[float]:
        """Give the log-prob of each whole text, in windows as long as the context."""
        windows: list[TokenRequest] = []
        request_indices = []
        for request_index, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                self.tok_encode(request.args[0]),
                self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            for window in rolling:
                prompt, answer = make_disjoint_window(window)
                windows.append((None, prompt, answer))
                request_indices.append(request_index)
        totals = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows)
        for request_index, (logprob, _) in zip(request_indices, scores, strict=True):
            totals[request_index] += logprob
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each question; those with the same settings share a pass."""
        indices_by_settings: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            indices_by_settings.setdefault(repr(request.args[1]), []).append(index)
        texts = [""] * len(requests)
        for indices in indices_by_settings.values():
            questions = [requests[index].args[0] for index in indices]
            settings = requests[indices[0]].args[1]
            continuations = self._continue(questions, settings)
            for index, continuation in zip(indices, continuations, strict=True):
                texts[index] = continuation
        return texts

    def _continue(self, questions: list[str], settings: dict[str, Any]) -> list[str]:
        """Continue questions under one setting, each up to the first of its stop strings."""
        arguments = dict(normalize_gen_kwargs(settings, DEFAULT_NEW_TOKENS))
        stops = [stop for stop in arguments.pop("until", []) if stop]
        max_new_tokens = arguments.pop("max_gen_toks")
        if not arguments.get("do_sample"):
            arguments.pop("do_sample", None)
            arguments.pop("temperature", None)

        room = self.max_length - max_new_tokens
        prompts = []
        for question in questions:
            ids = self.tok_encode(question)
            prompts.append(self.keep_end(ids, room))

        different = list(dict.fromkeys(prompts))
        advance = self.progress("answering tasks", len(different))
        continuations = self.engine.generate(
            different,
            max_new_tokens,
            advance,
            stops,
            **arguments,
        )
        by_prompt = dict(zip(different, continuations, strict=True))
        texts = []
        for prompt in prompts:
            text = self.template.decode(by_prompt[prompt])
            texts.append(cut_at_stop(text, stops))
        return texts
