"""From the rows of a table to what a model is asked, and why some rows are not."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.config.inference import InferConfig
from unteach.data.io.cells import is_missing, read_text
from unteach.data.rendered_text import refuse_unshown
from unteach.data.rows import Place, Row, Rows
from unteach.data.special_text import SpecialText
from unteach.data.template import Template
from unteach.engines.base import Ids
from unteach.errors import UserError
from unteach.inference.backends.base import Failure, Request
from unteach.inference.input_table import Columns, InputTable
from unteach.inference.output_columns import Skipped
from unteach.inference.prepared_requests import PreparedRequests
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MESSAGES = "messages"
IMAGE_PART = {"type": "image"}
MAX_PLACES = 3
"""Places of rows with the text of special tokens that a note lists."""

Turn = dict[str, Any]
"""One turn of a conversation: its role and its content."""


class RequestBuilder:
    """Builds the requests of rows.

    Args:
        template: the model's own; a server has none, and neither has a classifier.
        tokenizer: the model's own; a server has none.
        context: how many tokens the model reads.
    """

    def __init__(
        self,
        config: InferConfig,
        columns: Columns,
        template: Template | None,
        tokenizer: "PreTrainedTokenizerBase | None",
        context: int | None,
    ):
        self.config = config
        self.columns = columns
        self.template = template
        self.tokenizer = tokenizer
        self.context = context
        self.max_new_tokens = config.sampling.max_new_tokens if config.kind == "generate" else 0
        template_args = config.model.template_args if template is None else template.args
        # Of a model that reads images, such rows are refused where its processor reads them.
        is_text = template_args.special_tokens == "text" and config.modality != "vlm"
        self.special = SpecialText(tokenizer) if is_text and tokenizer is not None else None
        if context is not None and self.max_new_tokens >= context:
            raise UserError(
                f"max_new_tokens={self.max_new_tokens} leaves no room for a prompt: this model "
                f"reads {context} tokens"
            )

    def build(self, table: InputTable) -> PreparedRequests:
        """Build the requests of all rows."""
        prepared = PreparedRequests()
        for number, id_ in enumerate(table.ids):
            row, place = table.get_row(number), table.rows.locate(number)
            seed = derive_seed(self.config.seed, "infer", id_)
            try:
                request = self._build_request(number, place, row, seed)
            except UserError as error:
                prepared.unasked.append((number, Failure(str(error))))
                continue
            if self._has_special_text(row):
                prepared.num_special += 1
                if prepared.num_special <= MAX_PLACES:
                    prepared.special_text.append(str(place))
            self._add(prepared, request)
        return prepared

    def _add(self, prepared: PreparedRequests, request: Request) -> None:
        """Add a request; one that is too long is shortened or not asked, as too_long says."""
        num_over = max(0, self._count_excess(request))
        if num_over and self.config.too_long == "skip":
            prepared.unasked.append((request.number, Skipped()))
        elif num_over and (self.config.too_long == "error" or num_over >= len(request.prompt)):
            failure = Failure(self._describe_too_long(request))
            prepared.unasked.append((request.number, failure))
        else:
            prepared.requests.append(self._cut_prompt(request, num_over))
            prepared.num_cut.append(num_over)

    def build_one(self, number: int, row: Row) -> Request:
        """Build the request of one row that comes from no file, as `build` does.

        Raises:
            UserError: it cannot be asked.
        """
        place = Place("the question", "line", 0)
        prepared = self.build(InputTable(self.config, Rows([(place, row)]), [number]))
        for _, reason in prepared.unasked:
            if isinstance(reason, Failure):
                raise UserError(reason.why)
            raise UserError("the question is too long for this model")
        return replace(prepared.requests[0], number=number)

    def _has_special_text(self, row: Row) -> bool:
        """Say whether a special token is written in what is asked, and is read as text."""
        if self.special is None:
            return False
        names = (self.columns.input, self.columns.following, self.columns.answer)
        cells = [row.get(name) for name in names if name]
        if self.template is not None:
            return self.template.hides(cells)
        return self.special.stands_in(cells)

    def _count_excess(self, request: Request) -> int:
        """Count the tokens by which a request is longer than the model reads."""
        if self.context is None:
            return 0
        return len(request.prompt) + len(request.answer) + self.max_new_tokens - self.context

    def _describe_too_long(self, request: Request) -> str:
        """Say that a request is longer than the model reads, and what to do about it."""
        beside = mend = ""
        if self.max_new_tokens:
            beside = f" and {self.max_new_tokens} new ones"
            mend = ", or ask for fewer max_new_tokens"
        elif request.answer:
            beside = f" and {len(request.answer)} of the answer"
        return (
            f"a prompt of {len(request.prompt)} tokens{beside} are more than the {self.context} "
            "that the model reads; too_long=truncate_left shortens such prompts, too_long=skip "
            f"leaves them out{mend}"
        )

    def _cut_prompt(self, request: Request, num_cut: int) -> Request:
        """Take the first tokens off; the beginning of sequence stays."""
        if not num_cut:
            return request
        assert self.tokenizer is not None
        prompt = request.prompt
        start = prompt[:1] if prompt[0] == self.tokenizer.bos_token_id else ()
        return replace(request, prompt=start + prompt[len(start) + num_cut :])

    def _build_request(
        self,
        number: int,
        place: Place,
        row: Row,
        seed: int,
    ) -> Request:
        """Build the request of one row, as the kind of the run and the template need it."""
        images = self._read_images(row, place) if self.columns.image else ()
        cell = row.get(self.columns.input)
        turns = None
        text = ""
        if self._is_conversation(cell):
            turns = _read_conversation(cell, place)
        else:
            text = self._read_text(row, place)
            if not text.strip():
                raise UserError(
                    f"{place}: the column {self.columns.input!r} is empty: there is nothing to ask"
                )

        if self.config.kind == "classify" and self.tokenizer is not None:
            return Request(number, self._encode_for_classifier(text), text, seed=seed)
        if self.template is None or images or self.config.modality == "vlm":
            messages = self._build_messages(text, turns, images)
            return Request(
                number,
                text=text,
                messages=messages,
                images=images,
                seed=seed,
            )
        if self.config.kind == "score":
            if turns is not None:
                self._read_answer(row, place)
                raise UserError(
                    f"{place}: kind=score takes a prompt and an answer as text, and this row is a "
                    f"conversation"
                )
            return self._build_scored(self.template, number, place, row, text, seed)
        if turns is not None:
            rendered, prompt = self._encode_chat(self.template, turns)
            return Request(number, prompt, rendered, tuple(turns), seed=seed)
        return Request(
            number,
            prompt=self.template.encode_prompt(text),
            text=self.template.write_prompt(text),
            messages=self._build_messages(text, None, ()) if self.template.kind == "chat" else None,
            seed=seed,
        )

    def _read_text(self, row: Row, place: Place) -> str:
        """Read what is asked: a column, and on a line of its own what follows it."""
        text = read_text(row, self.columns.input, place)
        following = self.columns.following
        if following is None:
            return text
        # A row of JSON may lack a column that others have.
        following_text = read_text({following: None, **row}, following, place)
        return "\n".join(part for part in (text, following_text) if part)

    def _encode_for_classifier(self, text: str) -> Ids:
        """Tokenise a text as every classifier's are, without a template."""
        assert self.tokenizer is not None
        if self.special is None:
            return tuple(self.tokenizer(text)["input_ids"])
        return self.special.encode(self.special.hide(text), add_special_tokens=True)

    def _read_answer(self, row: Row, place: Place) -> str:
        """Read the answer that is scored."""
        assert self.columns.answer
        answer = read_text(row, self.columns.answer, place)
        if not answer:
            raise UserError(
                f"{place}: the column {self.columns.answer!r} is empty: there is no answer to score"
            )
        return answer

    def _build_scored(
        self,
        template: Template,
        number: int,
        place: Place,
        row: Row,
        text: str,
        seed: int,
    ) -> Request:
        """Build the request of a row whose answer is scored."""
        answer = self._read_answer(row, place)
        encoded = template.encode(text, answer)
        return Request(
            number,
            prompt=encoded.prompt,
            text=template.write_prompt(text),
            answer=encoded.answer,
            answer_text=answer,
            seed=seed,
        )

    def _is_conversation(self, cell: object) -> bool:
        if isinstance(cell, list):
            return True
        if self.columns.input != MESSAGES or not isinstance(cell, str):
            return False
        return cell.lstrip().startswith("[")

    def _build_messages(
        self,
        text: str,
        turns: list[Turn] | None,
        images: Sequence[Any],
    ) -> tuple[Turn, ...] | None:
        """Write the row as a conversation; None where it is asked in plain words."""
        if turns is None:
            args = self.config.model.template_args
            if self.template is None and args.kind == "raw" and not images:
                return None
            turns = []
            if args.system_prompt:
                turns.append({"role": "system", "content": args.system_prompt})
            turns.append({"role": "user", "content": text})
        if images and not any(isinstance(turn["content"], list) for turn in turns):
            turns = _put_images_first(turns, len(images))
        return tuple(turns)

    def _encode_chat(self, template: Template, turns: list[Turn]) -> tuple[str, Ids]:
        """Render a conversation by the chat template; return the text and its ids."""
        if template.kind != "chat":
            raise UserError(
                "this row is a conversation, and the model is not asked by a chat template: set "
                "template=chat"
            )
        if template.args.system_prompt and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": template.args.system_prompt}, *turns]
        hidden = template.hide_all(turns)
        rendered = template.chat.render(hidden, add_generation_prompt=True)
        refuse_unshown(hidden, rendered)
        return template.special.reveal(rendered), template.encode_plain(rendered)

    def _read_images(self, row: Row, place: Place) -> tuple[Any, ...]:
        """Read what the image column holds, as a list."""
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
        return tuple(self._find_image(image) for image in cell)

    def _find_image(self, image: Any) -> Any:
        """Look beside the input for a path that is not there; whatever else an image is stays."""
        source = self.config.input_file
        if not isinstance(image, str) or not isinstance(source, str):
            return image
        if "://" in image or Path(image).exists():
            return image
        beside = Path(source).parent / image
        return str(beside) if beside.exists() else image


def _put_images_first(turns: list[Turn], num_images: int) -> list[Turn]:
    """Put the places of images before the text of the user's first turn."""
    index = [turn["role"] for turn in turns].index("user")
    content: list[Any] = [IMAGE_PART] * num_images
    content.append({"type": "text", "text": turns[index]["content"]})
    with_images = list(turns)
    with_images[index] = {**turns[index], "content": content}
    return with_images


def _read_conversation(cell: object, place: Place) -> list[Turn]:
    """Read the turns of a conversation that waits for an answer."""
    try:
        turns = json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        raise UserError(f"{place}: the conversation is not JSON") from None
    if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
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


def _is_turn(turn: object) -> bool:
    if not isinstance(turn, dict):
        return False
    return isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str | list)


def describe_first_prompt(requests: Iterable[Request]) -> str:
    """Return the first prompt, as it is asked."""
    for request in requests:
        return request.text or json.dumps(request.messages, ensure_ascii=False)
    return "(no row can be asked)"
