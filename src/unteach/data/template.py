"""The one object that turns a question and an answer into tokens: for training, evaluation and inference alike.

The prompt and the answer are tokenised apart and joined, so the boundary is exact; BOS stands where the tokenizer puts
one; the end-of-turn token stands once, at the end, and is learned.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unteach import runs
from unteach.config.reader import Reader, mistakes
from unteach.config.schema import TemplateArgs
from unteach.data.chat_rendering import render
from unteach.errors import UserError

FILE = "unteach_template.json"


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and its answer; `cut` counts the answer tokens that did not fit."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    cut: int = 0

    @property
    def input_ids(self) -> list[int]:
        return [*self.prompt, *self.answer]

    @property
    def labels(self) -> list[int]:
        return [-100] * len(self.prompt) + list(self.answer)


class Template:
    """How this model is asked. Kinds: `chat` (the tokenizer's chat template), `qa` (tags round question and answer),
    `raw` (the words as they are)."""

    def __init__(self, tokenizer: Any, args: TemplateArgs | None = None):
        self.tokenizer, self.args = tokenizer, args or TemplateArgs()
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        kind = self.args.kind
        if kind == "auto":
            tagged = self.args.user_start_tag is not None or self.args.asst_start_tag is not None
            chat = self.args.apply_chat_template
            kind = "chat" if (has_chat and not tagged if chat is None else chat) else "qa"
        if kind == "chat" and not has_chat:
            raise UserError("this tokenizer has no chat template: set template=qa or template=raw")
        self.kind = kind
        if tokenizer.eos_token_id is None:
            raise UserError("this tokenizer has no end-of-sequence token: set model.tokenizer_args.eos_token")
        if self.args.answer_prefix and kind != "qa":
            raise UserError(f"model.template_args.answer_prefix is for tags (template=qa), not for template={kind}")
        self._default_tags = self.args.user_start_tag is None and self.args.asst_start_tag is None

    @functools.cached_property
    def eos(self) -> int:
        """The id that ends an answer, and is learned; after a chat template, the end of the turn."""
        return self._answer("?", "!", ())[-1] if self.kind == "chat" else int(self.tokenizer.eos_token_id)

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids at which a generated answer is over."""
        return tuple(dict.fromkeys((self.eos, int(self.tokenizer.eos_token_id))))

    def prompt(self, question: str, shots: Sequence[tuple[str, str]] = ()) -> str:
        """The text that is asked, up to where the answer starts. `shots` are shown question-answer pairs."""
        if self.kind == "chat":
            return self._chat(question, shots, answer=None)
        if self.kind == "raw":
            return "".join(q + a for q, a in shots) + question
        start, end = self._tags
        shown = "".join(f"{self._user(q)}{start}{self._prefix}{a}{end}" for q, a in shots)
        return f"{self.args.system_prompt_with_special_tokens or ''}{shown}{self._user(question)}{start}"

    @property
    def _tags(self) -> tuple[str, str]:
        if self._default_tags:
            return "Answer:\n", "\n\n"
        return self.args.asst_start_tag or "", self.args.asst_end_tag or ""

    @property
    def _prefix(self) -> str:
        return self.args.answer_prefix or ""

    def _user(self, question: str) -> str:
        if self._default_tags:
            return f"Question: {question}\n"
        return f"{self.args.user_start_tag or ''}{question}{self.args.user_end_tag or ''}"

    def _chat(self, question: str, shots: Sequence[tuple[str, str]], answer: str | None) -> str:
        messages = [{"role": "system", "content": self.args.system_prompt}] if self.args.system_prompt else []
        for shown_question, shown_answer in shots:
            messages += [
                {"role": "user", "content": shown_question},
                {"role": "assistant", "content": shown_answer},
            ]
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return self.shown(messages, add_generation_prompt=answer is None)

    def encode_prompt(self, question: str, shots: Sequence[tuple[str, str]] = ()) -> tuple[int, ...]:
        text = self.prompt(question, shots)
        if self.kind == "chat":  # the chat template writes BOS itself
            return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._with_bos(text)

    def _with_bos(self, text: str) -> tuple[int, ...]:
        ids = list(self.tokenizer(text, add_special_tokens=True)["input_ids"])
        while ids and ids[-1] == self.eos and ids[-1] != self.tokenizer.bos_token_id:
            ids.pop()
        return tuple(ids)

    def encode(
        self, question: str, answer: str, shots: Sequence[tuple[str, str]] = (), max_length: int | None = None
    ) -> Encoded:
        """Prompt and answer as tokens; an answer that does not fit into `max_length` is cut, and says by how much."""
        prompt = self.encode_prompt(question, shots)
        if self.args.boundary == "joint" and self.kind != "chat":
            whole = self._with_bos(self.prompt(question, shots) + self._prefix + answer)
            prompt, learned = whole[: len(prompt)], (*whole[len(prompt) :], self.eos)
        else:
            learned = self._answer(question, answer, shots)
        room = len(learned) if max_length is None else max(0, max_length - len(prompt))
        return Encoded(prompt, learned[:room], max(0, len(learned) - room))

    def _answer(self, question: str, answer: str, shots: Sequence[tuple[str, str]]) -> tuple[int, ...]:
        if self.kind != "chat":
            return (*self.tokenizer(self._prefix + answer, add_special_tokens=False)["input_ids"], self.eos)
        asked, told = self._chat(question, shots, None), self._chat(question, shots, answer)
        if not told.startswith(asked):
            raise UserError("this chat template shows a question differently once it is answered: set template=qa")
        return self.turn(told[len(asked) :], [answer])[0]

    def turn(self, text: str, words: Sequence[str] = ()) -> tuple[tuple[int, ...], str]:
        """Read an answer as a chat template shows it: its tokens up to the end of the turn, and the text after that.

        Args:
            text: what the template shows for the turn.
            words: what the turn says. A special token that is written there is no end of the turn: the first one
                after the words is.

        Raises:
            UserError: the words hold a special token's text, and the template shows them in another way.
        """
        special = {
            token: added.content for token, added in self.tokenizer.added_tokens_decoder.items() if added.special
        }
        words_end = _find_end_of_words(text, words, list(special.values()))
        if any(token in text[:words_end] for token in special.values()):
            # The longest of those that begin first, as a tokenizer splits them.
            after_words = [(text.find(token, words_end), -len(token)) for token in special.values()]
            start, length = min((found for found in after_words if found[0] >= 0), default=(-1, 0))
            if start < 0:
                return (*self.plain(text), self.tokenizer.eos_token_id), ""
            return self.plain(text[: start - length]), text[start - length :]
        ids = self.plain(text)
        ends = [i for i, token in enumerate(ids) if token in special]
        if not ends:
            return (*ids, self.tokenizer.eos_token_id), ""
        _, _, after = text.partition(special[ids[ends[0]]])
        return ids[: ends[0] + 1], after

    def plain(self, text: str) -> tuple[int, ...]:
        """The tokens of a text by itself, without BOS or EOS."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def shown(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """A conversation, with the tools that may be called in it, as the tokenizer's chat template writes it."""
        extra: dict[str, Any] = {"date_string": self.args.date_string} if self.args.date_string else {}
        extra |= {"tools": tools} if tools else {}

        def rendering() -> str:
            shown: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **extra
            )
            return shown

        return render(self.tokenizer.chat_template, rendering)

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        runs.write_text(folder / FILE, json.dumps({**asdict(self.args), "kind": self.kind}, indent=1) + "\n")


def _find_end_of_words(text: str, words: Sequence[str], special: list[str]) -> int:
    """Where the last of a turn's words ends in what a template shows; 0 where it shows none as they are."""
    end = 0
    for said in words:
        ways = [said.strip(), json.dumps(said, ensure_ascii=False)[1:-1]]
        place, shown = next(((text.find(way), way) for way in ways if way in text), (-1, ""))
        written = [token for token in special if token in said]
        if place < 0 and written:
            raise UserError(
                f"an answer holds the text of a special token, {written[0]}, and the chat template shows the answer "
                "in another way, so that its end cannot be told; write that token in another way"
            )
        end = max(end, place + len(shown))
    return end


def saved_args(folder: str) -> TemplateArgs | None:
    """The template that a model was saved with, if it was."""
    path = Path(folder) / FILE
    if not path.exists():
        return None
    reader = Reader()
    args: TemplateArgs | None = reader.record(TemplateArgs, runs.read_json(path, "the model's template"), str(path))
    if reader.problems:
        raise UserError(mistakes(reader.problems))
    return args
