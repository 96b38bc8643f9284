"""The measurement cache: what is found again, what never is, and what damage and interruptions
cost."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from unteach.config import compose
from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.engines.hf import HFEngine
from unteach.evals.measurement_cache import Store
from unteach.evals.run import evaluate_loaded
from unteach.models.loading import load

WORDS = [
    "task_name=t",
    "model=tiny",
    "tofu_path=authors",
    "forget_split=forget01",
    "eval.tofu.batch_size=3",
    "eval.tofu.generation.max_new_tokens=3",
    "eval.tofu.metrics=[forget_truth_ratio,forget_Q_A_Prob,forget_Q_A_ROUGE,mia_gradnorm,mia_min_k_plus_plus]",
]


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that went through a model, one entry a batch of any pass."""
    seen: list[int] = []
    padded = HFEngine.pad_rows

    def counting(self: HFEngine, rows: list[list[int]], left: bool) -> Any:
        seen.append(sum(map(len, rows)))
        return padded(self, rows, left)

    monkeypatch.setattr(HFEngine, "pad_rows", counting)
    monkeypatch.setattr(
        HFEngine, "_scores_agree", lambda *_: True
    )  # a look that every new engine takes
    return seen


def run(loaded: Any, tmp_path: Path, *words: str, weights: str = "w") -> dict[str, Any]:
    from unteach.distributed.process_context import SINGLE_PROCESS

    suites = compose.compose("eval", [*WORDS, *words]).eval
    evaluate_loaded(
        suites, loaded, SINGLE_PROCESS, tmp_path / "out", tmp_path / "cache", weights, tell=False
    )
    return json.loads((tmp_path / "out/TOFU_EVAL.json").read_text())


def differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Where two logs part by more than rounding, which the company in a batch may change."""
    if isinstance(wanted, dict):
        keys = [f"{path}: other keys"] if found.keys() != wanted.keys() else []
        return keys + [
            d for key in wanted for d in differences(found.get(key), wanted[key], f"{path}.{key}")
        ]
    if isinstance(wanted, list):
        return [
            d
            for i, pair in enumerate(zip(found, wanted, strict=True))
            for d in differences(*pair, f"{path}[{i}]")
        ]
    # divided by how little a random model's log-probs vary
    rounding = 5e-5 if "plus_plus" in path else 1e-5
    equal = found == (pytest.approx(wanted, abs=rounding) if isinstance(wanted, float) else wanted)
    return [] if equal else [f"{path}: {found!r} instead of {wanted!r}"]


def test_a_second_evaluation_makes_no_pass(tiny: Any, tmp_path: Path, tokens: list[int]) -> None:
    first = run(tiny, tmp_path)
    assert sum(tokens)
    tokens.clear()
    assert run(tiny, tmp_path) == first
    assert tokens == []


def test_other_metrics_of_the_same_rows_make_no_pass(
    tiny: Any, tmp_path: Path, tokens: list[int]
) -> None:
    run(tiny, tmp_path)
    tokens.clear()
    run(
        tiny,
        tmp_path,
        "eval.tofu.metrics=[exact_memorization,mia_loss,mia_zlib]",
        "compat=openunlearning",
    )
    assert tokens == []


@pytest.mark.parametrize(
    "words",
    [["eval.tofu.generation.max_new_tokens=4"], ["tofu_path=authors:1"], ["forget_split=forget05"]],
    ids=lambda words: words[0],
)
def test_other_data_or_arguments_are_measured(
    tiny: Any, tmp_path: Path, tokens: list[int], words: list[str]
) -> None:
    run(tiny, tmp_path)
    fresh = run(tiny, tmp_path / "fresh", *words)
    tokens.clear()
    assert differences(run(tiny, tmp_path, *words), fresh) == []
    assert sum(tokens)


def test_other_weights_template_or_settings_are_measured(
    tiny_folder: Path, tmp_path: Path, tokens: list[int]
) -> None:
    def made(**model_args: Any) -> Any:
        return load(
            ModelConfig({"pretrained_model_name_or_path": str(tiny_folder), **model_args}),
            training=False,
        )

    def keyed(loaded: Any) -> dict[str, Any]:
        return run(loaded, tmp_path, weights=loaded.identity(tmp_path / "fingerprints.json"))

    first = keyed(made())
    tokens.clear()
    assert keyed(made()) == first
    assert tokens == []

    assert keyed(made(rms_norm_eps=0.5)) != first
    assert sum(tokens), "the same weights under another configuration"

    tokens.clear()
    tagged = TemplateArgs(kind="qa", user_start_tag="Q ", asst_start_tag=" A ")
    other = load(
        ModelConfig({"pretrained_model_name_or_path": str(tiny_folder)}, template_args=tagged),
        training=False,
    )
    assert keyed(other) != first
    assert sum(tokens)

    tokens.clear()
    changed = made()
    changed.model.generation_config.repetition_penalty = 5.0
    keyed(changed)
    assert sum(tokens)

    tokens.clear()
    run(made(), tmp_path, weights="another run's step 3")
    assert sum(tokens)


@pytest.mark.parametrize("seed", range(8))
def test_damage_never_gives_a_wrong_value(
    tiny: Any, tmp_path: Path, seed: int, capsys: Any
) -> None:
    """Bytes flipped anywhere, or the tail torn off: what is found is right, the rest is measured
    again, and said."""
    first = run(tiny, tmp_path)
    capsys.readouterr()
    draw = random.Random(seed)
    [file] = tmp_path.glob("cache/*/*.records")
    content = bytearray(file.read_bytes())
    for _ in range(draw.choice([1, 1, 5, 200])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content[: draw.choice([None, -draw.randrange(1, 3000)])])
    assert differences(run(tiny, tmp_path), first) == []
    assert "damaged place" in capsys.readouterr().err


def test_one_damaged_record_costs_one_record(tmp_path: Path) -> None:
    store = Store(tmp_path, "w", "float32")
    store.put("generate", [(i,) for i in range(50)], [[i] * 9 for i in range(50)])
    [file] = store.folder.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = Store(tmp_path, "w", "float32")
    values = [found.get("generate", (i,)) for i in range(50)]
    assert found.damaged == 1
    assert values.count(None) == 1
    assert all(value in (None, [i] * 9) for i, value in enumerate(values))


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_suite_loses_at_most_one_batch(
    tiny: Any, tmp_path: Path, tokens: list[int], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = run(tiny, tmp_path / "whole")
    every = sum(tokens)
    tokens.clear()
    kept, measure_batch = 0, HFEngine._measure_batch

    def stopping(self: HFEngine, *args: Any) -> Any:
        nonlocal kept
        if kept == after:
            raise KeyboardInterrupt
        found = measure_batch(self, *args)
        kept += 1
        return found

    with monkeypatch.context() as patched:
        patched.setattr(HFEngine, "_measure_batch", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tiny, tmp_path)
    assert kept == after
    assert list(tmp_path.glob("cache/*/*.plan.json"))
    assert run(tiny, tmp_path) == whole, (
        "bit for bit: what is left goes in the batches that it was planned with"
    )
    assert sum(tokens) == every, "no kept batch is measured twice"
    assert not list(tmp_path.glob("cache/*/*.plan.json"))


def test_a_damaged_plan_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path, "w", "float32")
    assert store.read_plan("of") is None
    store.write_plan("of", [[[0, 1], [2]], [[3]]])
    assert store.read_plan("of") == [[[0, 1], [2]], [[3]]]
    for damaged in ("", "{", "3", "[3]", '[[["x"]]]', "[" * 100_000):
        (store.folder / "of.plan.json").write_text(damaged)
        assert store.read_plan("of") is None
    store.drop_plan("of")
    store.drop_plan("of")
