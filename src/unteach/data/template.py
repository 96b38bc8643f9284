"""The one object that turns a question and an answer into tokens: for training, evaluation and
inference alike.

The prompt and the answer are tokenised apart and joined, so the boundary is exact; BOS stands where
the tokenizer puts one; the end-of-turn token stands once, at the end, and is learned.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unteach import atomic, json_files
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import TemplateArgs
from unteach.data.chat_rendering import render
from unteach.data.reasoning import CLOSE, OPEN, after_open_reasoning
from unteach.data.special_text import SpecialText
from unteach.errors import UserError, nearest

FILE = "unteach_template.json"
Shots = Sequence[tuple[str, str]]
PROBE = [
    {"role": "user", "content": "unteach asks this"},
    {"role": "assistant", "content": "unteach is told that"},
]
"""By what a chat template is tried: words that stand in none."""
ANOTHER = (
    "give the model another template, or ask it by tags (template=qa, for rows of a "
    "question "
    "and an answer)"
)


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
    """How this model is asked. Kinds: `chat` (the tokenizer's chat template), `qa` (tags round
    question and answer), `raw` (the words as they are)."""

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
        if kind == "chat":
            self._check_name()
        if tokenizer.eos_token_id is None:
            raise UserError(
                "this tokenizer has no end-of-sequence token: set model.tokenizer_args.eos_token"
            )
        if self.args.answer_prefix and kind != "qa":
            raise UserError(
                f"model.template_args.answer_prefix is for tags (template=qa), not for "
                f"template={kind}"
            )
        # The tokenizer's own attributes take longer to read than a short text takes to tokenise.
        self._bos = tokenizer.bos_token or ""
        self._bos_id = tokenizer.bos_token_id
        self._eos = tokenizer.eos_token
        self._default_tags = self.args.user_start_tag is None and self.args.asst_start_tag is None

    def _check_name(self) -> None:
        """Refuse a name that none of the tokenizer's chat templates has, and several without a
        default."""
        templates, name = self.tokenizer.chat_template, self.args.chat_template
        names = list(templates) if isinstance(templates, dict) else []
        if name is not None and name not in names:
            has = (
                f"it has {', '.join(names)}"
                if names
                else "it has one, without a name: leave this out"
            )
            guess = nearest(name, names)
            hint = f" (did you mean {guess}?)" if guess else ""
            raise UserError(
                f"model.template_args.chat_template: this tokenizer has no chat template called "
                f"{name!r}{hint}; {has}"
            )
        if name is None and names and "default" not in names:
            raise UserError(
                f"this tokenizer has several chat templates, {', '.join(names)}, and none is "
                f"called default: say which with model.template_args.chat_template={names[0]}, or "
                "set template=qa or template=raw"
            )

    def as_raw(self) -> "Template":
        """The template that takes the words of this tokenizer as they are."""
        return Template(
            self.tokenizer, TemplateArgs(kind="raw", special_tokens=self.args.special_tokens)
        )

    @functools.cached_property
    def special(self) -> SpecialText:
        """The tokenizer's special tokens, and how they are told apart from their text."""
        return SpecialText(self.tokenizer)

    @functools.cached_property
    def eos(self) -> int:
        """The id that ends an answer, and is learned; after a chat template, the end of the
        turn."""
        if self.kind == "chat":
            told = self.shown(PROBE, add_generation_prompt=False)
            _, shown, after = told.rpartition(PROBE[-1]["content"])
            if shown and (ends := self.special.find(after)):
                # Several may stand end to end: the end of the response and that of its turn.
                run = [
                    token
                    for k, (token, start, _) in enumerate(ends)
                    if k == 0 or start == ends[k - 1][2]
                ]
                return run[-1]
        return int(self.tokenizer.eos_token_id)

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids at which a generated answer is over."""
        return tuple(dict.fromkeys((self.eos, int(self.tokenizer.eos_token_id))))

    def hide(self, text: str) -> str:
        """Mark the special tokens that are written in a text, so that they are read as text."""
        return self.special.hide(text) if self.args.special_tokens == "text" else text

    def hide_all(self, value: object) -> Any:
        """Hide every text in a conversation, or in its tools."""
        return self.special.hide_all(value) if self.args.special_tokens == "text" else value

    def hides(self, cells: Sequence[Any]) -> bool:
        """Whether a special token is written in cells of a row, and is read as text."""
        if self.args.special_tokens == "tokens":
            return False
        if self.kind == "raw":  # where the row's own BOS and EOS are the tokens
            cells = [
                c.removeprefix(self._bos).removesuffix(self._eos) if isinstance(c, str) else c
                for c in cells
            ]
        return self.special.stands_in(cells)

    def prompt(self, question: str, shots: Shots = ()) -> str:
        """The text that is asked, up to where the answer starts. `shots` are shown question-answer
        pairs."""
        return self.special.reveal(self.write_prompt(question, shots))

    def write_prompt(self, question: str, shots: Shots = ()) -> str:
        """The same, in which special tokens of the questions and answers are hidden."""
        if self.kind == "chat":
            return self._chat(question, shots, answer=None)
        if self.kind == "raw":
            bos, text = self._split_bos("".join(q + a for q, a in shots) + question)
            return bos + self.hide(text)
        question = self.hide(question)
        shots = [(self.hide(asked), self.hide(told)) for asked, told in shots]
        start, end = self._tags
        shown = "".join(f"{self._user(q)}{start}{self._prefix}{a}{end}" for q, a in shots)
        system = self.args.system_prompt_with_special_tokens or ""
        return f"{system}{shown}{self._user(question)}{start}"

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

    def _chat(self, question: str, shots: Shots, answer: str | None) -> str:
        messages = (
            [{"role": "system", "content": self.args.system_prompt}]
            if self.args.system_prompt
            else []
        )
        for shown_question, shown_answer in shots:
            messages += [
                {"role": "user", "content": shown_question},
                {"role": "assistant", "content": shown_answer},
            ]
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        messages = self.hide_all(messages)
        shown = self.shown(messages, add_generation_prompt=answer is None)
        refuse_unshown(messages if answer is None else messages[:-1], shown)
        return shown

    def encode_prompt(self, question: str, shots: Shots = ()) -> tuple[int, ...]:
        text = self.write_prompt(question, shots)
        # a chat template writes BOS itself
        return self.plain(text) if self.kind == "chat" else self._with_bos(text)

    def _with_bos(self, text: str) -> tuple[int, ...]:
        ids = list(self.special.encode(text, add_special_tokens=True))
        if ids[:2] == [self._bos_id] * 2:  # the text's own and the tokenizer's
            ids.pop(0)
        while ids and ids[-1] == self.eos and ids[-1] != self._bos_id:
            ids.pop()
        return tuple(ids)

    def _split_bos(self, text: str) -> tuple[str, str]:
        """Take the BOS that a text is written with off its beginning: it is the row's own."""
        return (self._bos, text[len(self._bos) :]) if text.startswith(self._bos) else ("", text)

    def encode(
        self, question: str, answer: str, shots: Shots = (), max_length: int | None = None
    ) -> Encoded:
        """Prompt and answer as tokens; an answer that does not fit into `max_length` is cut, and
        says by how much."""
        if self.kind == "raw":
            # A row may be written with its BOS and EOS, which stand once.
            answer = answer.removesuffix(self._eos)
            if not question and not shots:
                question, answer = self._split_bos(answer)
        if self.kind == "chat":
            asked = self._chat(question, shots, None)
            hidden = self.hide(answer)
            text = self.text_after(asked, self._chat(question, shots, answer), hidden)
            prompt, (learned, _) = self.plain(asked), self.turn(text, [hidden])
        elif self.args.boundary == "joint":
            prompt = self.encode_prompt(question, shots)
            whole = self._with_bos(
                self.write_prompt(question, shots) + self._prefix + self.hide(answer)
            )
            prompt, learned = whole[: len(prompt)], (*whole[len(prompt) :], self.eos)
        else:
            prompt, learned = self.encode_prompt(question, shots), self.encode_answer(answer)
        room = len(learned) if max_length is None else max(0, max_length - len(prompt))
        return Encoded(prompt, learned[:room], max(0, len(learned) - room))

    def encode_answer(self, answer: str) -> tuple[int, ...]:
        """An answer that no chat template shows, with the end of sequence."""
        return (*self.plain(self._prefix + self.hide(answer)), self.eos)

    def text_after(self, asked: str, told: str, answer: str) -> str:
        """What a conversation with its answer shows after what is asked. `answer`: what the answer
        says, hidden."""
        text = (
            told[len(asked) :]
            if told.startswith(asked)
            else after_open_reasoning(asked, told, answer)
        )
        if text is None and CLOSE in answer and asked.rstrip().endswith(CLOSE):
            raise UserError(
                f"an answer holds reasoning ({CLOSE}), and this chat template asks for answers "
                "without: it closes the reasoning in the prompt; take it out of the answers, or "
                "give the model another template"
            )
        if text is None:
            raise UserError(
                "this chat template shows a question differently once it is answered, so that no "
                f"answer can be learned after what is asked: {ANOTHER}"
            )
        return text

    def turn(self, text: str, words: Sequence[str]) -> tuple[tuple[int, ...], str]:
        """Read an answer as a chat template shows it: its tokens and its text, both up to the end
        of the turn.

        The end is the first end of turn after the words. A turn that ends in another way, as calls
        of tools may, ends with its last special token.

        Args:
            text: what the template shows for the turn, with what its words say hidden.
            words: what the turn says, hidden: first the answer, then calls of tools and the like.

        Raises:
            UserError: the template leaves out a part of the answer.
        """
        if not is_answer_shown(words[0], text):
            raise UserError(
                f"the chat template does not show the answer as it is written: {ANOTHER}"
            )
        after_words = self.special.find(text, _find_end_of_words(text, words))
        if not after_words:
            return (*self.plain(text), int(self.tokenizer.eos_token_id)), text
        end = next((end for token, _, end in after_words if token == self.eos), after_words[-1][2])
        return self.plain(text[:end]), text[:end]

    def plain(self, text: str) -> tuple[int, ...]:
        """The tokens of a text by itself, without BOS or EOS; what is hidden in it is text."""
        return self.special.encode(text)

    def shown(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """A conversation, with the tools that may be called in it, as the tokenizer's chat template
        writes it."""
        if self.takes_parts:
            messages = _as_parts(messages)
        return self._render(messages, add_generation_prompt, tools)

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether the chat template shows what a turn says only as a list of parts, as those of
        some models do that read images."""
        return not self._shows_probe(PROBE) and self._shows_probe(_as_parts(PROBE))

    def _shows_probe(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        try:
            shown = self._render(messages, add_generation_prompt=False)
        except UserError:
            return False
        # A template for text alone writes a list of parts as Python does.
        is_written_out = "'type'" in shown or '"type"' in shown
        return not is_written_out and all(message["content"] in shown for message in PROBE)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        extra: dict[str, Any] = (
            {"date_string": self.args.date_string} if self.args.date_string else {}
        )
        extra |= {"tools": tools} if tools else {}
        extra |= {"chat_template": self.args.chat_template} if self.args.chat_template else {}

        def rendering() -> str:
            shown: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **extra
            )
            return shown

        return render(self.args.chat_template or self.tokenizer.chat_template, rendering)

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        atomic.write_text(
            folder / FILE, json.dumps({**asdict(self.args), "kind": self.kind}, indent=1) + "\n"
        )


def _as_parts(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]


def refuse_unshown(messages: Sequence[Mapping[str, Any]], shown: str) -> None:
    """Refuse a conversation of which the chat template leaves out what somebody says.

    Reasoning of the assistant may be left out: many templates show none but the last.
    """
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant" and isinstance(content, str):
            content = content.rpartition(CLOSE)[2]
        if isinstance(content, str) and not is_shown(content, shown):
            raise UserError(
                f"the chat template does not show what a turn of {message['role']} says: {ANOTHER}"
            )


def is_shown(content: str, whole: str) -> bool:
    """Whether a text stands in what a template shows; some templates write it as JSON."""
    text = content.strip()
    return text in whole or json.dumps(text, ensure_ascii=False)[1:-1] in whole


def is_answer_shown(answer: str, text: str) -> bool:
    """Whether all of an answer stands in what a template shows of it, its reasoning and what
    follows it apart."""
    reasons, closed, final = answer.rpartition(CLOSE)
    # The prompt may have opened the reasoning; templates write it with line ends of their own.
    parts = [final, *(reasons.split(OPEN) if closed else [])]
    return is_shown(answer, text) or (bool(closed) and all(is_shown(part, text) for part in parts))


def _find_end_of_words(text: str, words: Sequence[str]) -> int:
    """Find where the last of a turn's words ends in what a template shows; 0 where it shows none as
    they are."""
    end = 0
    for said in words:
        final = said.rpartition(CLOSE)[2].strip()
        for way in (said.strip(), json.dumps(said, ensure_ascii=False)[1:-1], final):
            if way in text:
                end = max(end, text.index(way) + len(way))
                break
    return end


def saved_args(folder: str) -> TemplateArgs | None:
    """The template that a model was saved with, if it was."""
    path = Path(folder) / FILE
    if not path.exists():
        return None
    reader = Reader()
    args: TemplateArgs | None = reader.record(
        TemplateArgs, json_files.read_json(path, "the model's template"), str(path)
    )
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return args
