"""Which of the models that were tried is given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unteach import atomic, run_dir
from unteach.config.forget import ForgetConfig
from unteach.errors import UserError
from unteach.forgetting import candidates
from unteach.forgetting.candidates import choose_once
from unteach.forgetting.choice import Candidate, choose
from unteach.forgetting.leak import Leak
from unteach.forgetting.recipes import CHOSEN, LORA, RECIPES, choose_recipes, choose_settings
from unteach.studies.plan import PlannedRun
from unteach.verbs import forget

LITTLE = Leak(
    clean=0.0,
    worst=0.1,
    upper_bound=0.2,
    control=0.1,
    is_found=False,
    is_tested=True,
    sentence="no leak found",
)
GOOD = Candidate(
    method="NPO",
    folder=Path("npo"),
    a=0.5,
    kl=0.02,
    num_evaluations=3,
    is_met=True,
    leak=LITTLE,
    utility=0.9,
    utility_before=0.9,
    seconds=1.0,
)


@pytest.mark.parametrize(
    ("other", "is_better"),
    [
        ({"leak": replace(LITTLE, worst=0.05)}, True),
        ({"leak": replace(LITTLE, worst=0.2), "utility": 1.0}, False),
        ({"utility": 0.95}, True),
        ({"kl": 0.01}, True),
        ({"leak": replace(LITTLE, worst=0.05, is_found=True)}, False),
        ({"leak": replace(LITTLE, worst=0.0), "a": 0.0, "kl": 0.0}, False),
    ],
)
def test_the_least_leak_wins_and_ties_go_to_utility(other: dict[str, Any], is_better: bool) -> None:
    rival = replace(GOOD, method="WGA", **other)
    for both in ([GOOD, rival], [rival, GOOD]):
        assert choose(both) is (rival if is_better else GOOD)


CLEAR = replace(GOOD, method="WGA", leak=replace(LITTLE, worst=0.0))


@pytest.mark.parametrize(
    ("change", "is_clear"),
    [
        ({}, True),
        ({"utility": None, "utility_before": None}, True),
        ({"utility": 0.86}, False),
        ({"leak": LITTLE}, False),
        ({"leak": replace(LITTLE, worst=0.0, is_tested=False)}, False),
        ({"a": 0.0}, False),
    ],
)
def test_nothing_comes_out_and_all_is_kept(change: dict[str, Any], is_clear: bool) -> None:
    assert replace(CLEAR, **change).is_clear == is_clear


def test_methods_are_needed_up_to_one_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {"NPO": GOOD, "WGA": CLEAR, "DPO": GOOD}
    monkeypatch.setattr(candidates, "read_candidate", lambda name, folder: results[name])
    methods = [
        PlannedRun(name, "unlearn", "unlearn", (f"paths.output_dir={tmp_path}/{name}",))
        for name in results
    ]
    assert candidates.take_needed(methods) == methods, "none is done"
    atomic.write_json(tmp_path / "NPO" / run_dir.AUDIT / run_dir.DONE, {})
    assert candidates.take_needed(methods) == methods
    atomic.write_json(tmp_path / "WGA" / run_dir.AUDIT / run_dir.DONE, {})
    assert candidates.take_needed(methods) == methods[:2]
    # What was done beside it, by jobs=2 or in another order, stays among what may be chosen.
    atomic.write_json(tmp_path / "DPO" / run_dir.AUDIT / run_dir.DONE, {})
    assert candidates.take_needed(methods) == methods


def test_weights_of_a_method_that_was_begun_and_not_needed_are_deleted(tmp_path: Path) -> None:
    run = PlannedRun("NPO", "unlearn", "unlearn", (f"paths.output_dir={tmp_path}/NPO",))
    for name in (run_dir.FINAL, "checkpoint-20"):
        (tmp_path / "NPO" / name).mkdir(parents=True)
    (tmp_path / "NPO" / "metrics.jsonl").touch()
    candidates.delete_weights([run])
    assert [path.name for path in (tmp_path / "NPO").iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(("method", "tried"), [("auto", ["WGA"]), (["WGA", "NPO"], ["WGA", "NPO"])])
def test_the_search_ends_where_nothing_comes_out(
    tmp_path: Path, method: Any, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for methods that somebody named: those are all tried."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(candidates, "read_candidate", lambda name, folder: CLEAR)
    carried_out = []

    def carry_out(run: PlannedRun) -> None:
        carried_out.append(run.name)
        atomic.write_json(Path(run.folder) / run_dir.DONE, {})

    monkeypatch.setattr(forget, "_carry_out_one", carry_out)
    methods, audits = [], []
    for name in ("WGA", "NPO"):
        methods.append(PlannedRun(name, "unlearn", "unlearn", (f"paths.output_dir={name}",)))
        of_audit = (f"paths.output_dir={name}/audit",)
        audits.append(PlannedRun(f"{name}-audit", "audit", "audit", of_audit, (name,)))
    config = ForgetConfig(["gone.csv"], "model", method=method)
    for _ in range(2):  # the second time it is done
        found = forget._try_methods(config, methods, audits)
        assert [run.name for run in found] == tried
        assert carried_out == [name for one in tried for name in (one, f"{one}-audit")]


def test_what_was_chosen_once_stays_so(tmp_path: Path) -> None:
    """A method that failed before a kill may win after it, when another's model is given."""
    assert choose_once([GOOD], tmp_path) is GOOD
    better = replace(GOOD, method="WGA", leak=replace(LITTLE, worst=0.0))
    assert choose_once([GOOD, better], tmp_path) is GOOD


