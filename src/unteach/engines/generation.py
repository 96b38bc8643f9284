"""Continuing prompts: a row that is over leaves the batch, and one that waits takes its place."""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from unteach.distributed.process_context import DistContext
from unteach.engines import kv_cache
from unteach.engines.base import Ids
from unteach.engines.finiteness import NEVER, NOT_FINITE, Finite
from unteach.engines.sampling import Draw, penalty
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.models.capabilities import capabilities_of
from unteach.models.layers import causal_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

TOKENS = {"cuda": 65536, "cpu": 32768}
"""Tokens that a batch of continuations may come to, with prompts: a step makes one token a row, so
rows are cheap."""
CACHE = {"cuda": 8 << 30, "cpu": 1 << 30}
"""Bytes that the keys and values of so many tokens may take."""
LEAVING = 1 / 8
"""The share of the rows that are over at which they leave: sooner, the cache is copied too often
for too little."""
PIECE = 16
"""New tokens between two looks at which rows are over, where they do not tell themselves: `until`,
sharded weights."""
REFILL = 4
"""Rows that wait are taken in once one place in so many is free; to take them in costs a pass of
its own."""

NOTHING = 1 << 30
"""The piece of a process whose rows are all over."""


class Asking(Protocol):
    """What an engine has that a continuation needs."""

    model: Any
    tokenizer: Any
    stops: list[int]
    dist: DistContext

    @property
    def device(self) -> Any: ...

    @property
    def context(self) -> int | None: ...

    def _padded(self, rows: list[list[int]], left: bool) -> "dict[str, Tensor]": ...


