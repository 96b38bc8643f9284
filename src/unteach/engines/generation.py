"""Continuous batching: while text is generated, a row that is over leaves the batch, and one that
waits takes its place.

The library's own `generate()` makes the tokens, on the library's own cache. It is called for a
piece of the text at a time, and between two pieces the batch is changed.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.engines import kv_cache
from unteach.engines.base import GenerationEngine, Ids
from unteach.engines.finiteness import NEVER, NOT_FINITE, FiniteCheck
from unteach.engines.prompt_reading import plan_reading, read_prompts
from unteach.engines.sampling import (
    LogitsProcessor,
    SeededSampler,
    build_repetition_penalty,
)
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.models.capabilities import get_capabilities

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.generation import GenerateDecoderOnlyOutput

LEAVING_SHARE = 1 / 8
"""Share of the rows that must be over before they leave: sooner, the cache is copied too often for
too little."""
PIECE = 16
"""New tokens between two looks at which rows are over, where no stopping criterion can tell: with
stop strings, and where weights are sharded."""
REFILL_SHARE = 1 / 4
"""Share of the places that must be free before rows that wait are taken in, which costs a pass of
its own."""
NO_ROWS = 1 << 30
"""The piece that a process asks for whose rows are all over: longer than any."""


class StopWhenShareDone:
    """End a call of `generate()`, as its criterion, once LEAVING_SHARE of the rows are over."""

    def __init__(self, stops: list[int], ids: "Tensor"):
        self.stops = ids.new_tensor(stops)
        self.is_over = ids.new_zeros(len(ids)).bool()  # [B]

    def __call__(self, ids: "Tensor", scores: object, **_: object) -> "Tensor":
        self.is_over |= torch.isin(ids[:, -1], self.stops)
        is_enough = self.is_over.sum() >= LEAVING_SHARE * len(ids)
        return is_enough.expand(len(ids))


@dataclass
class ActiveBatch:
    """The rows under way, padded on the left."""

    prompt_indices: list[int]
    ids: "Tensor"  # [B, T]
    mask: "Tensor"  # [B, T]
    cache: kv_cache.PlainCache | None = None
    """The library's, of the first T - 1 tokens; None before the first pass."""