def test_what_could_not_be_tested_is_not_good() -> None:
    assert GOOD.is_good
    assert not replace(GOOD, leak=replace(LITTLE, is_tested=False)).is_good
    assert not replace(GOOD, leak=replace(LITTLE, is_found=True)).is_good
    assert not replace(GOOD, a=0.0).is_good


def test_methods_by_name() -> None:
    assert [recipe.trainer for recipe in choose_recipes("auto")] == list(CHOSEN)
    assert [recipe.trainer for recipe in choose_recipes(["RMU", "NPO", "RMU"])] == ["RMU", "NPO"]
    with pytest.raises(UserError, match="did you mean NPO"):
        choose_recipes("NPPO")


def test_a_large_model_gets_a_lora_and_an_adapter_stays_one() -> None:
    npo = RECIPES["NPO"]
    assert choose_settings(npo, 8_000_000_000, has_adapter=False)[1] == f"model.peft_args={LORA}"
    assert len(choose_settings(npo, 8_000_000_000, has_adapter=True)) == 1
    assert len(choose_settings(npo, 135_000_000, has_adapter=False)) == 1
    # The factors are those of whole models.
    adapted = {choose_settings(one, 1_000, has_adapter=True)[0] for one in RECIPES.values()}
    assert len(adapted) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": []}, "name one file of rows"),
        ({"budget": 0.0}, "budget must be above 0"),
        ({"jobs": 0}, "jobs must be 1 or more"),
        ({"words": ["trainer=RMU"]}, "trainer: a request says that .* here it is method="),
        ({"words": ["trainer.land.budget=1"]}, "here it is budget="),
        ({"words": ["audit=standard"]}, "here it is level="),
        ({"words": ["paths.output_dir=x"]}, "here it is task_name="),
        ({"words": ["audit.also=[x]"]}, "leave it out"),
        ({"words": ["audit.fail_if=worst_leak>0"]}, "leave it out"),
        ({"words": ["+model.peft_args.r=8"]}, "model.peft_args: .* leave it out"),
        ({"words": ["model.merge_adapter=true"]}, "leave it out"),
    ],
)
def test_bad_words(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ForgetConfig(**{"names": ["gone.csv"], "model": "m", **fields})  # type: ignore[arg-type]
