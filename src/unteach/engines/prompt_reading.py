"""Read the prompts of a batch before it is continued: one that several rows have once, and those of
unlike lengths apart, so that hardly any padding is read with them.
"""

from collections.abc import Sequence

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
    num_apart = sum(len(call) * len(call[0]) for call in calls)
    num_together = len(prompts) * len(beginnings[0])
    return calls if num_apart <= WORTH_SHARE * num_together else []


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
    cache = _read(engine, first_call)
    if not kv_cache.is_plain_cache(cache):
        return None
    for call in other_calls:
        further = _read(engine, call)
        assert kv_cache.is_plain_cache(further), "one model has caches of one kind"
        kv_cache.join(cache, further)
    beginnings = [beginning for call in calls for beginning in call]
    places = {beginning: place for place, beginning in enumerate(beginnings)}
    rows = [places[tuple(prompt[:-1])] for prompt in prompts]
    cache.batch_select_indices(torch.tensor(rows, device=engine.device))
    return cache


def _read(engine: GenerationEngine, rows: Sequence[Ids]) -> object:
    """Have the library read rows, and let go of the token that it makes."""
    tensors = engine.pad_rows([list(row) for row in rows], left=True)
    output = engine.model.generate(
        input_ids=tensors["input_ids"],
        attention_mask=tensors["attention_mask"],
        max_new_tokens=1,
        do_sample=False,
        repetition_penalty=1.0,
        pad_token_id=engine.tokenizer.pad_token_id,
        eos_token_id=engine.stops,
        return_dict_in_generate=True,
    )
    return output.past_key_values
