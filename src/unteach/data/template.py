"""The one object that turns a question and an answer into tokens: for training, evaluation and
inference alike.

The prompt and the answer are tokenised apart and joined, so the boundary is exact; BOS stands where
the tokenizer puts one; the end-of-turn token stands once, at the end, and is learned.
"""

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, json_files
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import TemplateArgs
from unteach.data.chat_template import PROBE, ChatTemplate, Earlier, Shots, build_messages
from unteach.data.rendered_text import (
    USE_ANOTHER,
    extract_answer,
    find_end_of_words,
    is_answer_shown,
    refuse_unshown,
)
from unteach.data.special_text import SpecialText
from unteach.data.truncation import IGNORED
from unteach.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "unteach_template.json"
"""What a model's folder has the template in."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and its answer; `cut` counts the answer tokens that did not fit."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    cut: int = 0

    @classmethod
    def cut_answer(
        cls,
        prompt: tuple[int, ...],
        answer: tuple[int, ...],
        max_length: int | None,
    ) -> "Encoded":
        """Cut the answer to what fits into max_length beside the prompt."""
        if max_length is None:
            return cls(prompt, answer)
        room = max(0, max_length - len(prompt))
        return cls(prompt, answer[:room], max(0, len(answer) - room))

    @property
    def input_ids(self) -> list[int]:
        """The prompt and the answer, end to end."""
        return [*self.prompt, *self.answer]

    @property
    def labels(self) -> list[int]:
        """The answer where it stands, and -100 in place of the prompt."""
        return [IGNORED] * len(self.prompt) + list(self.answer)


class Template:
    """How this model is asked. Kinds: `chat` (the tokenizer's chat template), `qa` (tags round
    question and answer), `raw` (the words as they are).

    Args:
        thinks: False asks for answers without reasoning: thinking is switched off where a chat
            template has a switch, and a block of reasoning that the prompt opens is closed in it.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        args: TemplateArgs | None = None,
        thinks: bool = True,
    ):
        self.tokenizer = tokenizer
        self.args = args or TemplateArgs()
        self.thinks = thinks
        self.chat = ChatTemplate(tokenizer, self.args, thinks)
        self.kind = self._choose_kind()
        if self.kind == "chat":
            self.chat.check_name()
        if tokenizer.eos_token_id is None:
            raise UserError(
                "this tokenizer has no end-of-sequence token: set model.tokenizer_args.eos_token"
            )
        if self.args.answer_prefix and self.kind != "qa":
            raise UserError(
                f"model.template_args.answer_prefix is for tags (template=qa), not for "
                f"template={self.kind}"
            )

        # The tokenizer's own attributes take longer to read than a short text takes to tokenise.
        self._bos = tokenizer.bos_token or ""
        self._bos_id = tokenizer.bos_token_id
        self._eos = tokenizer.eos_token
        self._has_default_tags = (
            self.args.user_start_tag is None and self.args.asst_start_tag is None
        )

    def _choose_kind(self) -> str:
        """Choose how the model is asked, where the arguments leave it open."""
        has_chat = bool(getattr(self.tokenizer, "chat_template", None))
        kind = self.args.kind
        if kind == "auto":
            has_tags = self.args.user_start_tag is not None or self.args.asst_start_tag is not None
            wants_chat = self.args.apply_chat_template
            if wants_chat is None:
                wants_chat = has_chat and not has_tags
            kind = "chat" if wants_chat else "qa"
        if kind == "chat" and not has_chat:
            raise UserError("this tokenizer has no chat template: set template=qa or template=raw")
        return kind

    def as_raw(self) -> "Template":
        """Give the template that takes the words of this tokenizer as they are."""
        args = TemplateArgs(kind="raw", special_tokens=self.args.special_tokens)
        return Template(self.tokenizer, args)

    def switch_off_thinking(self) -> "Template":
        """Give the template that asks the same for answers without reasoning."""
        return Template(self.tokenizer, self.args, thinks=False)

    @functools.cached_property
    def special(self) -> SpecialText:
        """The tokenizer's special tokens, and how they are told apart from their text."""
        return SpecialText(self.tokenizer)

    @functools.cached_property
    def eos(self) -> int:
        """The id that ends an answer, and is learned; after a chat template, the end of the
        turn."""
        if self.kind == "chat":
            rendered = self.chat.render(PROBE, add_generation_prompt=False)
            _, answer, after = rendered.rpartition(PROBE[-1]["content"])
            ends = self.special.find(after) if answer else []
            if ends:
                # Several may stand end to end: the end of the response and that of its turn.
                end_id, _, stop = ends[0]
                for token_id, start, next_stop in ends[1:]:
                    if start != stop:
                        break
                    end_id, stop = token_id, next_stop
                return end_id
        return int(self.tokenizer.eos_token_id)

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids at which a generated answer is over."""
        eos_token_id = int(self.tokenizer.eos_token_id)
        return (self.eos,) if self.eos == eos_token_id else (self.eos, eos_token_id)

    def hide(self, text: str) -> str:
        """Mark the special tokens that are written in a text, so that they are read as text."""
        if self.args.special_tokens != "text":
            return text
        return self.special.hide(text)

    def hide_all(self, value: object) -> Any:
        """Hide every text in a conversation, or in its tools."""
        if self.args.special_tokens != "text":
            return value
        return self.special.hide_all(value)

    def hides(self, cells: Sequence[Any]) -> bool:
        """Whether a special token is written in cells of a row, and is read as text."""
        if self.args.special_tokens == "tokens":
            return False
        if self.kind == "raw":
            # The row's own BOS and EOS are the tokens.
            cells = [self._strip_ends(cell) for cell in cells]
        return self.special.stands_in(cells)

    def _strip_ends(self, cell: object) -> object:
        """Take the BOS and EOS that a text is written with off its ends."""
        if not isinstance(cell, str):
            return cell
        return cell.removeprefix(self._bos).removesuffix(self._eos)

    def write_prompt(self, question: str, shots: Shots = ()) -> str:
        """Write the text that is asked, up to where the answer starts."""
        return self.special.reveal(self.write_hidden_prompt(question, shots))

    def write_hidden_prompt(self, question: str, shots: Shots = (), earlier: Earlier = ()) -> str:
        """Write the same with the special tokens of questions and answers hidden."""
        if self.kind == "chat":
            return self._render_question(question, shots, answer=None, earlier=earlier)
        assert not earlier, "only a chat template shows the turns of a conversation"
        if self.kind == "raw":
            before = "".join(itertools.chain.from_iterable(shots))
            bos, text = self._split_bos(before + question)
            return bos + self.hide(text)

        start, end = self._answer_tags
        text = self.args.system_prompt_with_special_tokens or ""
        for shot_question, shot_answer in shots:
            text += self._tag_question(self.hide(shot_question))
            text += f"{start}{self._prefix}{self.hide(shot_answer)}{end}"
        return text + self._tag_question(self.hide(question)) + start

    @property
    def _answer_tags(self) -> tuple[str, str]:
        """What stands before and after an answer."""
        if self._has_default_tags:
            return "Answer:\n", "\n\n"
        return self.args.asst_start_tag or "", self.args.asst_end_tag or ""

    @property
    def _prefix(self) -> str:
        """What every answer begins with."""
        return self.args.answer_prefix or ""

    def _tag_question(self, question: str) -> str:
        """Write a question between its tags."""
        if self._has_default_tags:
            return f"Question: {question}\n"
        return f"{self.args.user_start_tag or ''}{question}{self.args.user_end_tag or ''}"

    def _render_question(
        self,
        question: str,
        shots: Shots,
        answer: str | None,
        earlier: Earlier = (),
    ) -> str:
        """Render a question by the chat template.

        Args:
            question: what is asked.
            shots: pairs that stand before it as earlier turns.
            answer: the answer that follows; None renders up to where it starts.
            earlier: turns of the same conversation.

        Raises:
            UserError: the template leaves out what is asked.
        """
        messages = build_messages(self.args.system_prompt, shots, earlier, question)
        num_asked = len(messages)
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        messages = self.hide_all(messages)
        rendered = self.chat.render(messages, add_generation_prompt=answer is None)
        refuse_unshown(messages[:num_asked], rendered)
        return rendered if answer is not None else rendered + self.chat.closing

    def encode_prompt(
        self, question: str, shots: Shots = (), earlier: Earlier = ()
    ) -> tuple[int, ...]:
        """Encode what is asked, up to where the answer starts.

        Args:
            question: what is asked.
            shots: pairs that stand before the question.
            earlier: turns of the conversation that the question goes on; a chat template alone
                shows them.
        """
        text = self.write_hidden_prompt(question, shots, earlier)
        # A chat template writes BOS itself.
        if self.kind == "chat":
            return self.encode_plain(text)
        return self._encode_with_bos(text)

    def _encode_with_bos(self, text: str) -> tuple[int, ...]:
        """Encode a prompt with the tokenizer's BOS, once, and without the EOS that it may add."""
        ids = list(self.special.encode(text, add_special_tokens=True))
        if ids[:2] == [self._bos_id] * 2:  # the text's own and the tokenizer's
            ids.pop(0)
        while ids and ids[-1] == self.eos and ids[-1] != self._bos_id:
            ids.pop()
        return tuple(ids)

    def _split_bos(self, text: str) -> tuple[str, str]:
        """Take the BOS that a text is written with off its beginning: it is the row's own."""
        if not text.startswith(self._bos):
            return "", text
        return self._bos, text[len(self._bos) :]

    def encode(
        self,
        question: str,
        answer: str,
        shots: Shots = (),
        max_length: int | None = None,
    ) -> Encoded:
        """Encode a prompt and its answer.

        Args:
            question: what is asked.
            answer: what is learned or scored.
            shots: pairs that stand before the question.
            max_length: what both may have together; the answer is cut to it.
        """
        if self.kind == "raw":
            # A row may be written with its BOS and EOS, which stand once.
            answer = answer.removesuffix(self._eos)
            if not question and not shots:
                question, answer = self._split_bos(answer)

        if self.kind == "chat":
            prompt_text = self._render_question(question, shots, None)
            hidden_answer = self.hide(answer)
            whole_text = self._render_question(question, shots, answer)
            open_prompt = prompt_text.removesuffix(self.chat.closing)
            answer_text = extract_answer(open_prompt, whole_text, hidden_answer)
            answer_text = answer_text.removeprefix(self.chat.closing)
            prompt = self.encode_plain(prompt_text)
            learned, _ = self.encode_turn(answer_text, [hidden_answer])
        elif self.args.boundary == "joint":
            prompt = self.encode_prompt(question, shots)
            prompt_text = self.write_hidden_prompt(question, shots)
            whole = self._encode_with_bos(prompt_text + self._prefix + self.hide(answer))
            learned = (*whole[len(prompt) :], self.eos)
            prompt = whole[: len(prompt)]
        else:
            prompt = self.encode_prompt(question, shots)
            learned = self.encode_answer(answer)
        return Encoded.cut_answer(prompt, learned, max_length)

    def encode_answer(self, answer: str) -> tuple[int, ...]:
        """Encode an answer that no chat template shows, with the end of sequence."""
        return (*self.encode_words(answer), self.eos)

    def encode_words(self, words: str) -> tuple[int, ...]:
        """Encode the words that an answer begins with, without an end."""
        return self.encode_plain(self._prefix + self.hide(words))

    def encode_turn(self, text: str, words: Sequence[str]) -> tuple[tuple[int, ...], str]:
        """Encode an answer as a chat template shows it, up to the end of the turn.

        The end is the first end of turn after the words. A turn that ends in another way, as calls
        of tools may, ends with its last special token.

        Args:
            text: what the template shows for the turn, with what its words say hidden.
            words: what the turn says, hidden: first the answer, then calls of tools and the like.

        Returns:
            The turn's tokens and its text.

        Raises:
            UserError: the template leaves out a part of the answer.
        """
        if not is_answer_shown(words[0], text):
            raise UserError(
                f"the chat template does not show the answer as it is written: {USE_ANOTHER}"
            )
        special_tokens = self.special.find(text, find_end_of_words(text, words))
        if not special_tokens:
            ids = self.encode_plain(text)
            return (*ids, int(self.tokenizer.eos_token_id)), text
        _, _, end = special_tokens[-1]
        for token_id, _, stop in special_tokens:
            if token_id == self.eos:
                end = stop
                break
        return self.encode_plain(text[:end]), text[:end]

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Encode a text by itself, without BOS or EOS; what is hidden in it is text."""
        return self.special.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode tokens to text, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Save the template's arguments into a model's folder."""
        args = {**asdict(self.args), "kind": self.kind}
        atomic.write_text(folder / FILE, json.dumps(args, indent=1) + "\n")


def load_saved_args(folder: str) -> TemplateArgs | None:
    """Load the template that a model was saved with, if it was."""
    path = Path(folder) / FILE
    if not path.exists():
        return None
    reader = Reader()
    args: TemplateArgs | None = reader.record(
        TemplateArgs,
        json_files.read_json(path, "the model's template"),
        str(path),
    )
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return args
