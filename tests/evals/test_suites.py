"""Plans: one pass for all metrics, what is absent and why, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.config import compose
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_plan, suites


def silent(what: str, total: int) -> Any:
    return lambda done: None


class Counting(HFEngine):
    """Counts the passes and what is in them."""

    asked: int = 0
    generated: int = 0
    normed: int = 0
    passes: int = 0

    def score(self, pairs: Any, said: Any = None) -> Any:
        self.passes += 1
        self.asked += len(pairs)
        return super().score(pairs, said)

    def generate(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        self.passes += 1
        self.generated += len(prompts)
        return super().generate(prompts, *args, **kwargs)

    def grad_norms(self, pairs: Any, *args: Any, **kwargs: Any) -> Any:
        self.passes += 1
        self.normed += len(pairs)
        return super().grad_norms(pairs, *args, **kwargs)


def tofu(*words: str, path: str = "authors") -> dict[str, Any]:
    base = [
        "task_name=t",
        "model=tiny",
        f"tofu_path={path}",
        "eval.tofu.generation.max_new_tokens=4",
    ]
    return compose.compose("eval", [*base, *words]).eval


def test_all_metrics_take_one_pass_of_each_kind(tiny: Any, tmp_path: Path) -> None:
    engine = Counting(tiny.model, tiny.tokenizer, 16)
    values = suites.evaluate(
        tofu("eval.tofu.metrics=all"), engine, tiny.template, silent, tmp_path
    )["tofu"]
    assert engine.passes == 3
    from unteach.data.synthetic import authors

    forget, retain = (
        authors.build_rows("forget10_perturbed"),
        authors.build_rows("retain_perturbed"),
    )
    others = authors.build_rows("real_authors_perturbed") + authors.build_rows(
        "world_facts_perturbed"
    )
    holdout = authors.build_rows("holdout10")
    unique = {
        (r["question"], a)
        for r in [*forget, *retain, *others, *holdout]
        for a in [
            r["answer"],
            r.get("paraphrased_answer", r["answer"]) if r in forget or r in retain else r["answer"],
            *r.get("perturbed_answer", []),
        ]
    }
    assert engine.asked == len(unique), "an answer that several metrics need is scored once"
    assert engine.normed == len(authors.build_rows("forget10")) + len(holdout)
    assert engine.generated == len({r["question"] for r in [*forget, *retain, *others]})
    assert set(json.loads((tmp_path / "TOFU_EVAL.json").read_text())) == set(values)


def test_batch_size_changes_no_value(tiny: Any, tmp_path: Path) -> None:
    found = []
    for size in (1, 7, 64):
        engine = HFEngine(tiny.model, tiny.tokenizer, size)
        config = tofu(
            "eval.tofu.metrics=[model_utility,extraction_strength,mia_min_k]",
            "forget_split=forget01",
        )
        found.append(suites.evaluate(config, engine, tiny.template, silent, None)["tofu"])
    for name, value in found[0].items():
        for other in found[1:]:
            assert other[name].agg == pytest.approx(value.agg, abs=1e-5), name


def test_what_is_absent_says_why(tiny: Any, tmp_path: Path) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer, 64)
    suites.evaluate(tofu(), engine, tiny.template, silent, tmp_path)
    absent = json.loads((tmp_path / "TOFU_ABSENT.json").read_text())
    assert set(absent) == {"forget_quality", "privleak"}
    assert "retain_logs_path" in absent["forget_quality"]
    summary = json.loads((tmp_path / "TOFU_SUMMARY.json").read_text())
    assert "forget_Q_A_PARA_Prob" not in summary, "children are in EVAL only"
    assert {"model_utility", "forget_truth_ratio", "mia_min_k", "exact_memorization"} <= set(
        summary
    )


def test_a_corpus_without_holdout(tiny: Any, shared: Path, tmp_path: Path) -> None:
    made = suite_plan.plan_suite(tofu(path=str(shared / "data/tofu"))["tofu"], tiny.template)
    assert "has no holdout10" in made.absent["mia_min_k"]
    assert "mia_min_k is absent" in made.absent["privleak"]


@pytest.mark.parametrize("metric", ["forget_quality", "privleak"])
def test_a_metric_asked_for_by_name_must_be_there(tiny: Any, metric: str) -> None:
    with pytest.raises(UserError, match=f"asks for {metric}.*retain_logs_path"):
        suite_plan.plan_suite(tofu(f"eval.tofu.metrics=[{metric}]")["tofu"], tiny.template)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no file"), ('{"forget_truth_ra', "not whole JSON"), ("[1]", "not an evaluation log")],
)
def test_bad_retain_logs(tiny: Any, tmp_path: Path, content: str | None, said: str) -> None:
    log = tmp_path / "TOFU_EVAL.json"
    if content is not None:
        log.write_text(content)
    with pytest.raises(UserError, match=said):
        suite_plan.plan_suite(tofu(f"retain_logs_path={log}")["tofu"], tiny.template)


def test_our_own_log_is_a_retain_log(tiny: Any, tmp_path: Path) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer, 64)
    suites.evaluate(tofu(), engine, tiny.template, silent, tmp_path / "evals")
    values = suites.evaluate(
        tofu(f"retain_logs_path={tmp_path}"), engine, tiny.template, silent, None
    )["tofu"]
    assert values["forget_quality"].agg == pytest.approx(1.0)
    assert values["privleak"].agg == pytest.approx(0.0)


def test_logits_that_are_not_finite_name_the_metric_and_the_rows(tiny: Any) -> None:
    class Broken(HFEngine):
        def score(self, pairs: Any, said: Any = None) -> Any:
            scores = super().score(pairs, said)
            scores[3].logprob[:] = float("nan")
            return scores

    engine = Broken(tiny.model, tiny.tokenizer, 64)
    with pytest.raises(
        UserError, match=r"exact_memorization: .*not finite at rows \[3\] of forget.answer"
    ):
        suites.evaluate(
            tofu("eval.tofu.metrics=[exact_memorization]"), engine, tiny.template, silent, None
        )


def test_rows_that_are_skipped_or_cut_are_counted(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "forget10.jsonl").write_text(
        "\n".join(json.dumps({"question": "Q", "answer": a}) for a in ("", "word " * 60, "one"))
    )
    (tmp_path / "holdout10.jsonl").write_text(json.dumps({"question": "Q", "answer": "two"}))
    engine = HFEngine(tiny.model, tiny.tokenizer, 64)
    config = tofu("eval.tofu.metrics=[mia_loss]", "eval.tofu.max_length=40", path=str(tmp_path))
    values = suites.evaluate(config, engine, tiny.template, silent, tmp_path)["tofu"]
    notes = json.loads((tmp_path / "TOFU_NOTES.json").read_text())
    assert values["mia_loss"].extra["forget"]["value_by_index"].keys() == {"1", "2"}
    assert "1:" in notes["rows skipped in mia_forget.answer"]
    assert "1:" in notes["answers cut in mia_forget.answer"]


def test_generation_arguments_are_checked() -> None:
    with pytest.raises(
        UserError, match=r"generation.max_new_token: no such key; did you mean max_new_tokens\?"
    ):
        tofu("eval.tofu.generation.max_new_token=4")


def test_texts_need_a_length(tiny: Any) -> None:
    config = tofu(
        "eval.tofu.generation.max_new_tokens=null", "eval.tofu.metrics=[forget_Q_A_ROUGE]"
    )
    with pytest.raises(
        UserError, match=r"max_new_tokens: is required for the texts of forget.answer"
    ):
        suites.evaluate(
            config, Counting(tiny.model, tiny.tokenizer, 64), tiny.template, silent, None
        )
