"""ARC's suite on the authors world: its names, its formulas, its views of the rows, and its
deltas."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hmean, ks_2samp

from tests.evals.test_suites import silent
from unteach.config import compose
from unteach.data.handlers.qa import read_lines
from unteach.data.synthetic import authors
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_plan, suites
from unteach.evals.base import Texts
from unteach.evals.measurement_plan import _choose_pass, _read_texts


def arc(*words: str, path: str = "authors") -> dict[str, Any]:
    base = [
        "task_name=t",
        "model=tiny",
        "eval=arc",
        f"tofu_path={path}",
        "max_new_tokens=4",
        "forget_split=forget05",
    ]
    return compose.compose("eval", [*base, *words]).eval


@pytest.fixture(scope="module")
def found(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("arc")
    engine = HFEngine(tiny.model, tiny.tokenizer)
    suites.evaluate(arc("eval.arc.metrics=all"), engine, tiny.template, silent, folder)
    return json.loads((folder / "ARC_EVAL.json").read_text()), folder


def test_its_values_follow_from_the_losses(found: tuple[dict[str, Any], Path]) -> None:
    log, _ = found
    for split in ("forget", "retain", "train_set_forget", "entity_retain"):
        right = np.array(
            [v["avg_loss"] for v in log[f"{split}_mean_loss_gt"]["value_by_index"].values()]
        )
        wrong = np.array(
            [v["avg_loss"] for v in log[f"{split}_mean_loss_perturbed"]["value_by_index"].values()]
        )
        ratio = np.exp(-wrong).mean(-1) / np.exp(-right)
        said = {
            name: log[f"{split}_{name}"]["agg_value"]
            for name in (
                "rougeL_recall",
                "model_utility",
                "model_utility_3",
                "arithmetic_model_utility_3",
                "mean_probability_gt",
                "mean_loss_gt",
                "mean_loss_perturbed",
            )
        }
        assert said["mean_loss_gt"] == pytest.approx(right.mean())
        assert said["mean_loss_perturbed"] == pytest.approx(wrong.mean())
        assert said["mean_probability_gt"] == pytest.approx(np.exp(-right).mean())
        clamped = np.maximum(0, 1 - ratio).mean()
        if "forget" in split:
            assert log[f"{split}_mean_tr"]["agg_value"] == pytest.approx(ratio.mean(), rel=1e-6)
            assert log[f"{split}_mean_clamped_tr"]["agg_value"] == pytest.approx(clamped, abs=1e-6)
            parts = [1 - clamped, 1 - said["rougeL_recall"], 1 - said["mean_probability_gt"]]
        else:
            assert log[f"{split}_mean_tr"]["agg_value"] == pytest.approx(clamped, abs=1e-6)
            parts = [clamped, said["rougeL_recall"], said["mean_probability_gt"]]
        assert said["model_utility"] == pytest.approx(hmean(parts[:2]), abs=1e-6)
        assert said["model_utility_3"] == pytest.approx(hmean(parts), abs=1e-6)
        assert said["arithmetic_model_utility_3"] == pytest.approx(np.mean(parts), abs=1e-6)


def test_phrasings(found: tuple[dict[str, Any], Path]) -> None:
    """The rows are asked as they were not taught; train_set_… as they were."""
    log, _ = found
    row = authors.build_rows("forget05_perturbed")[0]
    asked = {
        name: log[f"{name}_rougeL_recall"]["value_by_index"]["0"]
        for name in ("forget", "train_set_forget")
    }
    assert row["paraphrased_question"] in asked["forget"]["input"]
    assert asked["forget"]["ground_truth"] == row["paraphrased_answer"]
    assert row["question"] in asked["train_set_forget"]["input"]
    assert asked["train_set_forget"]["ground_truth"] == row["answer"]
    gap = (
        log["train_set_forget_mean_probability_gt"]["agg_value"]
        - log["forget_mean_probability_gt"]["agg_value"]
    )
    assert log["forget_phrasing_gap"]["agg_value"] == pytest.approx(gap)


def test_entity_subsets_are_told_by_keys(found: tuple[dict[str, Any], Path]) -> None:
    log, _ = found
    keys = {key for row in authors.build_rows("forget05_perturbed") for key in row["keys"]}
    rows = authors.build_rows("retain_perturbed")
    shared = {str(i) for i, row in enumerate(rows) if keys & set(row["keys"])}
    assert 0 < len(shared) < len(rows)
    assert log["entity_retain_mean_loss_gt"]["value_by_index"].keys() == shared
    rest = log["non_entity_retain_mean_loss_gt"]["value_by_index"].keys()
    assert rest == {str(i) for i in range(len(rows))} - shared
    whole = log["retain_mean_loss_gt"]["value_by_index"]
    for index in shared:
        assert log["entity_retain_mean_loss_gt"]["value_by_index"][index] == whole[index]


def test_answers_against_refusals_token_by_token(
    found: tuple[dict[str, Any], Path], tiny: Any
) -> None:
    log, _ = found
    lines = read_lines(None)
    gt, idk = (log[f"forget_token_probability_{name}"]["value_by_index"] for name in ("gt", "idk"))
    assert (
        len(
            {tiny.tokenizer.decode(one["token"], skip_special_tokens=True) for one in idk.values()}
            & set(lines)
        )
        > 3
    )
    for one in (*gt.values(), *idk.values()):
        assert one["prob"] == pytest.approx(np.exp(-np.array(one["loss"])))
        assert one["score"] == pytest.approx(np.mean(one["prob"]))
    losses = [v["avg_loss"] for v in log["forget_mean_loss_gt"]["value_by_index"].values()]
    assert [np.mean(one["loss"]) for one in gt.values()] == pytest.approx(losses, abs=1e-6)
    gap = np.mean([one["score"] for one in gt.values()]) - np.mean(
        [one["score"] for one in idk.values()]
    )
    assert log["forget_gt_against_idk"]["agg_value"] == pytest.approx(gap)


def test_ln_p_and_deltas_to_other_logs(
    found: tuple[dict[str, Any], Path], tiny: Any, tmp_path: Path
) -> None:
    log, folder = found
    absent = json.loads((folder / "ARC_ABSENT.json").read_text())
    assert "no retain_logs_path is set" in absent["forget_quality_1"]
    assert "no before_logs_path is set" in absent["forget_mean_tr_to_full"]
    moved = json.loads((folder / "ARC_EVAL.json").read_text())
    for value in moved["forget_mean_tr"]["value_by_index"].values():
        value["score"] *= 1.3
    moved["forget_mean_tr"]["agg_value"] += 0.25
    for file in folder.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "ARC_EVAL.json").write_text(json.dumps(moved))
    words = [
        "eval.arc.metrics=[forget_quality_1,forget_quality_2,forget_mean_tr_to_full,forget_mean_tr_to_retain]"
    ]
    engine = HFEngine(tiny.model, tiny.tokenizer)
    logs = [f"retain_logs_path={tmp_path}", f"before_logs_path={folder}"]
    values = suites.evaluate(arc(*words, *logs), engine, tiny.template, silent, None)["arc"]
    own, theirs = (
        [v["score"] for v in one["forget_mean_tr"]["value_by_index"].values()]
        for one in (log, moved)
    )
    assert values["forget_quality_1"].agg == pytest.approx(
        np.log(ks_2samp(own, theirs, alternative="greater").pvalue), abs=1e-4
    )
    assert values["forget_quality_2"].agg == pytest.approx(
        np.log(ks_2samp(own, theirs).pvalue), abs=1e-4
    )
    assert values["forget_mean_tr_to_full"].agg == pytest.approx(0, abs=1e-6)
    assert values["forget_mean_tr_to_retain"].agg == pytest.approx(-0.25, abs=1e-6)
    assert values["forget_mean_tr_to_full"].to_json()["ci"] is not None


def test_rows_without_keys_have_no_entities(tiny: Any, shared: Path) -> None:
    made = suite_plan.plan_suite(
        arc("eval.arc.metrics=all", path=str(shared / "data/tofu"))["arc"], tiny.template
    )
    assert "have no column 'keys'" in made.absent["entity_retain_mean_tr"]
    assert "forget_model_utility_3" in made.metrics
    config = arc("eval.arc.metrics=[entity_retain_mean_tr]", path=str(shared / "data/tofu"))
    with pytest.raises(UserError, match=r"asks for entity_retain_mean_tr, and .*no column 'keys'"):
        suite_plan.plan_suite(config["arc"], tiny.template)


def test_a_continuation_counts_up_to_the_length_of_its_answer(tiny: Any) -> None:
    rows = suite_plan.plan_suite(arc()["arc"], tiny.template).rows
    need = Texts("forget.answer")
    prompts = rows.load_column("forget.answer").prompts
    long = {_choose_pass(rows, need): dict.fromkeys(prompts, [40] * 200)}
    adaptive, whole = (
        _read_texts(rows, Texts("forget.answer", adaptive=a), long)[0].text for a in (True, False)
    )
    assert len(whole) / len(adaptive) == pytest.approx(200 / 50, rel=0.1)
