"""Retain logs: what may be compared with, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evals.test_suites import silent, tofu
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_plan, suites

METRICS = "eval.tofu.metrics=[forget_truth_ratio,mia_min_k]"
COMPARED = "eval.tofu.metrics=[forget_quality,privleak,rel_diff]"


@pytest.fixture(scope="module")
def log(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log on forget05."""
    folder = tmp_path_factory.mktemp("retain")
    engine = HFEngine(tiny.model, tiny.tokenizer, 64)
    suites.evaluate(tofu(METRICS, "forget_split=forget05"), engine, tiny.template, silent, folder)
    return folder


@pytest.fixture
def foreign(log: Path, tmp_path: Path) -> Path:
    """The same as other code would have written it: nothing beside it tells its rows."""
    copy = tmp_path / "TOFU_EVAL.json"
    copy.write_text((log / "TOFU_EVAL.json").read_text())
    return copy


def planned(tiny: Any, path: Path, *words: str) -> Any:
    return suite_plan.plan_suite(
        tofu(COMPARED, f"retain_logs_path={path}", *words)["tofu"], tiny.template
    )


def test_a_log_of_the_same_rows_is_taken(tiny: Any, log: Path, foreign: Path) -> None:
    for path in (log, log / "TOFU_EVAL.json", foreign):
        assert {"forget_quality", "privleak", "rel_diff"} <= set(
            planned(tiny, path, "forget_split=forget05").metrics
        )


def test_the_log_keeps_openunlearnings_format(log: Path) -> None:
    assert set(json.loads((log / "TOFU_EVAL.json").read_text())) >= {
        "forget_truth_ratio",
        "mia_min_k",
    }
    assert all(
        isinstance(v, dict) and "agg_value" in v
        for v in json.loads((log / "TOFU_EVAL.json").read_text()).values()
    )


@pytest.mark.parametrize("ours", [True, False])
def test_a_log_of_another_split_is_refused(tiny: Any, log: Path, foreign: Path, ours: bool) -> None:
    with pytest.raises(UserError) as error:
        planned(tiny, log if ours else foreign, "forget_split=forget10")
    assert "measured on" in str(error.value)
    assert "authors/forget10" in str(error.value), "what is wanted"
    assert ("forget05" if ours else "10 rows") in str(error.value), "what it holds"


def test_a_log_of_other_rows_of_the_same_number_is_refused(tiny: Any, log: Path) -> None:
    with pytest.raises(UserError, match="authors/forget05_perturbed"):
        planned(tiny, log, "forget_split=forget05", "tofu_path=authors:1")


def test_a_log_of_other_questions_about_the_same_rows_is_refused(tiny: Any, log: Path) -> None:
    with pytest.raises(UserError, match="10 rows whose words are others"):
        planned(tiny, log, "forget_split=forget05", "eval.tofu.question_key=paraphrased_answer")


def test_a_log_of_fewer_rows_of_the_same_set_says_how_many(tiny: Any, log: Path) -> None:
    with pytest.raises(UserError, match="10 rows, of which 10 were measured, and here 4"):
        planned(tiny, log, "forget_split=forget05", "eval.tofu.max_rows=4")


def test_a_larger_log_is_refused_too(tiny: Any, foreign: Path) -> None:
    with pytest.raises(UserError, match="measured on 10 rows"):
        planned(tiny, foreign, "forget_split=forget01")


def test_a_log_of_another_suite_is_refused(tiny: Any, tmp_path: Path) -> None:
    names = ["forget_knowmem_ROUGE", "retain_knowmem_ROUGE", "forget_verbmem_ROUGE", "mia_min_k"]
    (tmp_path / "MUSE_EVAL.json").write_text(
        json.dumps({name: {"agg_value": 0.5} for name in names})
    )
    with pytest.raises(
        UserError, match=r"holds forget_knowmem_ROUGE, .*is it the log of another suite"
    ):
        planned(tiny, tmp_path / "MUSE_EVAL.json")
    with pytest.raises(
        UserError, match=r"holds MUSE_EVAL.json, and eval.tofu compares with TOFU_EVAL.json"
    ):
        planned(tiny, tmp_path)


def test_a_log_without_the_metric(tiny: Any, foreign: Path) -> None:
    values = json.loads(foreign.read_text())
    del values["mia_min_k"]
    foreign.write_text(json.dumps(values))
    with pytest.raises(
        UserError,
        match=r"asks for privleak, and the retain log .* has no mia_min_k; it holds "
        r"forget_Q_A_PARA",
    ):
        planned(tiny, foreign, "forget_split=forget05")
    made = planned(
        tiny, foreign, "forget_split=forget05", "eval.tofu.metrics=all", "compat=openunlearning"
    )
    assert "has no mia_min_k" in made.absent["privleak"], (
        "a default for lack of a log is not one for a log without it"
    )
