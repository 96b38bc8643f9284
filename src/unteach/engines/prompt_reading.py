"""Read the prompts of a batch before it is continued: one that several rows have once, those of
unlike lengths apart, so that hardly any padding is read with them, and what all of a call start
with, such as a system prompt, once.
"""

from collections.abc import Sequence
from itertools import takewhile

from unteach.engines import kv_cache
from unteach.engines.base import GenerationEngine, Ids
from unteach.lazy import torch

SHORTEST_SHARE = 3 / 4
"""Of the longest prompt of a call, what its shortest has at least."""
WORTH_SHARE = 3 / 4
"""Of the padded tokens of a batch, what is read apart at most: more is not worth the calls."""


def plan_reading(prompts: Sequence[Ids]) -> list[list[Ids]]:
    """Plan the calls that read prompts, each but for its last token, which the first step reads.

    Returns:
        The different beginnings of each call, the longest first; nothing where one call for the
        whole batch reads hardly more, or a prompt is a single token.
    """
    beginnings = sorted({tuple(prompt[:-1]) for prompt in prompts}, key=len, reverse=True)
    if not beginnings[-1]:
        return []
    calls: list[list[Ids]] = []
    for beginning in beginnings:
        if calls and len(beginning) >= SHORTEST_SHARE * len(calls[-1][0]):
            calls[-1].append(beginning)
        else:
            calls.append([beginning])
    num_apart = sum(map(_count_tokens, calls))
    num_together = len(prompts) * len(beginnings[0])
    return calls if num_apart <= WORTH_SHARE * num_together else []


def _count_tokens(call: Sequence[Ids]) -> int:
    """Count the padded tokens of a call, what all start with once."""
    num_shared = _find_shared(call)
    return num_shared + len(call) * (len(call[0]) - num_shared)


def _find_shared(call: Sequence[Ids]) -> int:
    """Find how many tokens all beginnings of a call start with; 0 where too little is saved by
    reading them once."""
    # What the first and the last in the order of their tokens start with, all between them do.
    first, last = min(call), max(call)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    num_shared = sum(1 for _ in alike)
    num_padded = len(call) * len(call[0])
    num_saved = (len(call) - 1) * num_shared
    return num_shared if num_padded - num_saved <= WORTH_SHARE * num_padded else 0


def read_prompts(
    engine: GenerationEngine, calls: Sequence[Sequence[Ids]], prompts: Sequence[Ids]
) -> kv_cache.PlainCache | None:
    """Read all but the last token of prompts.

    Args:
        calls: as they are planned.

    Returns:
        The cache of a row for each prompt, padded on the left; None where the model's cache is of
        another kind.
    """
    first_call, *other_calls = calls
    cache = _read_call(engine, first_call)
    if cache is None:
        return None
    for call in other_calls:
        further = _read_call(engine, call)
        assert further is not None, "one model has caches of one kind"
        kv_cache.join(cache, further)
    beginnings = [beginning for call in calls for beginning in call]
    places = {beginning: place for place, beginning in enumerate(beginnings)}
    rows = [places[tuple(prompt[:-1])] for prompt in prompts]
    cache.batch_select_indices(torch.tensor(rows, device=engine.device))
    return cache


def _read_call(engine: GenerationEngine, call: Sequence[Ids]) -> kv_cache.PlainCache | None:
    """Read the beginnings of a call; None where the model's cache is of another kind."""
    start: kv_cache.PlainCache | None = None
    num_shared = _find_shared(call)
    if num_shared:
        shared = _read(engine, [call[0][:num_shared]])
        if not kv_cache.is_plain_cache(shared):
            return None
        # The rest is as wide as the longest; a shorter row's takes in the end of what is shared.
        width = len(call[0]) - num_shared
        kv_cache.spread(shared, [max(len(row) - width, 0) for row in call])
        start = shared
    cache = _read(engine, call, start)
    return cache if kv_cache.is_plain_cache(cache) else None


def _read(
    engine: GenerationEngine, rows: Sequence[Ids], cache: kv_cache.PlainCache | None = None
) -> object:
    """Have the library read rows, and let go of the token that it makes.

    Args:
        cache: of the first tokens of the padded rows, which are not read again.
    """
    tensors = engine.pad_rows([list(row) for row in rows], left=True)
    output = engine.model.generate(
        input_ids=tensors["input_ids"],
        attention_mask=tensors["attention_mask"],
        past_key_values=cache,
        max_new_tokens=1,
        do_sample=False,
        repetition_penalty=1.0,
        pad_token_id=engine.tokenizer.pad_token_id,
        eos_token_id=engine.stops,
        return_dict_in_generate=True,
    )
    return output.past_key_values