class ContinuousBatching:
    """Continue prompts by calls of `generate()`, until a stop, `max_new_tokens` or a full context.

    Where weights are sharded each pass needs all processes: they make pieces of one length, and a
    process whose rows are over keeps step with the others.

    Args:
        stop_strings: texts after which a row is over.
        sampling: further arguments of `generate()`.
        refuse_non_finite: raise UserError for logits that are not finite; otherwise their prompts
            are noted in `non_finite`.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        max_new_tokens: int,
        stop_strings: list[str],
        sampling: dict[str, Any],
        refuse_non_finite: bool = False,
    ):
        self.engine = engine
        self.max_new_tokens = max_new_tokens
        self.stop_strings = stop_strings
        self.refuse_non_finite = refuse_non_finite
        defaults = engine.model.generation_config
        self.sampling = {"do_sample": False, **sampling}
        min_new_tokens = self.sampling.pop("min_new_tokens", None)
        self.min_new_tokens = min_new_tokens or defaults.min_new_tokens or 0
        # Ours does not count padding; the library's is switched off.
        penalty = self.sampling.pop("repetition_penalty", None)
        self.penalty = build_repetition_penalty(penalty or defaults.repetition_penalty)
        self.sampling["repetition_penalty"] = 1.0
        num_beams = self.sampling.get("num_beams")
        self.num_beams = num_beams or defaults.num_beams or 1

        # Beams, and a state that is no cache, cannot be interrupted.
        is_stateful = getattr(engine.model, "_is_stateful", False)
        self.in_one_go = self.num_beams > 1 or is_stateful
        self.is_synced = engine.dist.is_sharded
        # Rows leave as soon as a share of them is over; where processes keep step, after a piece.
        self.rows_leave_early = not self.in_one_go and not self.is_synced
        looks_never = self.in_one_go or (self.rows_leave_early and not stop_strings)
        self.piece = max_new_tokens if looks_never else PIECE
        self.can_continue = get_capabilities(engine.model).continuing
        is_uncut = self.in_one_go or self.is_synced
        self.reads_ahead = engine.reads_ahead and self.can_continue and not is_uncut

    def generate(
        self,
        prompts: Sequence[Ids],
        sampler: SeededSampler | None = None,
        max_rows: int | None = None,
    ) -> list[list[int]]:
        """Generate the ids of each prompt's continuation.

        Args:
            sampler: picks the tokens, where they are not the likeliest.
            max_rows: how many rows are under way at once; None for all.
        """
        assert not (max_rows and self.min_new_tokens), "rows of one batch have one minimum"
        if not self.can_continue:
            max_rows = 1
        max_rows = max_rows or len(prompts)
        self.sampler = sampler
        self.room = [self._measure_room(prompt) for prompt in prompts]
        self.generated: list[list[int]] = [[] for _ in prompts]
        self.non_finite: set[int] = set()

        waiting = deque(range(len(prompts)))
        batch: ActiveBatch | None = None
        while waiting or batch:
            if batch is None:
                batch = self._start(prompts, _take(waiting, max_rows))
            elif waiting:
                batch = self._refill(batch, prompts, waiting, max_rows)
            piece = self._choose_piece(batch)
            batch = self._step(batch, piece)
        self._keep_step()

        continuations = []
        for row in self.generated:
            end = find_stop(row, self.engine.stops)
            continuations.append(row[:end])
        return continuations

    def _refill(
        self,
        batch: ActiveBatch,
        prompts: Sequence[Ids],
        waiting: deque[int],
        max_rows: int,
    ) -> ActiveBatch:
        """Take rows that wait into a batch, where enough of its places are free."""
        num_free = max_rows - len(batch.prompt_indices)
        if num_free < REFILL_SHARE * max_rows or not kv_cache.is_plain_cache(batch.cache):
            return batch
        # New rows make one token by themselves, which gives them a cache to be joined by.
        newcomers = self._start(prompts, _take(waiting, num_free))
        return self._join(batch, self._step(newcomers, piece=1))

    def _choose_piece(self, batch: ActiveBatch) -> int:
        """Choose how many tokens the next call makes: no row may go beyond its room."""
        piece = self.piece
        for i in batch.prompt_indices:
            num_left = self.room[i] - len(self.generated[i])
            piece = min(piece, num_left)
        return piece

    def _agree_on_piece(self, piece: int) -> int:
        """Take the shortest piece of all processes, unless pieces cannot be cut."""
        if not self.is_synced:
            return piece
        shortest = self.engine.dist.min(piece)
        return piece if self.in_one_go else shortest

    def _keep_step(self) -> None:
        """Make passes over nothing until the rows of all processes are over."""
        while self.is_synced:
            piece = self.engine.dist.min(NO_ROWS)
            if piece == NO_ROWS:
                return
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

    def _start(self, prompts: Sequence[Ids], prompt_indices: list[int]) -> ActiveBatch:
        """Make a batch of prompts, of which nothing is generated yet."""
        rows = [list(prompts[i]) for i in prompt_indices]
        tensors = self.engine.pad_rows(rows, left=True)
        batch = ActiveBatch(prompt_indices, tensors["input_ids"], tensors["attention_mask"])
        calls = plan_reading([prompts[i] for i in prompt_indices]) if self.reads_ahead else []
        if calls:
            batch.cache = read_prompts(self.engine, calls, [prompts[i] for i in prompt_indices])
            self.reads_ahead = self.engine.reads_ahead = batch.cache is not None
        return batch

    def _step(self, batch: ActiveBatch, piece: int) -> ActiveBatch | None:
        """Generate a piece more; return the rows that are not over, None where there are none."""
        piece = self._agree_on_piece(piece)
        num_before = batch.ids.shape[1]
        finite = FiniteCheck()
        output = self._call_generate(batch, piece, finite)

        # What is new goes to the rows' texts.
        new_rows: list[list[int]] = output.sequences[:, num_before:].tolist()
        for i, row in zip(batch.prompt_indices, new_rows, strict=True):
            self.generated[i] += row
        self._record_non_finite(batch, new_rows, finite)
        return self._drop_finished(batch, output)

    def _record_non_finite(
        self,
        batch: ActiveBatch,
        new_rows: list[list[int]],
        finite: FiniteCheck,
    ) -> None:
        """Record which rows had logits that are not finite before they were over.

        A row goes on being read after its stop while others are under way, and what its logits are
        then does not matter; beams read none in vain.
        """
        if self.num_beams > 1:
            lengths = [NEVER] * len(new_rows)
        else:
            lengths = []
            for row in new_rows:
                # The stop itself is one of a row's own tokens.
                end = find_stop(row, self.engine.stops) + 1
                lengths.append(min(end, len(row)))
        broken = finite.find_broken(lengths)
        for i, is_broken in zip(batch.prompt_indices, broken, strict=True):
            if is_broken:
                self.non_finite.add(i)
        if self.non_finite and self.refuse_non_finite:
            raise UserError(f"generating: {NOT_FINITE}")

    def _drop_finished(
        self,
        batch: ActiveBatch,
        output: "GenerateDecoderOnlyOutput",
    ) -> ActiveBatch | None:
        """Keep the rows that are not over, with their part of the cache; None where there are
        none."""
        rows_left = []
        prompt_indices = []
        for row, i in enumerate(batch.prompt_indices):
            if not self._is_over(i):
                rows_left.append(row)
                prompt_indices.append(i)
        if not rows_left:
            return None
        cache: Any = output.past_key_values
        if len(rows_left) < len(batch.prompt_indices):
            cache.batch_select_indices(torch.tensor(rows_left, device=batch.ids.device))
        num_new = output.sequences.shape[1] - batch.ids.shape[1]
        mask = F.pad(batch.mask, (0, num_new), value=1)
        left = ActiveBatch(
            prompt_indices,
            ids=output.sequences[rows_left],
            mask=mask[rows_left],
            cache=cache,
        )
        return self._trim(left)

    def _call_generate(
        self,
        batch: ActiveBatch,
        piece: int,
        finite: FiniteCheck,
    ) -> "GenerateDecoderOnlyOutput":
        """Call the library for a piece more, with processors that know the rows of this batch."""
        processors: list[LogitsProcessor] = [finite]
        if self.penalty:
            self.penalty.mask = batch.mask
            processors.append(self.penalty)
        if self.sampler:
            self.sampler.rows = batch.prompt_indices
            processors.append(self.sampler)
        criteria = []
        if self.rows_leave_early:
            criteria.append(StopWhenShareDone(self.engine.stops, batch.ids))
        library_args = dict(self.sampling)
        # Rows of one batch have one minimum, so the first stands for all.
        first = batch.prompt_indices[0]
        still_required = self.min_new_tokens - len(self.generated[first])
        if still_required > 0:
            library_args["min_new_tokens"] = min(piece, still_required)
        output: GenerateDecoderOnlyOutput = self.engine.model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            max_new_tokens=piece,
            pad_token_id=self.engine.tokenizer.pad_token_id,
            eos_token_id=self.engine.stops,
            return_dict_in_generate=True,
            logits_processor=processors,
            stopping_criteria=criteria,
            synced_gpus=self.is_synced,
            **library_args,
        )
        return output

    def _trim(self, batch: ActiveBatch) -> ActiveBatch:
        """Take off the padding that no row needs any more."""
        is_padding = batch.mask.cumsum(-1) == 0  # [B, T]
        num_padding = int(is_padding.sum(-1).min())
        if num_padding and kv_cache.is_plain_cache(batch.cache):
            kv_cache.trim(batch.cache, num_padding)
            batch.ids = batch.ids[:, num_padding:]
            batch.mask = batch.mask[:, num_padding:]
        return batch

    def _join(self, batch: ActiveBatch, newcomers: ActiveBatch | None) -> ActiveBatch:
        """Put the rows of two batches side by side; the narrower one is padded on the left."""
        if newcomers is None:
            return batch
        width = max(batch.ids.shape[1], newcomers.ids.shape[1])
        filler = self.engine.tokenizer.pad_token_id
        ids = []
        masks = []
        for part in (batch, newcomers):
            num_padding = width - part.ids.shape[1]
            ids.append(F.pad(part.ids, (num_padding, 0), value=filler))
            masks.append(F.pad(part.mask, (num_padding, 0)))
        assert batch.cache is not None and newcomers.cache is not None
        kv_cache.join(batch.cache, newcomers.cache)
        prompt_indices = batch.prompt_indices + newcomers.prompt_indices
        return ActiveBatch(prompt_indices, torch.cat(ids), torch.cat(masks), batch.cache)

    def _measure_room(self, prompt: Ids) -> int:
        """Say how many tokens a prompt's continuation may have."""
        context = self.engine.context
        if context is None:
            return self.max_new_tokens
        if len(prompt) >= context:
            raise UserError(
                f"a prompt of {len(prompt)} tokens leaves the model no room for an answer: it "
                f"reads {context}. Shorten the questions or the shown examples, or evaluate a "
                "model of a longer context"
            )
        return min(self.max_new_tokens, context - len(prompt))

    def _is_over(self, prompt_index: int) -> bool:
        """Say whether a row has a stop, a stop string or no room left."""
        row = self.generated[prompt_index]
        if len(row) >= self.room[prompt_index]:
            return True
        if find_stop(row, self.engine.stops) < len(row):
            return True
        if not self.stop_strings:
            return False
        text = self.engine.tokenizer.decode(row, skip_special_tokens=True)
        return any(stop in text for stop in self.stop_strings)


def find_stop(row: Sequence[int], stops: Sequence[int]) -> int:
    """Return where the first stop of a row is; its length where there is none."""
    for i, token in enumerate(row):
        if token in stops:
            return i
    return len(row)


def _take(waiting: deque[int], limit: int) -> list[int]:
    """Take the first of those that wait."""
    return [waiting.popleft() for _ in range(min(limit, len(waiting)))]
