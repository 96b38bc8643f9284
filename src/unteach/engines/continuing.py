"""Continuing a batch of prompts piece by piece: a row that is over leaves the batch, and the others go on."""

from typing import TYPE_CHECKING, Any, Protocol

from unteach.engines.base import Ids
from unteach.engines.drawing import Draw
from unteach.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 16
"""New tokens between two looks at which rows are over."""


class Asking(Protocol):
    """What an engine has that a continuation needs."""

    model: Any
    tokenizer: Any
    stops: list[int]

    @property
    def context(self) -> int | None: ...

    def _padded(self, rows: list[list[int]], left: bool) -> "dict[str, Tensor]": ...


class Continuation:
    """The library's generate(), called for a few tokens at a time on its own cache.

    A row is over at a stop id, after one of the strings `until`, after max_new_tokens, or where the context is full.
    draw: picks the tokens of the rows, where they are not the likeliest.
    """

    def __init__(self, engine: Asking, max_new_tokens: int, until: list[str], sampling: dict[str, Any]):
        self.engine, self.most, self.until = engine, max_new_tokens, until
        own = engine.model.generation_config
        self.sampling = {"do_sample": False, **sampling}
        self.least = self.sampling.pop("min_new_tokens", None) or own.min_new_tokens or 0
        beams = self.sampling.get("num_beams") or own.num_beams or 1
        self.piece = max_new_tokens if beams > 1 or getattr(engine.model, "_is_stateful", False) else PIECE

    def of(self, prompts: list[Ids], draw: Draw | None = None) -> list[list[int]]:
        import torch

        model = self.engine.model
        tensors = self.engine._padded([list(prompt) for prompt in prompts], left=True)
        ids, mask, cache = tensors["input_ids"], tensors["attention_mask"], None
        room = [self._room(prompt) for prompt in prompts]
        made: list[list[int]] = [[] for _ in prompts]
        going, done = list(range(len(prompts))), 0
        while going:
            piece = min(self.piece, *(room[i] - done for i in going))
            if draw:
                draw.rows = going
            least = {"min_new_tokens": min(piece, self.least - done)} if self.least > done else {}
            told = model.generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=piece,
                pad_token_id=self.engine.tokenizer.pad_token_id, eos_token_id=self.engine.stops,
                return_dict_in_generate=True, logits_processor=[draw] if draw else None, **self.sampling, **least,
            )  # fmt: skip
            for i, row in zip(going, told.sequences[:, ids.shape[1] :].tolist(), strict=True):
                made[i] += row
            done += piece
            on = [place for place, i in enumerate(going) if not self._over(made[i], room[i])]
            if on and len(on) < len(going):
                told.past_key_values.batch_select_indices(torch.tensor(on, device=ids.device))
            ids, cache = told.sequences[on], told.past_key_values
            mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=-1)[on]
            going = [going[place] for place in on]
        return [self._cut(row) for row in made]

    def _room(self, prompt: Ids) -> int:
        context = self.engine.context
        if context is None:
            return self.most
        if len(prompt) >= context:
            raise UserError(
                f"a prompt of {len(prompt)} tokens leaves the model no room for an answer: it reads {context}. Shorten "
                "the questions or the shown examples, or evaluate a model of a longer context"
            )
        return min(self.most, context - len(prompt))

    def _over(self, row: list[int], room: int) -> bool:
        if len(row) >= room or any(stop in row for stop in self.engine.stops):
            return True
        text = self.engine.tokenizer.decode(row, skip_special_tokens=True) if self.until else ""
        return any(one in text for one in self.until)

    def _cut(self, row: list[int]) -> list[int]:
        return row[: next((i for i, token in enumerate(row) if token in self.engine.stops), len(row))]
