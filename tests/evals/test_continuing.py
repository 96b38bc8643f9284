"""Continuations in pieces are the library's in one go; rows that are over cost nothing more."""

import copy
from typing import Any

import pytest
import torch

from unteach.engines import generation, token_budget
from unteach.engines.hf import HFEngine

PROMPTS = [tuple(range(3 + i, 6 + 2 * i)) for i in range(1, 9)]


def plain(tiny: Any, prompt: tuple[int, ...], stops: list[int], **arguments: Any) -> list[int]:
    """What the library says to a prompt alone."""
    ids = torch.tensor([prompt])
    given = {"do_sample": False, "pad_token_id": 0, "eos_token_id": stops, **arguments}
    made = tiny.model.generate(ids, attention_mask=torch.ones_like(ids), **given)[
        0, len(prompt) :
    ].tolist()
    return made[: next((i for i, token in enumerate(made) if token in stops), len(made))]


@pytest.fixture
def stops(tiny: Any) -> list[int]:
    """Ids that the model says early to some prompts, late or never to others."""
    made = [plain(tiny, prompt, [2], max_new_tokens=50) for prompt in PROMPTS]
    return [2, made[0][5], made[1][19]]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"min_new_tokens": 20},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"num_beams": 2},
    ],
    ids=str,
)
def test_pieces_are_the_librarys_continuations(
    tiny: Any, stops: list[int], arguments: dict[str, Any]
) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer, stops=stops)
    found = engine.generate(PROMPTS, 50, **arguments)
    assert found == [
        plain(tiny, prompt, stops, max_new_tokens=50, **arguments) for prompt in PROMPTS
    ]
    assert len(set(map(len, found))) > 1 or "num_beams" in arguments


def test_rows_that_are_over_leave_the_batch(
    tiny: Any, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight rows each leaves at its stop, so that no step is made for a row that is over."""
    steps: list[tuple[int, int]] = []
    real = tiny.model.generate

    def counting(**given: Any) -> Any:
        told = real(**given)
        if "logits_processor" not in given:  # prompts are read
            return told
        steps.append((len(told.sequences), told.sequences.shape[1] - given["input_ids"].shape[1]))
        return told

    monkeypatch.setattr(tiny.model, "generate", counting)
    found = HFEngine(tiny.model, tiny.tokenizer, stops=stops).generate(PROMPTS, 50)
    assert sum(rows * made for rows, made in steps) == sum(min(len(row) + 1, 50) for row in found)
    assert steps[-1][0] < steps[0][0] == len(PROMPTS)


def test_a_batch_has_as_many_rows_as_their_cache_has_room_for(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few padded tokens a scored batch may have."""
    batches: list[int] = []
    real = generation.ContinuousBatching.generate

    def counting(self: generation.ContinuousBatching, rows: Any, *rest: Any) -> Any:
        batches.append(len(rows))
        return real(self, rows, *rest)

    monkeypatch.setattr(generation.ContinuousBatching, "generate", counting)
    HFEngine(tiny.model, tiny.tokenizer).generate(PROMPTS * 5, 250)
    HFEngine(tiny.model, tiny.tokenizer, 16).generate(PROMPTS * 5, 2)
    assert batches == [40, 16, 16, 8]
    layers, heads, width, bytes_ = 2, 4, 8, 4
    monkeypatch.setitem(
        token_budget.MAX_CACHE_BYTES, "cpu", 2 * layers * heads * width * bytes_ * 20 * 14
    )
    batches.clear()
    HFEngine(tiny.model, tiny.tokenizer).generate(PROMPTS[:1] * 40, 20 - len(PROMPTS[0]))
    assert batches == [14, 14, 12]


def test_a_string_that_ends_a_row(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes up to it is the same, and little comes after it."""
    engine = HFEngine(tiny.model, tiny.tokenizer)
    whole = engine.generate(PROMPTS, 64)
    text = tiny.template.decode
    stop = text(whole[0][4:6])
    found = engine.generate(PROMPTS, 64, until=[stop])
    for row, full in zip(found, whole, strict=True):
        assert row == full[: len(row)]
        assert len(row) == len(full) or stop in text(row)
    assert len(found[0]) == generation.PIECE


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "in turn"])
def test_rows_that_wait_take_free_places(
    tiny: Any, stops: list[int], joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache cannot be joined, they come once all are over; either way each row says what
    it says alone."""
    if not joined:
        monkeypatch.setattr(generation.kv_cache, "is_plain_cache", lambda cache: False)
    rows: list[int] = []
    real = tiny.model.generate

    def counting(**given: Any) -> Any:
        rows.append(len(given["input_ids"]))
        return real(**given)

    engine = HFEngine(tiny.model, tiny.tokenizer, stops=stops)
    monkeypatch.setattr(tiny.model, "generate", counting)
    found = generation.ContinuousBatching(engine, 50, [], {}).generate(PROMPTS, max_rows=3)
    monkeypatch.undo()
    assert found == [plain(tiny, prompt, stops, max_new_tokens=50) for prompt in PROMPTS]
    assert max(rows) == 3
    if joined:
        assert sum(rows) < 3 * len(rows), "some passes take in a few rows beside those under way"


def test_a_repetition_penalty_does_not_count_padding(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose padding is its end of sequence ends its texts where it would alone."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    engine = HFEngine(tiny.model, tokenizer)
    given = {"max_new_tokens": 20, "repetition_penalty": 1.0001}
    alone = [plain(tiny, prompt, [2], **given) for prompt in PROMPTS]
    seen: list[Any] = []

    def watching(ids: Any, scores: Any) -> Any:
        seen.append(ids)
        return real(ids, scores)

    continuation = generation.ContinuousBatching(engine, 20, [], {"repetition_penalty": 1.0001})
    assert continuation.penalty
    real = continuation.penalty.processor
    monkeypatch.setattr(continuation.penalty, "processor", watching)
    assert continuation.generate(PROMPTS) == alone
    assert not any(bool((ids == 2).any()) for ids in seen), "no padding is told to it"
