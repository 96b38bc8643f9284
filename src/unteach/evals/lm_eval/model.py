"""Our engine as lm-evaluation-harness sees a model. Imported only where that package is."""

from collections.abc import Callable
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from unteach.data.chat_rendering import render
from unteach.data.template import Template
from unteach.engines.base import Engine, Ids
from unteach.errors import UserError

WITHOUT_CONTEXT = 2048
"""Tokens that a model reads which does not say how many it does."""
NEW_TOKENS = 256
"""Of an answer to a task that does not say how many, as the harness has it."""


class EngineModel(TemplateLM):
    """Scores and continues what the harness asks, each different question once.

    cut: how many prompts lost their beginning, to fit into the context.
    """

    backend = "causal"

    def __init__(
        self,
        engine: Engine,
        template: Template,
        progress: Callable[[str, int], Callable[[int], None]],
    ):
        super().__init__()
        self.engine, self.template, self.progress = engine, template, progress
        self.tokenizer = template.tokenizer
        self.max_length = engine.context or WITHOUT_CONTEXT
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(
                str(self.tokenizer.decode(self.prefix_token_id))
            )
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        return render(
            self.tokenizer.chat_template,
            lambda: str(
                self.tokenizer.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            ),
        )

    def fitted(self, prompt: list[int], room: int) -> Ids:
        """The end of a prompt that `room` has place for."""
        if room < 1:
            raise UserError(
                "lm-evaluation-harness: an answer leaves no room for its question in the "
                f"{self.max_length} tokens that the model reads"
            )
        self.cut += len(prompt) > room
        return tuple(prompt[-room:])

    def _loglikelihood_tokens(self, requests: Any, **_: object) -> list[tuple[float, bool]]:
        """Of each (…, prompt, answer): the sum of the answer's log-probs, and whether it is the
        greedy one."""
        pairs = [(self.fitted(p, self.max_length - len(a)), tuple(a)) for _, p, a in requests]
        wanted = list(dict.fromkeys(pairs))
        scores = self.engine.score(
            wanted, self.progress("scoring the answers of tasks", len(wanted))
        )
        found = {
            pair: (float(s.logprob.sum()), bool(s.hit.all()))
            for pair, s in zip(wanted, scores, strict=True)
        }
        return [found[pair] for pair in pairs]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids, begin = self.tok_encode(request.args[0]), self.prefix_token_id
            for window in get_rolling_token_windows(ids, begin, self.max_length - 1, 1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[number] += logprob
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        for numbers in alike.values():
            answers = self._continued(
                [requests[n].args[0] for n in numbers], requests[numbers[0]].args[1]
            )
            for number, text in zip(numbers, answers, strict=True):
                texts[number] = text
        return texts

    def _continued(self, questions: list[str], settings: dict[str, Any]) -> list[str]:
        """What follows each question under the same settings, up to the first of their stop
        strings."""
        given = dict(normalize_gen_kwargs(settings, NEW_TOKENS))
        until, most = [one for one in given.pop("until", []) if one], given.pop("max_gen_toks")
        if not given.get("do_sample"):
            given = {
                name: value
                for name, value in given.items()
                if name not in ("temperature", "do_sample")
            }
        prompts = [
            self.fitted(self.tok_encode(question), self.max_length - most) for question in questions
        ]
        wanted = list(dict.fromkeys(prompts))
        said = self.progress("answering tasks", len(wanted))
        made = dict(
            zip(wanted, self.engine.generate(wanted, most, said, until, **given), strict=True)
        )
        texts = [self.template.decode(made[prompt]) for prompt in prompts]
        return [
            text[: min((p for stop in until if (p := text.find(stop)) >= 0), default=None)]
            for text in texts
        ]
