"""The TOFU suite against OpenUnlearning's own values, example by example, and the published
aggregates of Llama-2-7B."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import read_rows
from tests.doors import evaluate
from unteach.evals import bootstrap
from unteach.evals.metrics.truth_ratio import TruthRatio

EXAMPLE = 2e-5
"""Tolerance of one example: the reference sums exponentials over the vocabulary one by one in fp32,
which loses the tail and makes its losses up to 1.7e-5 too small (world facts of the retain model,
row 3: the exact value is 1.65e-5 above the reference's and 8e-7 above ours); aggregates are
compared to 1e-5."""


def suite(kit: Path, shared: Path, folder: Path, model: str, *extra: str) -> dict[str, Any]:
    evaluate(
        "experiment=eval/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / model}",
        f"tofu_path={kit / 'data'}",
        "eval.tofu.metrics=all",
        f"paths.output_dir={folder}",
        "task_name=parity",
        "model.model_args.dtype=float32",
        f"paths.cache_dir={folder / 'cache'}",
        *extra,
    )
    return json.loads((folder / "TOFU_EVAL.json").read_text())


@pytest.mark.parametrize("model", ["reference", pytest.param("retain", marks=pytest.mark.long)])
def test_every_example_is_that_of_the_published_code(
    model: str, kit: Path, shared: Path, tmp_path: Path
) -> None:
    theirs = json.loads((shared / f"parity/tofu_eval/{model}/TOFU_EVAL.json").read_text())
    log = shared / "parity/tofu_eval/retain/TOFU_EVAL.json"
    extra = [f"retain_logs_path={log}"] if model == "reference" else []
    ours = suite(kit, shared, tmp_path, model, "compat=openunlearning", *extra)
    for name, value in theirs.items():
        if value["agg_value"] is None:
            continue
        assert ours[name]["agg_value"] == pytest.approx(value["agg_value"], abs=1e-5), name
        for half in ("forget", "holdout"):
            if half in value:
                same_examples(
                    ours[name][half]["value_by_index"],
                    value[half]["value_by_index"],
                    f"{name}/{half}",
                )
        if "value_by_index" in value:
            same_examples(ours[name]["value_by_index"], value["value_by_index"], name)


def same_examples(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    assert ours.keys() == theirs.keys(), name
    for index, expected in theirs.items():
        for key, value in expected.items():
            found = ours[index][key]
            if isinstance(value, str) or value is None:
                assert found == value, f"{name}[{index}].{key}"
            else:
                assert np.allclose(found, value, atol=EXAMPLE, rtol=1e-5), (
                    f"{name}[{index}].{key}: {found} != {value}"
                )


@pytest.mark.parametrize("table", ["real_authors_perturbed", "world_facts_perturbed"])
def test_our_log_probs_are_those_of_float64(table: str, kit: Path) -> None:
    """Where we and the reference values part by 1e-5, the exact value is ours."""
    import torch
    import transformers

    from unteach.config.schema import ModelConfig
    from unteach.engines.hf import HFEngine
    from unteach.models.loading import load

    loaded = load(
        ModelConfig({"pretrained_model_name_or_path": str(kit / "retain")}), training=False
    )
    exact = transformers.AutoModelForCausalLM.from_pretrained(kit / "retain", dtype=torch.float64)
    rows = read_rows(kit / f"data/{table}.jsonl")
    pairs = [
        (e.prompt, e.answer)
        for r in rows
        if (e := loaded.template.encode(r["question"], r["answer"]))
    ]
    for (prompt, answer), score in zip(
        pairs, HFEngine(loaded.model, loaded.tokenizer, 8).score(pairs), strict=True
    ):
        with torch.no_grad():
            logp = (
                exact(torch.tensor([[*prompt, *answer]]))
                .logits[0, len(prompt) - 1 : -1]
                .log_softmax(-1)
            )
        expected = -logp[torch.arange(len(answer)), torch.tensor(answer)].mean()
        assert score.avg_loss == pytest.approx(float(expected), abs=3e-6)


@pytest.mark.long
def test_the_corrected_values_differ_only_where_a_quirk_is_named(
    kit: Path, shared: Path, tmp_path: Path
) -> None:
    theirs = json.loads((shared / "parity/tofu_eval/retain/TOFU_EVAL.json").read_text())
    ours = suite(kit, shared, tmp_path, "retain")
    floor = np.mean([v["score"] for v in theirs["extraction_strength"]["value_by_index"].values()])
    # no 1/L where not even the last token is hit
    assert ours["extraction_strength"]["agg_value"] < floor
    # EOS counts
    assert (
        ours["mia_gradnorm"]["forget"]["agg_value"] != theirs["mia_gradnorm"]["forget"]["agg_value"]
    )
    assert "privleak" not in ours
    assert "retain_logs_path" in json.loads((tmp_path / "TOFU_ABSENT.json").read_text())["privleak"]
    for name in ("forget_truth_ratio", "model_utility", "forget_Q_A_Prob"):
        assert ours[name]["agg_value"] == pytest.approx(theirs[name]["agg_value"], abs=1e-5)


def published(shared: Path, run: str) -> dict[str, Any]:
    return json.loads((shared / "parity/published" / run / "eval_log_aggregated.json").read_text())


def utility(log: dict[str, Any]) -> float:
    """Model utility from a log of the TOFU paper's repository, through our own truth ratio and
    harmonic mean."""
    ratio = TruthRatio("", "", "true_better")
    values = []
    for part, options in (
        ("eval_log.json", False),
        ("eval_real_author_wo_options.json", True),
        ("eval_real_world_wo_options.json", True),
    ):
        rows = log[part]
        right = np.exp(-np.array(list(rows["avg_gt_loss"].values())))
        wrong = np.exp(-np.array(list(rows["average_perturb_loss"].values()))).sum(-1)
        values.append((right / (right + wrong) if options else right).mean())
        values.append(np.mean(list(rows["rougeL_recall"].values())))
        pairs = zip(
            rows["avg_paraphrased_loss"].values(),
            rows["average_perturb_loss"].values(),
            strict=True,
        )
        values.append(np.mean([max(0.0, 1 - ratio.ratio(c, w)) for c, w in pairs]))
    return float(bootstrap.harmonic_mean(np.array(values)))


FULL, RETAIN = "ft_epoch5_lr1e-05_llama2-7b_full_wd0", "ft_epoch5_lr1e-05_llama2-7b_retain90_wd0"


def test_published_model_utility(shared: Path) -> None:
    assert utility(published(shared, FULL)) == pytest.approx(0.6268, abs=5e-5)
    assert utility(published(shared, RETAIN)) == pytest.approx(0.6203, abs=5e-5)


def test_published_forget_quality(shared: Path) -> None:
    from unteach.evals.base import Value
    from unteach.evals.metrics.kolmogorov import ForgetQuality

    def ratios(run: str) -> dict[int, dict[str, float]]:
        rows = published(shared, run)["eval_log_forget.json"]
        pairs = zip(
            rows["avg_paraphrased_loss"].values(),
            rows["average_perturb_loss"].values(),
            strict=True,
        )
        return {
            i: {"score": TruthRatio("", "", "closer_to_1_better").ratio(c, w)}
            for i, (c, w) in enumerate(pairs)
        }

    retain = {"value_by_index": {str(i): value for i, value in ratios(RETAIN).items()}}
    found = ForgetQuality("x").compute("forget_quality", Value(None, ratios(FULL)), retain)
    assert found.agg == pytest.approx(1.097e-19, rel=1e-3)
    assert found.extra["log_p"] == pytest.approx(math.log(found.agg))
    assert found.n == 300
