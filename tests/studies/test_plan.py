"""The study planner: a pure function from a mapping to runs and their order."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unteach.config import compose
from unteach.config.schema import EvalConfig, TrainConfig
from unteach.errors import Diverged, UserError
from unteach.studies import local, study_file
from unteach.studies.expansion import expand
from unteach.studies.gpu_slots import Slots
from unteach.studies.plan import PlannedRun

DEMO = study_file.read("demo")


def test_the_demo() -> None:
    runs = {run.name: run for run in expand(DEMO)}
    assert list(runs) == ["base", "retain", "full", "GradAscent", "GradDiff", "NPO"]
    assert [run.folder for run in runs.values()] == [f"saves/demo/{name}" for name in runs]
    assert runs["NPO"].after == ("full", "retain")
    assert "model.model_args.pretrained_model_name_or_path=saves/demo/full" in runs["NPO"].overrides
    assert "retain_logs_path=saves/demo/retain" in runs["NPO"].overrides
    assert "trainer.method_args.beta=0.5" in runs["NPO"].overrides
    assert "model=tiny" in runs["full"].overrides
    assert not any("retain_logs_path" in word for word in runs["retain"].overrides)


@given(st.integers(1, 3), st.integers(1, 3))
def test_shared_runs_are_planned_once_and_parents_come_first(seeds: int, splits: int) -> None:
    vary = {
        "seed": list(range(seeds)),
        "forget_split": ["forget01", "forget05", "forget10"][:splits],
    }
    runs = expand({**DEMO, "vary": vary})
    kinds = [run.kind for run in runs]
    assert kinds.count("base") == kinds.count("full") == seeds
    assert kinds.count("retain") == seeds * splits
    assert kinds.count("forget") == 3 * seeds * splits
    assert kinds.count("eval") == (seeds * splits if splits > 1 else 0)
    seen: set[str] = set()
    for run in runs:
        assert set(run.after) <= seen
        seen.add(run.name)
    assert len({run.folder for run in runs}) == len(runs)


def test_words_of_training_and_of_evaluation_reach_the_runs_that_have_their_keys() -> None:
    """Of a study whose full model is evaluated apart, on each forget set."""
    vary = {"seed": [0], "forget_split": ["forget05", "forget10"]}
    words = ("trainer.args.logging_steps=1", "eval.tofu.batch_size=2")
    runs = expand({**DEMO, "vary": vary}, extra=words)
    assert {run.kind for run in runs} == {"base", "full", "retain", "forget", "eval"}
    for run in runs:
        config = compose.compose(run.config_name, run.overrides)
        assert isinstance(config, EvalConfig) == (run.kind == "eval")
        if isinstance(config, TrainConfig):
            assert config.trainer.args["logging_steps"] == 1
        assert all(suite.batch_size == 2 for suite in config.eval.values())
        assert bool(config.eval) == (run.kind in ("retain", "forget", "eval"))


def test_a_word_replaces_what_varies_and_names_the_study() -> None:
    changed, extra = study_file.vary(DEMO, ["seed=7", "trainer.args.num_train_epochs=1"])
    assert changed["name"] == "demo-seed7"
    assert changed["vary"]["seed"] == [7]
    assert extra == ("trainer.args.num_train_epochs=1",)
    assert study_file.vary(DEMO, ["seed=0"])[0]["name"] == "demo"
    rates = "trainer.args.learning_rate=[1e-4,3e-4]"
    varied = {**DEMO, "vary": {"trainer.args.learning_rate": [1e-5]}}
    changed, _ = study_file.vary(varied, [rates])
    assert changed["vary"] == {"trainer.args.learning_rate": [1e-4, 3e-4]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"forgett": []}, "did you mean forget?"),
        ({"full": {}}, "names neither rows nor a benchmark"),
        ({"full": {"experiment": "mine"}}, "must name a benchmark"),
        (
            {"forget": [{"trainer": "NPO"}, {"trainer": "NPO", "trainer.method_args.beta": 1}]},
            "two different runs",
        ),
    ],
)
def test_bad_studies(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        expand({**DEMO, **change})


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_diverges_holds_its_children_only(jobs: int, tmp_path: Path) -> None:
    """In this process and in forked children."""

    def planned(name: str, *after: str) -> PlannedRun:
        return PlannedRun(name, "x", "train", (f"paths.output_dir={tmp_path / name}",), after)

    def carry_out(run: PlannedRun) -> None:
        if run.name == "b":
            raise Diverged("not finite")
        (tmp_path / run.name).write_text("done")

    plan = [planned("a"), planned("b", "a"), planned("c", "b"), planned("d")]
    outcomes = {
        outcome.run.name: outcome for outcome in local.execute(plan, carry_out, Slots(jobs))
    }
    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        "a": "done",
        "b": "diverged",
        "c": "held",
        "d": "done",
    }
    assert "not finite" in outcomes["b"].reason
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a", "d"]


def test_a_child_that_fails_says_where_it_said_why(tmp_path: Path) -> None:
    run = PlannedRun("a", "x", "train", (f"paths.output_dir={tmp_path / 'a'}",))

    def carry_out(run: PlannedRun) -> None:
        raise UserError("no such thing")

    (outcome,) = local.execute([run], carry_out, Slots(2))
    assert outcome.state == "failed"
    assert "no such thing" in outcome.reason
    assert "a.log" in outcome.reason


def test_threads_follow_from_the_plan_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert local.share_threads(expand(DEMO), 2) == {
        "base": 4,
        "retain": 4,
        "full": 4,
        "GradAscent": 2,
        "GradDiff": 2,
        "NPO": 2,
    }
