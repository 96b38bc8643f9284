"""From the rows of a table to what a model is asked, and why some rows are not."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.config.inference import InferConfig
from unteach.data.io.cells import is_missing, read_text
from unteach.data.rendered_text import refuse_unshown
from unteach.data.rows import Place, Row
from unteach.data.special_text import SpecialText
from unteach.data.template import Template
from unteach.engines.base import Ids
from unteach.errors import UserError
from unteach.inference.backends.base import Failure, Request
from unteach.inference.input_table import Columns, InputTable
from unteach.inference.output_columns import Skipped
from unteach.inference.result_store import Line
from unteach.seeds import subseed

MESSAGES, IMAGE_PART = "messages", {"type": "image"}


@dataclass
class PreparedRequests:
    """What is asked of each row. unasked: why nothing is asked of one. cut: tokens that prompts
    lost, by row. special: places of rows in which special tokens are written, which are read as
    text."""

    requests: list[Request] = field(default_factory=list)
    unasked: dict[int, Failure | Skipped] = field(default_factory=dict)
    cut: dict[int, int] = field(default_factory=dict)
    special: list[str] = field(default_factory=list)

    @property
    def longest(self) -> int:
        return max(
            (len(request.prompt) + len(request.answer) for request in self.requests), default=0
        )


class RequestBuilder:
    """Builds the requests of rows.

    template, tokenizer: the model's own; a server has neither, and a classifier no template.
    context: how many tokens the model reads.
    """

    def __init__(
        self,
        config: InferConfig,
        columns: Columns,
        template: Template | None,
        tokenizer: Any,
        context: int | None,
    ):
        self.config = config
        self.columns = columns
        self.template = template
        self.tokenizer = tokenizer
        self.new = config.sampling.max_new_tokens if config.kind == "generate" else 0
        self.context = context
        is_text = config.model.template_args.special_tokens == "text"
        if template is not None:
            is_text = template.args.special_tokens == "text"
        # Of a model that reads images, such rows are refused where its processor reads them.
        has_own_text = tokenizer is not None and config.modality != "vlm"
        self.special = SpecialText(tokenizer) if has_own_text and is_text else None
        if context is not None and self.new >= context:
            raise UserError(
                f"max_new_tokens={self.new} leaves no room for a prompt: this model reads "
                f"{context} tokens"
            )

    def ask(self, sheet: InputTable) -> PreparedRequests:
        asked = PreparedRequests()
        for number, ((place, row), line) in enumerate(zip(sheet.rows, sheet.lines, strict=True)):
            try:
                request = self._request(
                    number, place, row, subseed(self.config.seed, "infer", line.id)
                )
            except UserError as error:
                asked.unasked[number] = Failure(str(error))
                continue
            if self.special is not None and self._has_special_text(row):
                asked.special.append(str(place))
            over = len(request.prompt) + len(request.answer) + self.new - (self.context or 1 << 62)
            if over > 0 and self.config.too_long == "skip":
                asked.unasked[number] = Skipped()
            elif over > 0 and (self.config.too_long == "error" or over >= len(request.prompt)):
                asked.unasked[number] = Failure(self._too_long(request))
            else:
                if over > 0:
                    request, asked.cut[number] = self._shortened(request, over), over
                asked.requests.append(request)
        return asked

    def _has_special_text(self, row: Row) -> bool:
        """Whether a special token is written in what is asked, and is read as text."""
        cells = [
            row.get(name)
            for name in (self.columns.input, self.columns.following, self.columns.answer)
            if name
        ]
        if self.template is not None:
            return self.template.hides(cells)
        return self.special is not None and self.special.stands_in(cells)

    def ask_one(self, number: int, row: Row) -> Request:
        """The request of one row that comes from no file, as `ask` builds it; UserError where it
        cannot be asked."""
        place = Place("the question", "line", 0)
        line = Line(number, row, "")
        asked = self.ask(InputTable([(place, row)], [line], []))
        for why in asked.unasked.values():
            raise UserError(
                why.why if isinstance(why, Failure) else "the question is too long for this model"
            )
        return replace(asked.requests[0], number=number)

    def _too_long(self, request: Request) -> str:
        after = f"{self.new} new ones" if self.new else f"{len(request.answer)} of the answer"
        beside = f" and {after}" if self.new or request.answer else ""
        mend = ", or ask for fewer max_new_tokens" if self.new else ""
        return (
            f"a prompt of {len(request.prompt)} tokens{beside} are more than the {self.context} "
            "that the model reads; too_long=truncate_left shortens such prompts, too_long=skip "
            f"leaves them out{mend}"
        )

    def _shortened(self, request: Request, over: int) -> Request:
        """Without its first tokens; the beginning of sequence stays."""
        first = request.prompt[:1] if request.prompt[0] == self.tokenizer.bos_token_id else ()
        return replace(request, prompt=first + request.prompt[len(first) + over :])

    def _request(self, number: int, place: Place, row: Row, seed: int) -> Request:
        images = self._images(row, place) if self.columns.image else ()
        cell = row.get(self.columns.input)
        turns = _conversation(cell, place) if self._is_conversation(cell) else None
        text = "" if turns else self._text(row, place)
        if not turns and not text.strip():
            raise UserError(
                f"{place}: the column {self.columns.input!r} is empty: there is nothing to ask"
            )
        # as every classifier is asked
        if self.config.kind == "classify" and self.tokenizer is not None:
            if self.special is None:
                return Request(number, tuple(self.tokenizer(text)["input_ids"]), text, seed=seed)
            ids = self.special.encode(self.special.hide(text), add_special_tokens=True)
            return Request(number, ids, text, seed=seed)
        if self.template is None or images or self.config.modality == "vlm":
            return Request(number, (), text, self._turns(text, turns, images), images, seed=seed)
        if self.config.kind == "score":
            return self._scored(number, place, row, text, turns, seed)
        if turns:
            shown, prompt = self._chat(turns)
            return Request(number, prompt, shown, tuple(turns), seed=seed)
        messages = self._turns(text, None, ()) if self.template.kind == "chat" else None
        return Request(
            number,
            self.template.encode_prompt(text),
            self.template.write_prompt(text),
            messages,
            seed=seed,
        )

    def _text(self, row: Row, place: Place) -> str:
        """What is asked: a column, and on a line of its own what follows it."""
        asked, following = read_text(row, self.columns.input, place), self.columns.following
        if following is None:
            return asked
        # A row of JSON may lack a column that others have.
        texts = (asked, read_text({following: None, **row}, following, place))
        return "\n".join(text for text in texts if text)

    def _scored(
        self,
        number: int,
        place: Place,
        row: Row,
        text: str,
        turns: list[dict[str, Any]] | None,
        seed: int,
    ) -> Request:
        assert self.columns.answer and self.template
        answer = read_text(row, self.columns.answer, place)
        if not answer:
            raise UserError(
                f"{place}: the column {self.columns.answer!r} is empty: there is no answer to score"
            )
        if turns:
            raise UserError(
                f"{place}: kind=score takes a prompt and an answer as text, and this row is a "
                f"conversation"
            )
        encoded = self.template.encode(text, answer)
        return Request(
            number,
            encoded.prompt,
            self.template.write_prompt(text),
            None,
            (),
            encoded.answer,
            answer,
            seed,
        )

    def _is_conversation(self, cell: object) -> bool:
        listed = isinstance(cell, list)
        return listed or (
            self.columns.input == MESSAGES
            and isinstance(cell, str)
            and cell.lstrip().startswith("[")
        )

    def _turns(
        self, text: str, turns: list[dict[str, Any]] | None, images: Sequence[Any]
    ) -> tuple[dict[str, Any], ...] | None:
        """The row as a conversation; None where it is asked in plain words."""
        args = self.config.model.template_args
        if turns is None:
            if self.template is None and args.kind == "raw" and not images:
                return None
            turns = (
                [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
            )
            turns.append({"role": "user", "content": text})
        if images and not any(isinstance(turn["content"], list) for turn in turns):
            first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
            parts = [
                *([IMAGE_PART] * len(images)),
                {"type": "text", "text": turns[first]["content"]},
            ]
            turns = [
                {**turn, "content": parts} if i == first else turn for i, turn in enumerate(turns)
            ]
        return tuple(turns)

    def _chat(self, turns: list[dict[str, Any]]) -> tuple[str, Ids]:
        template = self.template
        assert template
        if template.kind != "chat":
            raise UserError(
                "this row is a conversation, and the model is not asked by a chat template: set "
                "template=chat"
            )
        if template.args.system_prompt and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": template.args.system_prompt}, *turns]
        hidden = template.hide_all(turns)
        shown = template.chat.render(hidden, add_generation_prompt=True)
        refuse_unshown(hidden, shown)
        return template.special.reveal(shown), template.encode_plain(shown)

    def _images(self, row: Row, place: Place) -> tuple[Any, ...]:
        """What the image column holds, as a list; a path that is not there is looked for beside the
        input."""
        cell = row.get(self.columns.image or "")
        if isinstance(cell, str) and cell.lstrip().startswith("["):
            try:
                cell = json.loads(cell)
            except ValueError:
                raise UserError(
                    f"{place}: the column {self.columns.image!r} begins a list and is not JSON"
                ) from None
        if not isinstance(cell, list | tuple):
            cell = [] if is_missing(cell) else [cell]
        if not cell:
            raise UserError(
                f"{place}: the column {self.columns.image!r} is empty: there is no image"
            )
        return tuple(self._beside(one) for one in cell)

    def _beside(self, image: Any) -> Any:
        source = self.config.input_file
        if (
            not isinstance(image, str)
            or "://" in image
            or Path(image).exists()
            or not isinstance(source, str)
        ):
            return image
        beside = Path(source).parent / image
        return str(beside) if beside.exists() else image


def _conversation(cell: Any, place: Place) -> list[dict[str, Any]]:
    """The turns of a conversation that waits for an answer."""
    try:
        turns = json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        raise UserError(f"{place}: the conversation is not JSON") from None
    fine = isinstance(turns, list) and turns and all(_is_turn(turn) for turn in turns)
    if not fine:
        raise UserError(
            f'{place}: a conversation is a list of {{"role": …, "content": …}}, with one turn or '
            f"more"
        )
    if turns[-1]["role"] == "assistant":
        raise UserError(
            f"{place}: the conversation ends with the assistant's turn: there is nothing to answer"
        )
    if not any(turn["role"] == "user" for turn in turns):
        raise UserError(
            f"{place}: nobody asks anything in this conversation: no turn is the user's"
        )
    return list(turns)


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str | list)
    )


def shown(requests: Iterable[Request]) -> str:
    """The first prompt, as it is asked."""
    first = next(iter(requests), None)
    if first is None:
        return "(no row can be asked)"
    return first.text or json.dumps(first.messages, ensure_ascii=False)
