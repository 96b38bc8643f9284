"""Grids, random search, and what they make of a study."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unteach.errors import UserError
from unteach.studies import search_space, study_file
from unteach.studies.expansion import expand
from unteach.studies.job_arrays import group_into_arrays
from unteach.studies.plan import PlannedRun, sort_by_parents

DEMO = study_file.read("demo")
lists = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["seed", "world_seed", "max_new_tokens"]), lists),
    lists,
    st.integers(1, 4),
    lists,
)
def test_counts_multiply_and_names_are_unique(
    vary: dict[str, list[int]], betas: list[int], searched: int, epochs: list[int]
) -> None:
    forget: list[dict[str, Any]] = [
        {"trainer": "NPO", "vary": {"trainer.method_args.beta": betas}},
        {
            "trainer": "SimNPO",
            "search": {
                "runs": searched,
                "over": {"trainer.args.learning_rate": {"low": 1e-6, "high": 1e-3}},
            },
        },
    ]
    full = {**DEMO["full"], "vary": {"trainer.args.num_train_epochs": epochs}}
    plan = expand({**DEMO, "full": full, "forget": forget, "vary": vary, "evaluate": ["base"]})
    points = math.prod(map(len, vary.values()))
    kinds = [run.kind for run in plan]
    assert kinds.count("base") == kinds.count("eval") == points, (
        "the base, and its evaluation, once for all that share it"
    )
    assert kinds.count("full") == kinds.count("retain") == points * len(epochs)
    assert kinds.count("forget") == points * len(epochs) * (len(betas) + searched)
    assert len({run.name for run in plan}) == len({run.folder for run in plan}) == len(plan)
    seen: set[str] = set()
    for run in plan:
        assert set(run.after) <= seen
        seen.add(run.name)


def test_what_is_taught_in_full_is_taught_in_retain() -> None:
    full = {**DEMO["full"], "vary": {"trainer.args.num_train_epochs": [2, 3]}}
    named = {run.name: run for run in expand({**DEMO, "full": full})}
    for epochs in (2, 3):
        assert (
            f"trainer.args.num_train_epochs={epochs}"
            in named[f"full_num_train_epochs{epochs}"].overrides
        )
        assert (
            f"trainer.args.num_train_epochs={epochs}"
            in named[f"retain_num_train_epochs{epochs}"].overrides
        )
        assert named[f"NPO_num_train_epochs{epochs}"].after == (
            f"full_num_train_epochs{epochs}",
            f"retain_num_train_epochs{epochs}",
        )
    assert not any("num_train_epochs" in word for word in named["base"].overrides)


def test_a_pretrained_base_is_evaluated_once_for_all_seeds() -> None:
    study = {**study_file.read("smollm2"), "vary": {"seed": [0, 1, 2]}, "evaluate": ["base"]}
    evaluations = [run for run in expand(study) if run.kind == "eval"]
    assert [run.name for run in evaluations] == ["base_eval"]
    assert evaluations[0].after == ()
    assert "model=SmolLM2-135M-Instruct" in evaluations[0].overrides


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20))
def test_a_search_is_the_same_for_the_same_seed(seed: int, runs: int) -> None:
    search = {
        "runs": runs,
        "seed": seed,
        "over": {
            "a": {"low": "1e-6", "high": 1e-2, "scale": "log"},
            "b": [1, 2, 3],
            "c": {"low": 1, "high": 9, "whole": True},
        },
    }
    points = search_space.draw_points(search, "search")
    assert points == search_space.draw_points(search, "search")
    assert len(points) == runs
    assert all(
        1e-6 <= point.values["a"] <= 1e-2 and point.values["b"] in (1, 2, 3) for point in points
    )
    assert all(
        isinstance(point.values["c"], int) and 1 <= point.values["c"] <= 9 for point in points
    )
    fewer = search_space.draw_points(
        {**search, "over": {key: search["over"][key] for key in ("a", "b")}}, "search"
    )  # type: ignore[index]
    assert [point.values["a"] for point in fewer] == [point.values["a"] for point in points]
    assert search_space.draw_points({**search, "runs": runs + 5}, "search")[:runs] == points


def test_one_run_unlearns_after_another() -> None:
    forget = [{"trainer": "NPO", "from": "first"}, {"name": "first", "trainer": "GradDiff"}]
    named = {run.name: run for run in expand({**DEMO, "forget": forget})}
    assert list(named).index("first") < list(named).index("NPO")
    assert named["NPO"].after == ("first", "retain")
    assert (
        "model.model_args.pretrained_model_name_or_path=saves/demo/first" in named["NPO"].overrides
    )


def test_a_value_may_be_another_runs_folder() -> None:
    key = "trainer.method_args.finetuned"
    forget = [
        {"trainer": "TaskVector", key: {"run": "taught"}},
        {"name": "taught", "experiment": "finetune/authors/default"},
    ]
    named = {run.name: run for run in expand({**DEMO, "forget": forget})}
    assert list(named).index("taught") < list(named).index("TaskVector")
    assert named["TaskVector"].after == ("full", "retain", "taught")
    assert f"{key}=saves/demo/taught" in named["TaskVector"].overrides


def test_a_varied_method_names_its_runs() -> None:
    vary = {"trainer": ["NPO", "GradDiff"], "trainer.args.learning_rate": [1e-4, 1e-3]}
    names = [
        run.name for run in expand({**DEMO, "forget": [{"vary": vary}]}) if run.kind == "forget"
    ]
    assert names == [
        "NPO_learning_rate0.0001",
        "NPO_learning_rate0.001",
        "GradDiff_learning_rate0.0001",
        "GradDiff_learning_rate0.001",
    ]
    named = expand({**DEMO, "forget": [{"name": "mine", "vary": vary}]})
    assert "mine_trainerNPO_learning_rate0.0001" in {run.name for run in named}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "cycle": (
        {
            "forget": [
                {"trainer": "NPO", "from": "GradDiff"},
                {"trainer": "GradDiff", "from": "NPO"},
            ]
        },
        "NPO from GradDiff from NPO",
    ),
    "itself": ({"forget": [{"trainer": "NPO", "from": "NPO"}]}, "start from each other"),
    "names itself": (
        {"forget": [{"trainer": "TaskVector", "a": {"run": "TaskVector"}}]},
        "start from each other",
    ),
    "names no run": (
        {"forget": [{"trainer": "TaskVector", "a": {"run": "TaskVectr"}}]},
        "a=TaskVectr: ",
    ),
    "no such run": (
        {"forget": [{"trainer": "NPO", "from": "GradDif"}, {"trainer": "GradDiff"}]},
        "did you mean GradDiff?",
    ),
    "empty list": ({"vary": {"seed": []}}, "would be no run"),
    "range": (
        {
            "forget": [
                {"trainer": "NPO", "search": {"runs": 2, "over": {"a": {"low": 2, "high": 1}}}}
            ]
        },
        "low must be below high",
    ),
    "log": (
        {
            "forget": [
                {
                    "trainer": "NPO",
                    "search": {"runs": 2, "over": {"a": {"low": 0, "high": 1, "scale": "log"}}},
                }
            ]
        },
        "above 0",
    ),
    "search key": (
        {"forget": [{"trainer": "NPO", "search": {"run": 2, "over": {"a": [1]}}}]},
        "did you mean runs?",
    ),
    "no range": (
        {"forget": [{"trainer": "NPO", "search": {"runs": 2, "over": {"a": 1}}}]},
        "a list of values or a range",
    ),
    "evaluate": ({"evaluate": ["full"]}, "may be \\[base\\]"),
    "no mapping": ({"retain": "finetune/authors/retain"}, "must be a mapping of overrides"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_studies(case: str) -> None:
    change, said = BAD[case]
    with pytest.raises(UserError, match=said):
        expand({**DEMO, **change})


def planned(name: str, *after: str, kind: str = "x") -> PlannedRun:
    return PlannedRun(name, kind, "train", (f"paths.output_dir=saves/s/{name}",), after)


def test_a_cycle_of_any_length_is_named() -> None:
    with pytest.raises(UserError, match="b after d after c after b"):
        sort_by_parents(
            "s", [planned("a"), planned("b", "d"), planned("c", "b"), planned("d", "c")]
        )
    with pytest.raises(UserError, match=r"did you mean run_one\?"):
        sort_by_parents("s", [planned("run_one"), planned("b", "run_on")])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=30),
    st.randoms(),
    st.integers(1, 5),
)
def test_order_is_topological_and_batches_keep_it(
    links: list[list[int]], shuffle: Any, largest: int
) -> None:
    runs = [
        planned(
            f"r{i}", *sorted({f"r{parent}" for parent in parents if parent < i}), kind=f"k{i % 3}"
        )
        for i, parents in enumerate(links)
    ]
    mixed = list(runs)
    shuffle.shuffle(mixed)
    plan = sort_by_parents("s", mixed)
    assert sorted(run.name for run in plan) == sorted(run.name for run in runs)
    for sequence in (
        [(run.name, run.after) for run in plan],
        [(name, batch.after) for batch in group_into_arrays(plan, largest) for name in batch.names],
    ):
        seen: set[str] = set()
        for name, after in sequence:
            assert set(after) <= seen
            seen.add(name)
        assert len(sequence) == len(runs)
    assert all(
        len(batch.runs) <= largest and {run.after for run in batch.runs} == {batch.after}
        for batch in group_into_arrays(plan, largest)
    )
