"""Tasks of lm-evaluation-harness through our engine: what its own model finds, in one plan, and
what is refused."""

import dataclasses
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.evals.test_suites import Counting, silent
from unteach.config import compose
from unteach.data.synthetic import authors
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_plan, suites
from unteach.evals.base import TaskResult
from unteach.evals.lm_eval import tasks as harness
from unteach.evals.metrics.lm_eval import HarnessTask

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not here"
)
ROWS = authors.build_rows("world_facts_perturbed")[:9]
HEAD = "dataset_path: json\ndataset_kwargs: {data_files: {test: FILE}}\ntest_split: test\n"
ACC = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}"
TASKS = {
    "letters": 'output_type: multiple_choice\ndoc_to_text: "{{question}}\\nA. {{choices[0]}}\\nB. '
    '{{choices[1]}}\\nAnswer:"\n'
    f"doc_to_choice: [A, B, C, D]\ndoc_to_target: label\n{ACC}]\n",
    "words": 'output_type: multiple_choice\ndoc_to_text: "{{question}} "\ndoc_to_choice: '
    "choices\ndoc_to_target: label\n"
    f"{ACC}, {{metric: acc_norm, aggregation: mean, higher_is_better: true}}]\n",
    "said": 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: '
    '"{{choices[label]}}"\n'
    'generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 8}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
    "rolling": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four tasks over one file, and a group of two of them."""
    lines = []
    for i, row in enumerate(ROWS):
        choices = [row["answer"], *row["perturbed_answer"]]
        random.Random(i).shuffle(choices)
        text = " ".join(other["question"] for other in ROWS[: 3 + i])
        lines.append(
            {
                "question": row["question"],
                "choices": choices,
                "label": choices.index(row["answer"]),
                "text": text,
            }
        )
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name, content in TASKS.items():
        (tasks / f"{name}.yaml").write_text(
            f"task: {name}\n{HEAD.replace('FILE', str(tmp_path / 'rows.jsonl'))}{content}"
        )
    (tasks / "both.yaml").write_text(
        "group: both\ntask: [letters, words]\naggregate_metric_list: [{metric: acc, aggregation: "
        "mean, weight_by_size: true}]\n"
    )
    return tasks


def suite(folder: Path, *words: str, tasks: str = "[letters,words,said,rolling,both]") -> Any:
    base = [
        "task_name=t",
        "model=tiny",
        "eval=lm_eval",
        f"eval.lm_eval.simple_evaluate_args.include_path={folder}",
    ]
    return compose.compose("eval", [*base, f"eval.lm_eval.tasks={tasks}", *words]).eval


@installed
def test_it_finds_what_the_harnesss_own_model_finds(
    tiny: Any, folder: Path, tmp_path: Path
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    theirs = simple_evaluate(
        HFLM(tiny.model, tokenizer=tiny.tokenizer, batch_size=2),
        tasks=["both", "said", "rolling"],
        num_fewshot=2,
        task_manager=harness.find_manager(["both"], str(folder)),
        bootstrap_iters=0,
    )
    engine = Counting(tiny.model, tiny.tokenizer)
    config = suite(folder, "eval.lm_eval.simple_evaluate_args.num_fewshot=2")
    ours = suites.evaluate(config, engine, tiny.template, silent, tmp_path)["lm_eval"]
    for name in ("letters", "words", "both"):
        found = theirs["groups"]["both"] if name == "both" else theirs["results"][name]
        assert ours[name].agg == pytest.approx(found["acc,none"])
    assert ours["words"].extra["all"]["acc_norm"] == pytest.approx(
        theirs["results"]["words"]["acc_norm,none"]
    )
    assert ours["said"].agg == theirs["results"]["said"]["exact_match,none"]
    for name in ("word_perplexity", "bits_per_byte"):
        assert ours["rolling"].extra["all"][name] == pytest.approx(
            theirs["results"]["rolling"][f"{name},none"], rel=1e-5
        )
    assert engine.passes == 3, "scores of all tasks, rolling texts, generations"
    assert engine.asked < 9 * (4 + 4) + 9 * 2
    log = json.loads((tmp_path / "LM_EVAL_EVAL.json").read_text())
    assert log["both"]["n"] == 18
    low, high = log["both"]["ci"]
    assert low <= log["both"]["agg_value"] <= high
    documents = [log["both"]["value_by_index"][str(i)] for i in range(18)]
    assert [d["acc"] for d in documents] == [
        s["acc"] for name in ("letters", "words") for s in theirs["samples"][name]
    ]
    assert json.loads((tmp_path / "LM_EVAL_SUMMARY.json").read_text())["said"] == ours["said"].agg


@installed
def test_log_likelihoods_and_texts_are_the_same(tiny: Any, folder: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from unteach.evals.lm_eval.model import EngineModel

    theirs = HFLM(tiny.model, tokenizer=tiny.tokenizer, batch_size=3)
    ours = EngineModel(HFEngine(tiny.model, tiny.tokenizer), tiny.template, silent)

    def asked(kind: str, *arguments: Any) -> Any:
        return [
            Instance(request_type=kind, doc={}, arguments=one, idx=i)
            for i, one in enumerate(arguments)
        ]

    pairs = [
        (row["question"], f" {answer}")
        for row in ROWS
        for answer in (row["answer"], *row["perturbed_answer"])
    ]
    pairs += [("", "In the town"), ("ends in spaces  ", "so"), ("word " * 40, "end")]
    for ours_one, theirs_one in zip(
        ours.loglikelihood(asked("loglikelihood", *pairs)),
        theirs.loglikelihood(asked("loglikelihood", *pairs)),
        strict=True,
    ):
        assert ours_one[0] == pytest.approx(theirs_one[0], abs=1e-4)
        assert ours_one[1] == theirs_one[1]
    given = {"until": ["e", "\n"], "max_gen_toks": 12}
    contexts = [(row["question"], dict(given)) for row in ROWS]
    assert ours.generate_until(asked("generate_until", *contexts)) == theirs.generate_until(
        asked("generate_until", *contexts)
    )


@installed
def test_a_long_prompt_loses_its_beginning_and_is_counted(tiny: Any, folder: Path) -> None:
    from unteach.evals.lm_eval.model import EngineModel

    class Short(HFEngine):
        context = 30  # type: ignore[assignment]

    engine = Short(tiny.model, tiny.tokenizer)
    values = suites.evaluate(
        suite(folder, tasks="[letters,rolling]"), engine, tiny.template, silent, None
    )["lm_eval"]
    assert values["letters"].extra["prompts_cut"] == 4 * 9
    with pytest.raises(UserError, match="leaves no room for its question"):
        EngineModel(engine, tiny.template, silent)._loglikelihood_tokens([(None, [1], [2] * 30)])


@installed
def test_a_second_evaluation_makes_no_pass_and_random_numbers_go_on(
    tiny: Any, folder: Path, tmp_path: Path
) -> None:
    from unteach.evals.measurement_cache import Store

    found = []
    for _ in range(2):
        engine = HFEngine(tiny.model, tiny.tokenizer, store=Store(tmp_path, "w", "float32"))
        if found:
            engine._one = None  # type: ignore[assignment, method-assign]
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        found.append(suites.evaluate(suite(folder), engine, tiny.template, silent, None)["lm_eval"])
        drawn = (float(torch.rand(1)), float(np.random.rand()), random.random())
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        assert drawn == (float(torch.rand(1)), float(np.random.rand()), random.random())
    assert all(found[0][name].agg == found[1][name].agg for name in found[0])


@installed
def test_a_task_misspelled_and_a_folder_that_is_not_there(
    tiny: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = harness._build_manager
    # reading all of them takes long
    monkeypatch.setattr(harness, "_build_manager", lambda path, defaults: real(path, False))
    with pytest.raises(UserError, match=r"no task called 'leters'; did you mean letters\?"):
        suite_plan.plan_suite(suite(folder, tasks="[leters]")["lm_eval"], tiny.template)
    with pytest.raises(UserError, match="there is no such folder"):
        suite_plan.plan_suite(suite(tmp_path / "nowhere")["lm_eval"], tiny.template)


def test_without_the_package_the_command_that_installs_it_is_said(
    tiny: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else real(name)
    )
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r'not installed.*pip install "\.\[lm-eval\]"'):
        suite_plan.plan_suite(suite(folder)["lm_eval"], tiny.template)


def test_the_value_of_a_group() -> None:
    """Weighted by size it is the mean of the documents, else of the tasks; else it has no
    interval."""
    documents = [{"task": "a", "acc": float(i < 3)} for i in range(4)] + [
        {"task": "b", "acc": 0.0} for _ in range(2)
    ]
    for acc, known in ((0.5, True), (0.375, True), (0.9, False)):
        value = HarnessTask("g").compute("g", [TaskResult({"acc": acc}, documents)])
        assert (value.agg, value.n, value.replicates is not None) == (acc, 6, known)
    with pytest.raises(UserError, match="no measure 'f1'; it has acc"):
        HarnessTask("g", "f1").compute("g", [TaskResult({"acc": 0.5}, documents)])


def test_the_shipped_suites_name_tasks() -> None:
    shipped = compose.compose("eval", ["task_name=t", "experiment=eval/wmdp/default"])
    assert {name: one.list_metrics() for name, one in shipped.eval.items()} == {
        "wmdp": ["wmdp_cyber"],
        "mmlu": ["mmlu"],
    }
    assert compose.compose("eval", ["task_name=t", "eval=lm_eval"]).eval[
        "lm_eval"
    ].list_metrics() == [
        "mmlu",
        "wmdp_bio",
        "wmdp_cyber",
    ]


@installed
def test_a_name_that_no_file_writes_is_refused_before_the_harness_reads_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "_build_manager", None)
    with pytest.raises(UserError, match="no task called 'leters'; did you mean letters"):
        harness.refuse_misspelled(suite(folder, tasks="[letters,leters]"))
    harness.refuse_misspelled(suite(folder, tasks="[letters,both,mmlu]"))


@installed
def test_a_task_given_as_a_mapping_is_worth_what_its_file_is(
    tiny: Any, folder: Path, tmp_path: Path
) -> None:
    config = suite(folder, tasks="[words,said]")
    of_files = suites.evaluate(
        config, HFEngine(tiny.model, tiny.tokenizer), tiny.template, silent, None
    )["lm_eval"]
    fields = {**yaml.safe_load((folder / "words.yaml").read_text()), "task": "words_inline"}
    config = suite(folder)
    config["lm_eval"] = dataclasses.replace(
        config["lm_eval"], tasks=[fields, {"task": "said", "num_fewshot": 2}], define={}
    )
    harness.refuse_misspelled(config)
    inline = suites.evaluate(
        config, HFEngine(tiny.model, tiny.tokenizer), tiny.template, silent, None
    )["lm_eval"]
    assert inline["words_inline"].agg == of_files["words"].agg
    assert inline["words_inline"].extra["all"] == pytest.approx(of_files["words"].extra["all"])

    (folder / "said.yaml").write_text((folder / "said.yaml").read_text() + "num_fewshot: 2\n")
    harness._build_manager.cache_clear()
    config = suite(folder, tasks="[said]")
    shots = suites.evaluate(
        config, HFEngine(tiny.model, tiny.tokenizer), tiny.template, silent, None
    )["lm_eval"]
    assert inline["said"].by_index == shots["said"].by_index
    assert inline["said"].agg == shots["said"].agg


@installed
def test_a_group_takes_the_fields_of_a_mapping(tiny: Any, folder: Path) -> None:
    config = suite(folder, tasks="[{task: both, num_fewshot: 2}]")
    engine = HFEngine(tiny.model, tiny.tokenizer)
    by_mapping = suites.evaluate(config, engine, tiny.template, silent, None)["lm_eval"]["both"]
    config = suite(folder, "eval.lm_eval.simple_evaluate_args.num_fewshot=2", tasks="[both]")
    by_setting = suites.evaluate(config, engine, tiny.template, silent, None)["lm_eval"]["both"]
    assert (by_mapping.agg, by_mapping.by_index) == (by_setting.agg, by_setting.by_index)


@installed
@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("[{num_fewshot: 2}]", r"tasks\[0\]: a mapping configures one task .* needs its name"),
        ("[words,{task: words}]", r"tasks\[1\]: the task words is asked for twice"),
        (
            "[{task: wordz, num_fewshot: 2}]",
            "no task called 'wordz'; did you mean words.*needs dataset_path, test_split",
        ),
        (
            "[{task: words, num_fewshots: 2}]",
            "no field of a task called 'num_fewshots'; did you mean num_fewshot",
        ),
    ],
)
def test_a_mapping_that_makes_no_task_is_refused(
    folder: Path, tasks: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "_build_manager", None)
    with pytest.raises(UserError, match=message):
        harness.refuse_misspelled(suite(folder, tasks=tasks))


@installed
def test_a_task_with_fields_of_its_own_is_no_part_of_a_group(tiny: Any, folder: Path) -> None:
    config = suite(folder, tasks="[both,{task: words, num_fewshot: 2}]")
    with pytest.raises(UserError, match="words is also a task of the group both"):
        suites.evaluate(config, HFEngine(tiny.model, tiny.tokenizer), tiny.template, silent, None)
    config = suite(folder, tasks="[{task: words, doc_to_target: 3, output_type: dancing}]")
    with pytest.raises(UserError, match="cannot make words of the fields that are given"):
        suites.evaluate(config, HFEngine(tiny.model, tiny.tokenizer), tiny.template, silent, None)


def test_suites_are_there_without_the_package_and_before_torch() -> None:
    """What plans and checks suites imports neither: one is optional, and one takes seconds."""
    code = (
        "import sys; sys.modules['lm_eval'] = None; "
        "import unteach.evals.suites; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