def budget(model: "PreTrainedModel", device: str) -> int | None:
    """How many tokens a batch of continuations may come to; None where the cache is not of keys and
    values alone."""
    config = causal_of(model).config.get_text_config()
    # Where layers differ in a setting, the configuration has no one value and refuses to give any
    # as an attribute.
    settings = {name: value for name, value in config.to_dict().items() if isinstance(value, int)}
    for name, own in config.attribute_map.items():
        settings.setdefault(name, settings.get(own, 0))
    heads = settings.get("num_attention_heads")
    if getattr(model, "_is_stateful", False) or not heads:
        return None
    width = settings.get("head_dim") or config.hidden_size // heads
    numbers = 2 * config.num_hidden_layers * (settings.get("num_key_value_heads") or heads) * width
    return min(TOKENS[device], CACHE[device] // (numbers * next(model.parameters()).element_size()))


class Enough:
    """Ends a call of generate(), as its stopping criterion, once LEAVING of the rows have said a
    stop."""

    def __init__(self, stops: list[int], ids: "Tensor"):
        self.stops, self.over = ids.new_tensor(stops), ids.new_zeros(len(ids)).bool()

    def __call__(self, ids: "Tensor", scores: Any, **_: Any) -> "Tensor":
        self.over |= torch.isin(ids[:, -1], self.stops)
        return (self.over.sum() >= LEAVING * len(ids)).expand(len(ids))


@dataclass
class Going:
    """Rows under way: the numbers of their prompts, ids and mask [rows, T], the library's cache (of
    T - 1 tokens)."""

    rows: list[int]
    ids: "Tensor"
    mask: "Tensor"
    cache: Any = None


class Continuation:
    """The library's generate(), called on its own cache until rows are over, again and again.

    A row is over at a stop id, after one of the strings `until`, after max_new_tokens, or where the
    context is full.
    draw: picks the tokens of the rows, where they are not the likeliest. broken: the rows whose
    logits were not finite; with `refusing` one raises UserError. Where weights are sharded, each
    pass needs all processes: they make pieces of one length, and those whose rows are over keep
    step with the others.
    """

    def __init__(
        self,
        engine: Asking,
        max_new_tokens: int,
        until: list[str],
        sampling: dict[str, Any],
        refusing: bool = False,
    ):
        self.engine, self.most, self.until, self.refusing = engine, max_new_tokens, until, refusing
        own = engine.model.generation_config
        self.sampling = {"do_sample": False, **sampling}
        self.least = self.sampling.pop("min_new_tokens", None) or own.min_new_tokens or 0
        given = self.sampling.pop("repetition_penalty", None) or own.repetition_penalty
        self.penalty = penalty(given)
        self.sampling["repetition_penalty"] = 1.0
        self.beams = self.sampling.get("num_beams") or own.num_beams or 1
        self.whole, self.synced = (
            self.beams > 1 or getattr(engine.model, "_is_stateful", False),
            engine.dist.is_sharded,
        )
        self.leaving = not self.whole and not self.synced
        self.piece = max_new_tokens if self.whole or (self.leaving and not until) else PIECE

    def of(
        self, prompts: list[Ids], draw: Draw | None = None, slots: int | None = None
    ) -> list[list[int]]:
        """The ids of each prompt's continuation. slots: how many rows go on at once; all, where it
        is not said."""
        assert not (slots and self.least), (
            "rows of one batch have said equally much where a least is asked for"
        )
        if not capabilities_of(self.engine.model).continuing:
            slots = 1
        self.room, self.draw = [self._room(prompt) for prompt in prompts], draw
        self.made: list[list[int]] = [[] for _ in prompts]
        self.broken: set[int] = set()
        waiting, slots, going = deque(range(len(prompts))), slots or len(prompts), None
        while waiting or going:
            free = slots - len(going.rows) if going else slots
            if going is None:
                going = self._start(
                    prompts, [waiting.popleft() for _ in range(min(free, len(waiting)))]
                )
            elif waiting and free * REFILL >= slots and kv_cache.grows(going.cache):
                fresh = self._start(
                    prompts, [waiting.popleft() for _ in range(min(free, len(waiting)))]
                )
                going = self._joined(going, self._step(fresh, 1))
            going = self._step(
                going, min(self.piece, *(self.room[i] - len(self.made[i]) for i in going.rows))
            )
        self._keep_step()
        return [self._cut(row) for row in self.made]

    def _together(self, piece: int) -> int:
        """The length of the next piece: the shortest that any process has left, unless pieces
        cannot be cut."""
        if not self.synced:
            return piece
        least = self.engine.dist.min(piece)
        return piece if self.whole else least

    def _keep_step(self) -> None:
        """Continuations of nothing, until the rows of all processes are over."""
        while self.synced and (piece := self.engine.dist.min(NOTHING)) != NOTHING:
            ids = torch.full((1, 1), self.engine.stops[0], device=self.engine.device)
            self.engine.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=piece,
                do_sample=False,
                synced_gpus=True,
                pad_token_id=self.engine.tokenizer.pad_token_id,
                eos_token_id=self.engine.stops,
            )

    def _start(self, prompts: list[Ids], rows: list[int]) -> Going:
        tensors = self.engine._padded([list(prompts[i]) for i in rows], left=True)
        return Going(rows, tensors["input_ids"], tensors["attention_mask"])

    def _step(self, going: Going, piece: int) -> Going | None:
        """So many tokens more; the rows that are not over yet."""
        piece, done = self._together(piece), len(self.made[going.rows[0]])
        least = {"min_new_tokens": min(piece, self.least - done)} if self.least > done else {}
        if self.draw:
            self.draw.rows = going.rows
        if self.penalty:
            self.penalty.mask = going.mask
        finite = Finite()
        told = self.engine.model.generate(
            input_ids=going.ids,
            attention_mask=going.mask,
            past_key_values=going.cache,
            max_new_tokens=piece,
            pad_token_id=self.engine.tokenizer.pad_token_id,
            eos_token_id=self.engine.stops,
            return_dict_in_generate=True,
            logits_processor=[finite, *(one for one in (self.penalty, self.draw) if one)],
            stopping_criteria=[Enough(self.engine.stops, going.ids)] if self.leaving else [],
            synced_gpus=self.synced,
            **self.sampling,
            **least,
        )
        new_rows: list[list[int]] = told.sequences[:, going.ids.shape[1] :].tolist()
        for i, row in zip(going.rows, new_rows, strict=True):
            self.made[i] += row
        # A row goes on being read after its stop while others are under way; a search for beams
        # reads none in vain.
        lengths = [NEVER if self.beams > 1 else len(self._until_stop(row)) for row in new_rows]
        self.broken |= {
            i for i, is_broken in zip(going.rows, finite.broken(lengths), strict=True) if is_broken
        }
        if self.broken and self.refusing:
            raise UserError(f"generating: {NOT_FINITE}")
        on = [
            place
            for place, i in enumerate(going.rows)
            if not self._over(self.made[i], self.room[i])
        ]
        if not on:
            return None
        if len(on) < len(going.rows):
            told.past_key_values.batch_select_indices(torch.tensor(on, device=going.ids.device))
        new = told.sequences.shape[1] - going.ids.shape[1]
        mask = torch.cat([going.mask, going.mask.new_ones(len(going.mask), new)], dim=-1)[on]
        return self._trimmed(
            Going(
                [going.rows[place] for place in on], told.sequences[on], mask, told.past_key_values
            )
        )

    def _trimmed(self, going: Going) -> Going:
        """Without the padding that no row needs any more."""
        lead = int((going.mask.cumsum(-1) == 0).sum(-1).min())
        if lead and kv_cache.grows(going.cache):
            kv_cache.trim(going.cache, lead)
            going.ids, going.mask = going.ids[:, lead:], going.mask[:, lead:]
        return going

    def _joined(self, going: Going, fresh: Going | None) -> Going:
        """Both, side by side."""

        if fresh is None:
            return going
        most, filler = (
            max(going.ids.shape[1], fresh.ids.shape[1]),
            self.engine.tokenizer.pad_token_id,
        )
        wide = [most - one.ids.shape[1] for one in (going, fresh)]
        ids = [
            F.pad(one.ids, (n, 0), value=filler)
            for one, n in zip((going, fresh), wide, strict=True)
        ]
        mask = [F.pad(one.mask, (n, 0)) for one, n in zip((going, fresh), wide, strict=True)]
        kv_cache.join(going.cache, fresh.cache)
        return Going(going.rows + fresh.rows, torch.cat(ids), torch.cat(mask), going.cache)

    def _room(self, prompt: Ids) -> int:
        context = self.engine.context
        if context is None:
            return self.most
        if len(prompt) >= context:
            raise UserError(
                f"a prompt of {len(prompt)} tokens leaves the model no room for an answer: it "
                f"reads {context}. Shorten the questions or the shown examples, or evaluate a "
                "model of a longer context"
            )
        return min(self.most, context - len(prompt))

    def _over(self, row: list[int], room: int) -> bool:
        if len(row) >= room or any(stop in row for stop in self.engine.stops):
            return True
        text = self.engine.tokenizer.decode(row, skip_special_tokens=True) if self.until else ""
        return any(one in text for one in self.until)

    def _until_stop(self, row: list[int]) -> list[int]:
        """With the stop that ends it."""
        return row[
            : next((i for i, token in enumerate(row, 1) if token in self.engine.stops), len(row))
        ]

    def _cut(self, row: list[int]) -> list[int]:
        return row[
            : next((i for i, token in enumerate(row) if token in self.engine.stops), len(row))
        ]
