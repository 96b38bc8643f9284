"""Batches that do not fit into memory: what is left is planned anew, by all processes alike, and no
value changes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unteach.distributed.process_context import DistContext
from unteach.engines.hf import HFEngine

PAIRS = [(tuple(range(3, 5 + i % 4)), tuple(range(20 + i, 23 + i + i % 3))) for i in range(23)]
PROMPTS = [prompt + answer for prompt, answer in PAIRS]


class Small(HFEngine):
    """A machine on which only so many padded tokens fit."""

    room = 10**9
    seen: list[int]

    def pad_rows(self, rows: list[list[int]], left: bool) -> Any:
        self.seen = [*getattr(self, "seen", []), len(rows)]
        if len(rows) * max(map(len, rows)) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().pad_rows(rows, left)


def passes(engine: HFEngine) -> list[Any]:
    scored = [float(score.avg_loss) for score in engine.score(PAIRS)]
    return [*scored, *engine.grad_norms(PAIRS, 2.0), *engine.generate(PROMPTS, 5)]


def test_values_are_those_of_a_machine_with_room(tiny: Any) -> None:
    wanted, engine = passes(HFEngine(tiny.model, tiny.tokenizer)), Small(tiny.model, tiny.tokenizer)
    engine.room = 40
    for found, expected in zip(passes(engine), wanted, strict=True):
        assert found == (
            expected if isinstance(expected, list) else pytest.approx(expected, abs=1e-5)
        )
    assert engine.budgets["score"] < 16384
    assert engine.budgets["score"] != engine.budgets.get("grad_norms"), "a pass finds its own"
    engine.seen.clear()
    engine.score(PAIRS)
    assert len(engine.seen) < 14, "what was found is kept for the next pass"


def test_one_item_that_does_not_fit_is_said(tiny: Any) -> None:
    engine = Small(tiny.model, tiny.tokenizer)
    engine.room = 5
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.score(PAIRS)
    assert not tiny.model.training


@pytest.mark.parametrize(
    "words", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory", "shape mismatch"]
)
def test_only_memory_is_tried_again(tiny: Any, words: str) -> None:
    calls = 0

    class Failing(HFEngine):
        def pad_rows(self, rows: list[list[int]], left: bool) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1 or "memory" not in words:
                raise RuntimeError(words)
            return super().pad_rows(rows, left)

    engine = Failing(tiny.model, tiny.tokenizer)
    if "memory" in words:
        assert len(engine.score(PAIRS)) == len(PAIRS)
    else:
        with pytest.raises(RuntimeError, match=words):
            engine.score(PAIRS)


def test_processes_lower_the_budget_together(tiny: Any, tmp_path: Path) -> None:
    """Only the second has little room; both plan the same batches afterwards, and both have every
    value."""
    from tests.recovery.conftest import after, spawn_two
    from unteach import atomic, json_files
    from unteach.distributed import process_context

    def work() -> None:
        dist: DistContext = process_context.init_distributed()
        engine = Small(tiny.model, tiny.tokenizer, 8, dist)
        engine.room = 20 if dist.rank else 10**9
        advances: list[int] = []
        values = [float(score.avg_loss) for score in engine.score(PAIRS, advances.append)]
        found = [values, engine.budgets, sum(advances)]
        atomic.write_json(tmp_path / f"{dist.rank}.json", found)

    assert [after(pid, 120) for pid in spawn_two(work, tmp_path / "log")] == [0, 0], (
        tmp_path / "log.0"
    ).read_text()
    first, second = (json_files.read_json(tmp_path / f"{rank}.json", "values") for rank in (0, 1))
    assert first == second
    assert first[1]["score"] < 16384
    assert first[2] == len(PAIRS), "each item is counted once, whoever measured it"
    wanted = [score.avg_loss for score in HFEngine(tiny.model, tiny.tokenizer).score(PAIRS)]
    assert first[0] == pytest.approx(wanted, abs=1e-5)
