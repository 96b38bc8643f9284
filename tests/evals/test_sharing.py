"""Several answers to one prompt in one row: what each gets alone, on every family, or a row of its
own."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from tests.models.test_families import FAMILIES, folder_of  # noqa: F401
from unteach.config.schema import ModelConfig
from unteach.engines import prompt_sharing
from unteach.engines.hf import HFEngine
from unteach.models.loading import load
from unteach.models.model_handlers import PATH

WINDOWS = {"Phi-3.5-mini-instruct", "auto", "zephyr-7b-beta"}
"""Families that look back three tokens here, which is less than any row."""


def pairs() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompts with one, two and six answers, of one token and more, one of them twice; answers that
    begin alike; and one without a prompt."""
    draw = random.Random(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10, 200) for _ in range(n))

    found = [(ids(9 + i), ids(1 + i)) for i in range(3)]
    for answers in (2, 6):
        prompt = ids(8 + answers)
        found += [(prompt, ids(1 + i)) for i in range(answers)]
    prompt, common = ids(9), ids(5)
    alike = [
        (prompt, answer)
        for answer in (common, common[:3], (*common[:2], *ids(3)), (*common, *ids(2)))
    ]
    return [*found, found[-1], *alike, ((), ids(4))]


def scores(engine: HFEngine) -> list[np.ndarray]:
    """Log-probs, means and variances of each pair."""
    return [np.stack([s.logprob, s.mean, s.variance]) for s in engine.score(pairs())]


def alone(model: Any, tokenizer: Any) -> list[np.ndarray]:
    engine = HFEngine(model, tokenizer, 1)
    engine._has_tried_sharing = True
    return scores(engine)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_what_each_answer_gets_alone(
    name: str, folder_of: Callable[[str], Path]
) -> None:
    loaded = load(ModelConfig({PATH: str(folder_of(name))}), training=False)
    engine = HFEngine(loaded.model, loaded.tokenizer)
    found = scores(engine)
    for ours, theirs in zip(found, alone(loaded.model, loaded.tokenizer), strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)
    widest = engine._max_shared_width
    assert widest is None if name in WINDOWS else widest > 100
    batching = prompt_sharing.PromptPlanner(pairs(), None, 10**6, lambda: widest)
    rows = [len(row) for row in batching.make_rows(range(len(pairs())))]
    assert sorted(rows) == ([1] * 17 if name in WINDOWS else [1, 1, 1, 1, 2, 4, 7])


@hypothesis.given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1, max_size=8)
)
def test_what_answers_begin_with_stands_in_a_row_once(answers: list[tuple[int, ...]]) -> None:
    """A place for every different beginning after which another token comes; each answer is read
    along its places."""
    tree = prompt_sharing.AnswerTree()
    for answer in answers:
        places, more = tree.num_tokens, tree.count_new_places(answer)
        tree.add(answer)
        assert tree.num_tokens == places + more
    whole = prompt_sharing.AnswerTree(answers)
    beginnings = {answer[:n] for answer in answers for n in range(len(answer))}
    assert whole.num_tokens + 1 == len(beginnings) == len(whole.list_tokens()) + 1
    above, asked = [0, *whole.list_parents()], list(whole.predictions)
    for answer, path in zip(answers, whole.paths, strict=True):
        assert tuple(asked[number - 1][1] for number in path) == answer
        places = [asked[number - 1][0] for number in path]
        assert [above[place] for place in places[1:]] == places[:-1]


def test_a_model_that_does_not_take_such_rows_has_each_alone(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that heeds no mask is found out by its values."""
    seeing = prompt_sharing.lay_out

    def blind(*args: Any) -> Any:
        layout = seeing(*args)
        layout.sees.fill_(0)
        return layout

    monkeypatch.setattr(prompt_sharing, "lay_out", blind)
    engine = HFEngine(tiny.model, tiny.tokenizer)
    for ours, theirs in zip(scores(engine), alone(tiny.model, tiny.tokenizer), strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)
    assert engine._has_tried_sharing and engine._max_shared_width is None


def test_a_row_is_no_wider_than_it_is_worth() -> None:
    prompt = tuple(range(4))
    wide = [(prompt, (i, *range(20))) for i in range(12)]
    rows = prompt_sharing.PromptPlanner(wide, None, 10**6, lambda: 4096).make_rows(range(12))
    assert [len(row) for row in rows] == [3, 3, 3, 3]  # 4 + 3 * 20 = 64, sixteen times the prompt
    assert [
        len(row)
        for row in prompt_sharing.PromptPlanner(wide, 2, 10**6, lambda: 4096).make_rows(range(12))
    ] == [2] * 6


def test_shared_rows_under_autocast_and_training(tiny: Any) -> None:
    model = tiny.model
    model.train()
    try:
        with torch.autocast("cpu", torch.bfloat16):
            engine = HFEngine(model, tiny.tokenizer)
            found = scores(engine)
            assert engine._max_shared_width
            for ours, theirs in zip(found, alone(model, tiny.tokenizer), strict=True):
                assert np.allclose(ours, theirs, atol=0.1)
        assert model.training
    finally:
        model.eval()
