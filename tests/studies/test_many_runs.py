"""What a plan of many runs shares is put together once, and every run is still composed."""

from pathlib import Path

import pytest
import yaml

from unteach.config import compose, composed_files, hydra_groups
from unteach.errors import UserError
from unteach.studies import compose_runs
from unteach.studies.study_file import read_study

HEAD = "question,answer\n"
GONE, KEPT = "Who has the key?,The porter has it.\n", "Who wrote it?,Mara Lind did.\n"
METHODS = ["GradDiff", "NPO", "SimNPO"]


@pytest.fixture
def study_file(tmp_path: Path, tiny_folder: Path) -> Path:
    """A study of three methods, ten rates and two seeds on rows of one's own."""
    for name, rows in (("all", GONE + KEPT), ("gone", GONE), ("kept", KEPT)):
        (tmp_path / f"{name}.csv").write_text(HEAD + rows)
    study = {
        "name": "wide",
        "full": {"model": str(tiny_folder), "data": str(tmp_path / "all.csv")},
        "retain": {"data": str(tmp_path / "kept.csv")},
        "forget": [
            {
                "forget": str(tmp_path / "gone.csv"),
                "retain": str(tmp_path / "kept.csv"),
                "vary": {
                    "trainer": METHODS,
                    "trainer.args.learning_rate": [1e-6 * (1 + rate) for rate in range(10)],
                },
            }
        ],
        "vary": {"seed": [0, 1]},
    }
    file = tmp_path / "wide.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


@pytest.fixture
def hydra_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The choices of groups that Hydra was asked to put together, from an empty memory on."""
    calls = []

    def compose_hydra(name: str, chosen: list[str], dirs: tuple[str, ...]) -> object:
        calls.append((name, *chosen))
        return whole(name, chosen, dirs)

    whole = hydra_groups.compose_hydra
    monkeypatch.setattr(hydra_groups, "compose_hydra", compose_hydra)
    monkeypatch.setattr(composed_files, "_kept", {})
    return calls


def test_each_set_of_files_is_put_together_once(
    study_file: Path, hydra_calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    num_composed = 0

    def count(*args: object, **named: object) -> object:
        nonlocal num_composed
        num_composed += 1
        return whole(*args, **named)

    whole = compose.compose
    monkeypatch.setattr(compose, "compose", count)
    plan = read_study(str(study_file)).plan
    compose_runs.check(plan)
    assert len(plan) == 2 * (4 + 3 * 10)
    # Seeds apart, all are composed: full, retain, two evaluations, and each method at each rate.
    assert num_composed == 4 + 3 * 10
    assert len(hydra_calls) == len(set(hydra_calls)) <= 3 + len(METHODS)


def test_files_of_the_users_own_are_put_together_once_a_plan(
    study_file: Path, hydra_calls: list[tuple[str, ...]], tmp_path: Path
) -> None:
    """They may change while the process lives, so that the next plan reads them anew."""
    mine = tmp_path / "configs" / "trainer" / "Mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("handler: NPO\nmethod_args: {beta: 0.5}\nargs: {}\n")
    dirs = (str(tmp_path / "configs"),)
    forget = next(run for run in read_study(str(study_file)).plan if run.kind == "forget")
    words = (*forget.overrides, "trainer=Mine")
    with composed_files.share_files():
        first = compose.compose(forget.config_name, words, dirs).tree
        compose.compose(forget.config_name, (*words, "trainer.args.learning_rate=1e-4"), dirs)
    assert len(hydra_calls) == 1
    mine.write_text("handler: NPO\nmethod_args: {beta: 0.7}\nargs: {}\n")
    then = compose.compose(forget.config_name, words, dirs).tree
    assert [tree["trainer"]["method_args"]["beta"] for tree in (first, then)] == [0.5, 0.7]


def test_a_shared_tree_is_nobody_elses(study_file: Path) -> None:
    runs = [run for run in read_study(str(study_file)).plan if run.kind == "forget"]
    first = compose.compose(runs[0].config_name, runs[0].overrides).tree
    compose.compose(runs[0].config_name, (*runs[0].overrides, "trainer.method_args.alpha=7"))
    again = compose.compose(runs[0].config_name, runs[0].overrides).tree
    assert first == again


def test_one_wrong_value_among_many_is_still_refused(study_file: Path) -> None:
    study = yaml.safe_load(study_file.read_text())
    study["forget"][0]["vary"]["trainer.args.learning_rate"][7] = "fast"
    study_file.write_text(yaml.safe_dump(study, sort_keys=False))
    plan = read_study(str(study_file)).plan
    with pytest.raises(UserError, match=r"6 of 68 runs cannot be composed(.|\n)*learning_rate"):
        compose_runs.check(plan)
