"""Prompts of unlike lengths are read apart, and one that several rows have is read once."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unteach.engines import kv_cache
from unteach.engines.generation import ContinuousBatching
from unteach.engines.hf import HFEngine
from unteach.engines.prompt_reading import plan_reading
from unteach.evals.measurement_cache import Store

LONG = tuple(range(5, 45))
SHORT = [tuple(range(start, start + 4)) for start in range(3, 15)]
PROMPTS = [*SHORT, LONG]
WHOLE: dict[str, Any] = {"do_sample": True, "top_k": 0}


@pytest.fixture
def count_read(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the tokens, padding and all, of the passes that read more than one of each row."""
    widths: list[int] = []

    def note(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids.shape[1] > 1:
            widths.append(ids.numel())

    hook = tiny.model.register_forward_pre_hook(note, with_kwargs=True)
    yield lambda: sum(widths)
    hook.remove()


def generate_alone(tiny: Any, prompt: tuple[int, ...]) -> list[int]:
    engine = HFEngine(tiny.model, tiny.tokenizer, batch_size=1)
    return engine.generate([prompt], 12)[0]


def test_unlike_prompts_are_read_apart(tiny: Any, count_read: Callable[[], int]) -> None:
    found = HFEngine(tiny.model, tiny.tokenizer).generate(PROMPTS, 12)
    num_read = count_read()
    assert num_read == sum(len(prompt) - 1 for prompt in PROMPTS)
    assert found == [generate_alone(tiny, prompt) for prompt in PROMPTS]


def test_prompts_of_like_lengths_are_read_in_one_call() -> None:
    like = [tuple(range(length, 2 * length)) for length in (16, 15, 14, 13)]
    assert plan_reading(like) == []
    assert plan_reading([(1,), LONG]) == [], "a prompt of one token has no beginning"
    calls = plan_reading([*like, LONG])
    assert [len(call) for call in calls] == [1, 4]


def test_what_all_prompts_start_with_is_read_once(tiny: Any, count_read: Callable[[], int]) -> None:
    """A system prompt, or shown examples; also before a prompt that is nothing else."""
    system = tuple(range(5, 25))
    prompts = [system, *(system + short for short in SHORT), system + LONG[:6]]
    found = HFEngine(tiny.model, tiny.tokenizer).generate(prompts, 12)
    width = len(prompts[-1]) - 1
    num_shared = len(system) - 1
    assert count_read() == num_shared + len(prompts) * (width - num_shared)
    assert found == [generate_alone(tiny, prompt) for prompt in prompts]


def test_a_row_of_the_shared_beginning_is_spread_over_rows_of_other_lengths() -> None:
    layer = SimpleNamespace(keys=torch.arange(4.0).reshape(1, 1, 4, 1))
    layer.values = layer.keys + 10
    kv_cache.spread(SimpleNamespace(layers=[layer]), [4, 2, 0])  # type: ignore[arg-type]
    assert layer.keys.shape == (3, 1, 4, 1)
    assert layer.keys[0].flatten().tolist() == [0, 1, 2, 3]
    assert layer.keys[1].flatten().tolist()[2:] == [0, 1]
    assert layer.values[1].flatten().tolist()[2:] == [10, 11]


def test_a_prompt_is_read_once_for_all_its_samples(
    tiny: Any, count_read: Callable[[], int]
) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer)
    found = engine.sample([LONG, SHORT[0]], 5, 12, seed=3, **WHOLE)
    assert count_read() == len(LONG) - 1 + len(SHORT[0]) - 1
    assert len({tuple(ids) for ids in found[0]}) > 1

    one_by_one = HFEngine(tiny.model, tiny.tokenizer, batch_size=1)
    assert one_by_one.sample([LONG, SHORT[0]], 5, 12, seed=3, **WHOLE) == found
    assert one_by_one.sample([SHORT[0]], 3, 12, seed=3, **WHOLE)[0] == found[1][:3]


def test_samples_are_kept_by_their_prompt(tiny: Any, tmp_path: Any) -> None:
    store = Store(tmp_path, "weights", "fp32", 0)
    engine = HFEngine(tiny.model, tiny.tokenizer, store=store)
    found = engine.sample(SHORT, 3, 8, seed=1, **WHOLE)
    seen: list[int] = []
    again = HFEngine(None, tiny.tokenizer, store=Store(tmp_path, "weights", "fp32", 0))
    settings = tiny.model.generation_config.to_diff_dict()
    again.read_generation_settings = lambda: settings  # type: ignore[method-assign]
    assert again.sample(SHORT[::-1], 3, 8, seed=1, on_progress=seen.append, **WHOLE) == found[::-1]
    assert seen == [len(SHORT)]


def test_a_cache_of_another_kind_is_left_to_one_call(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unteach.engines.kv_cache.is_plain_cache", lambda _: False)
    found = HFEngine(tiny.model, tiny.tokenizer).generate(PROMPTS, 12)
    assert found == [generate_alone(tiny, prompt) for prompt in PROMPTS]


def test_rows_that_are_taken_in_later_are_read_apart_too(tiny: Any) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer)
    batching = ContinuousBatching(engine, 12, [], {})
    with torch.no_grad():
        found = batching.generate([*PROMPTS, *PROMPTS[::-1]], max_rows=3)
    alone = [generate_alone(tiny, prompt) for prompt in PROMPTS]
    assert found == [*alone, *alone[::-1]]


def test_samples_of_one_prompt_are_as_many_at_once_as_the_budget_has_room_for(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = ContinuousBatching.generate

    def note(self: ContinuousBatching, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, prompts, *rest)

    monkeypatch.setattr(ContinuousBatching, "generate", note)
    engine = HFEngine(tiny.model, tiny.tokenizer)
    engine.budgets["sample"] = 10 * (len(LONG) + 12)
    found = engine.sample([LONG], 20, 12, seed=3, **WHOLE)
    assert max(sizes) == 10 and sizes[-1] <= 4
    monkeypatch.setattr(ContinuousBatching, "generate", real)
    assert found == HFEngine(tiny.model, tiny.tokenizer).sample([LONG], 20, 12, seed=3, **WHOLE)


def test_a_model_of_another_cache_reads_its_prompts_once(
    tiny: Any, count_read: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unteach.engines.kv_cache.is_plain_cache", lambda _: False)
    engine = HFEngine(tiny.model, tiny.tokenizer)
    engine.generate(PROMPTS, 2)
    num_first = count_read()
    engine.generate(PROMPTS, 2)
    assert count_read() - num_first == len(PROMPTS) * len(LONG)


def test_samples_of_a_model_that_says_at_least_so_much(tiny: Any) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer, batch_size=2)
    found = engine.sample([LONG, SHORT[0]], 3, 12, seed=3, min_new_tokens=12, **WHOLE)
    assert all(len(ids) == 12 for samples in found for ids in samples)
