"""The chat template of a tokenizer: how it renders a conversation."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unteach.config.schema import TemplateArgs
from unteach.data.chat_rendering import render
from unteach.data.reasoning import opens_reasoning
from unteach.data.rendered_text import extract_answer
from unteach.errors import UserError, find_nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Shots = Sequence[tuple[str, str]]
"""(question, answer) pairs that stand before a question, to show how."""
Earlier = Sequence[Mapping[str, str]]
"""Turns of a conversation that stand before a question, as {role, content}."""
PROBE = [
    {"role": "user", "content": "unteach asks this"},
    {"role": "assistant", "content": "unteach is told that"},
]
"""By what a chat template is tried: words that stand in none."""
THINKING_OFF = {"enable_thinking": False, "thinking": False}
"""The switches of templates that let a model think before it answers; others read neither."""


class ChatTemplate:
    """Renders conversations by a tokenizer's chat template.

    Args:
        tokenizer: has the template, or several by name.
        args: name one of them, and the date that it may show.
        thinks: False switches thinking off, where the template has such a switch.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", args: TemplateArgs, thinks: bool = True
    ):
        self.tokenizer = tokenizer
        self.thinks = thinks
        self.name = args.chat_template
        self.date_string = args.date_string

    def check_name(self) -> None:
        """Refuse a name that no template of the tokenizer has, and several without a default."""
        templates = self.tokenizer.chat_template
        names = list(templates) if isinstance(templates, dict) else []
        if self.name is not None and self.name not in names:
            has = "it has one, without a name: leave this out"
            if names:
                has = f"it has {', '.join(names)}"
            guess = find_nearest(self.name, names)
            hint = f" (did you mean {guess}?)" if guess else ""
            raise UserError(
                f"model.template_args.chat_template: this tokenizer has no chat template called "
                f"{self.name!r}{hint}; {has}"
            )
        if self.name is None and names and "default" not in names:
            raise UserError(
                f"this tokenizer has several chat templates, {', '.join(names)}, and none is "
                f"called default: say which with model.template_args.chat_template={names[0]}, or "
                "set template=qa or template=raw"
            )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """Render a conversation, with the tools that may be called in it."""
        if self.takes_parts:
            messages = _split_into_parts(messages)
        return self._apply(messages, add_generation_prompt, tools)

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether the template shows what a turn says only as a list of parts, as those of some
        models do that read images."""
        return not self._shows_probe(PROBE) and self._shows_probe(_split_into_parts(PROBE))

    @functools.cached_property
    def closing(self) -> str:
        """What closes the reasoning that prompts open, where the model is not to think; as it
        stands before an answer."""
        if self.thinks:
            return ""
        asked = self.render(PROBE[:1], add_generation_prompt=True)
        if not opens_reasoning(asked):
            return ""
        answer = PROBE[1]["content"]
        whole = self.render(PROBE, add_generation_prompt=False)
        return extract_answer(asked, whole, answer).partition(answer)[0]

    def _shows_probe(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the template shows the words of the probe."""
        try:
            rendered = self._apply(messages, add_generation_prompt=False)
        except UserError:
            return False
        # A template for text alone writes a list of parts as Python does.
        is_written_out = "'type'" in rendered or '"type"' in rendered
        return not is_written_out and all(message["content"] in rendered for message in PROBE)

    def _apply(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """Render messages in the form that the template takes."""
        # A template may ask whether a variable is defined: those that are not set are left out.
        variables: dict[str, Any] = {}
        if not self.thinks:
            variables |= THINKING_OFF
        if self.date_string:
            variables["date_string"] = self.date_string
        if tools:
            variables["tools"] = tools
        if self.name:
            variables["chat_template"] = self.name
        # The library types its messages as mappings of text alone, and its result as a union.
        apply_chat_template: Any = self.tokenizer.apply_chat_template

        def apply() -> str:
            rendered: str = apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
            return rendered

        return render(self.name or self.tokenizer.chat_template, apply)


def _split_into_parts(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Write what each turn says as a list of one part."""
    split: list[Mapping[str, Any]] = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            message = {**message, "content": [{"type": "text", "text": content}]}
        split.append(message)
    return split


def build_messages(
    system_prompt: str | None, shots: Shots, earlier: Earlier, question: str
) -> list[dict[str, str]]:
    """Build the turns of a chat up to a question.

    A conversation's own system prompt takes the place of the other, and shots stand behind it.
    """
    messages = []
    turns = [dict(turn) for turn in earlier]
    if turns and turns[0]["role"] == "system":
        messages.append(turns.pop(0))
    elif system_prompt:
        messages.append({"role": "system", "content": system_prompt})
    for shot_question, shot_answer in shots:
        messages.append({"role": "user", "content": shot_question})
        messages.append({"role": "assistant", "content": shot_answer})
    return [*messages, *turns, {"role": "user", "content": question}]
