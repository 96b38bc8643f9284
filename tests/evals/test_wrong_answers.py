"""Wrong answers of other questions about the same author, for sets like TOFU that have none."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evals.test_suites import silent
from unteach.config import compose
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_plan, suites, wrong_answers


@pytest.fixture
def tofu(tmp_path: Path) -> Path:
    """Two authors of twenty rows each, in a folder as TOFU's: it has `full`, and no
    full_perturbed."""
    rows = [{"question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(40)]
    (tmp_path / "full.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_they_are_of_the_same_author_and_the_same_part(tofu: Path) -> None:
    gone = [0, 1, 2, 3, 25]
    hf_args = {
        "path": str(tofu),
        "name": "full",
        "part": "forget",
        "wrong_answers": {"author_block": 20},
    }
    hf_args["forget_set"] = {"by": "question", "named": gone}
    rows = wrong_answers.load_rows(hf_args)
    for row in rows[:4]:
        assert set(row["perturbed_answer"]) == {f"Answer {i}." for i in range(4)} - {row["answer"]}
        assert (row["paraphrased_question"], row["paraphrased_answer"]) == (
            row["question"],
            row["answer"],
        )
    numbers = {int(answer[7:-1]) for answer in rows[4]["perturbed_answer"]}
    assert len(numbers) == 3 and numbers <= set(range(20, 40)) - {25}, (
        "alone in its part: of all rows of its author"
    )
    assert rows == wrong_answers.load_rows(hf_args)


def test_every_metric_of_arc_is_measured_on_tofu(tofu: Path, tiny: Any, tmp_path: Path) -> None:
    words = ["task_name=t", "model=tiny", "eval=arc_tofu", f"tofu_path={tofu}", "max_new_tokens=2"]
    words += ["forget_set.by=question", "forget_set.named=[0,1,2,3]", "eval.arc.max_rows=3"]
    engine = HFEngine(tiny.model, tiny.tokenizer)
    plans = suite_plan.plan_all(compose.compose("eval", words).eval, tiny.template, engine.context)
    assert set(plans["arc"].absent) == {"forget_quality_1", "forget_quality_2"}, (
        "only what needs a retain log"
    )
    values = suites.carry_out(plans, engine, silent, None)["arc"]
    assert {"forget_mean_tr", "retain_model_utility_3"} <= set(values)


def test_a_suite_without_a_single_value_is_refused(tofu: Path, tiny: Any) -> None:
    words = [
        "task_name=t",
        "model=tiny",
        "eval=arc_entities",
        f"tofu_path={tofu}",
        "max_new_tokens=2",
    ]
    configs = compose.compose("eval", [*words, "forget_set.by=question", "forget_set.count=2"]).eval
    with pytest.raises(
        UserError, match=r"not one of its 29 metrics can be measured: .*full_perturbed"
    ):
        suite_plan.plan_all(configs, tiny.template)
