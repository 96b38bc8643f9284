"""The MUSE suite against OpenUnlearning's own values, example by example, and what is corrected in
it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from tests.doors import evaluate
from tests.parity.test_tofu import same_examples
from unteach.config import compose
from unteach.errors import UserError


def suite(kit: Path, folder: Path, model: str, *extra: str) -> dict[str, Any]:
    evaluate(
        "experiment=eval/muse/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / model}",
        f"muse_path={kit / 'muse'}",
        "eval.muse.metrics=all",
        f"paths.output_dir={folder}",
        "task_name=parity",
        f"paths.cache_dir={folder / 'cache'}",
        "model.model_args.dtype=float32",
        *extra,
    )
    return json.loads((folder / "MUSE_EVAL.json").read_text())


@pytest.mark.parametrize("model", ["reference", pytest.param("retain", marks=pytest.mark.long)])
def test_every_example_is_that_of_the_published_code(
    model: str, kit: Path, shared: Path, tmp_path: Path
) -> None:
    theirs = json.loads((shared / f"parity/muse_eval/{model}/MUSE_EVAL.json").read_text())
    log = shared / "parity/muse_eval/retain/MUSE_EVAL.json"
    extra = [f"retain_logs_path={log}"] if model == "reference" else []
    ours = suite(kit, tmp_path, model, "compat=openunlearning", *extra)
    for name, value in theirs.items():
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
    assert (tmp_path / "MUSE_SUMMARY.json").exists()


def test_the_corrected_values_differ_only_where_a_quirk_is_named(
    kit: Path, shared: Path, tmp_path: Path
) -> None:
    theirs = json.loads((shared / "parity/muse_eval/retain/MUSE_EVAL.json").read_text())
    ours = suite(kit, tmp_path, "retain")
    for name in ("mia_loss", "mia_zlib"):
        assert ours[name]["agg_value"] == pytest.approx(theirs[name]["agg_value"], abs=1e-5)
        for half in ("forget", "holdout"):
            same_examples(
                ours[name][half]["value_by_index"], theirs[name][half]["value_by_index"], name
            )
    # no EOS ends these texts, so their last token counts
    for name in ("mia_min_k", "mia_gradnorm"):
        assert ours[name]["forget"]["agg_value"] != pytest.approx(
            theirs[name]["forget"]["agg_value"], abs=1e-3
        )
    for name in ("forget_knowmem_ROUGE", "retain_knowmem_ROUGE", "forget_verbmem_ROUGE"):
        for index, value in ours[name]["value_by_index"].items():
            published = theirs[name]["value_by_index"][index]
            assert value["generation"] == published["generation"]
            assert value["rougeL_f1"] <= published["rougeL_f1"] + 1e-9, (
                "a stemmer only ever finds more"
            )
    assert "0" not in ours["forget_verbmem_ROUGE"]["value_by_index"], "an empty truth is no row"
    absent = json.loads((tmp_path / "MUSE_ABSENT.json").read_text())
    notes = json.loads((tmp_path / "MUSE_NOTES.json").read_text())
    assert "1:" in notes["rows skipped in forget_verbmem.gt"]
    assert {"privleak", "rel_diff", "mia_reference"} <= absent.keys()


def test_the_truth_is_cut_to_what_may_be_said(kit: Path, tmp_path: Path) -> None:
    words = [
        "eval.muse.metrics=[forget_verbmem_ROUGE]",
        "eval.muse.define.forget_verbmem_ROUGE.verbmem_truncate=5",
    ]
    ours = suite(kit, tmp_path, "retain", *words)["forget_verbmem_ROUGE"]["value_by_index"]
    rows = read_rows(kit / "muse/verbmem/forget.jsonl")
    for index, value in ours.items():
        assert rows[int(index)]["gt"].startswith(value["ground_truth"])
    assert any(value["ground_truth"] != rows[int(index)]["gt"] for index, value in ours.items())


@pytest.mark.long
def test_tofu_and_muse_share_their_passes(kit: Path, tmp_path: Path) -> None:
    """One command, both suites: the values of each alone, and one scoring and one generation pass
    for each length."""
    from tests.evals.test_suites import Counting, silent
    from unteach.config.schema import ModelConfig
    from unteach.evals import suites
    from unteach.models.loading import load

    words = [
        "task_name=t",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'retain'}",
        f"tofu_path={kit / 'data'}",
        f"muse_path={kit / 'muse'}",
        "eval.tofu.metrics=[forget_Q_A_ROUGE,mia_loss]",
        "eval.tofu.generation.max_new_tokens=32",
        "eval.muse.metrics=[forget_knowmem_ROUGE,retain_knowmem_ROUGE,forget_verbmem_ROUGE,mia_loss]",
    ]
    loaded = load(
        ModelConfig({"pretrained_model_name_or_path": str(kit / "retain")}), training=False
    )
    engine = Counting(loaded.model, loaded.tokenizer, 16)
    both = compose.compose("eval", ["eval=[tofu,muse]", *words]).eval
    found = suites.evaluate(both, engine, loaded.template, silent, None)
    assert engine.passes == 3, "scores; texts of 32 tokens; texts of 128"
    for name in ("tofu", "muse"):
        alone = suites.evaluate({name: both[name]}, engine, loaded.template, silent, None)[name]
        assert {k: v.agg for k, v in alone.items()} == pytest.approx(
            {k: v.agg for k, v in found[name].items()}, abs=1e-5
        )


def test_a_data_split_names_its_rows_and_its_model() -> None:
    made = compose.compose(
        "eval", ["experiment=eval/muse/default", "task_name=t", "data_split=Books"]
    )
    assert made.model.model_args["pretrained_model_name_or_path"] == "muse-bench/MUSE-Books_target"
    assert {rows.hf_args["path"] for rows in made.eval["muse"].rows.values()} == {
        "muse-bench/MUSE-Books"
    }


def test_a_key_that_rows_do_not_have_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"eval.muse.rows.forget_verbmem.stopp: no such key; did you mean stop\?"
    ):
        compose.compose(
            "eval", ["eval=muse", "task_name=t", "eval.muse.rows.forget_verbmem.stopp=[x]"]
        )
