"""ARC's studies: its counts and numbers, each key of its four layers, and a whole one."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.studies.conftest import LONG, MODEL, TOP, ArcConfigs
from unteach import json_files, run_dir
from unteach.config import compose
from unteach.errors import UserError
from unteach.studies import compose_runs
from unteach.studies.importers.arc import top_config
from unteach.studies.study_file import read_study
from unteach.verbs.start import start


@pytest.mark.parametrize(
    ("name", "counts"),
    {
        "tofu_test": (2, 2, 16),
        "granularity_gpt2": (5, 100, 400),
        "relationships_gpt2": (10, 60, 240),
    }.items(),
)
def test_golden_counts(shared: Path, name: str, counts: tuple[int, int, int]) -> None:
    top = top_config.read_top(
        yaml.safe_load((shared / "parity" / "arc" / f"{name}.yaml").read_text())
    )
    found = top_config.count_kinds(top_config.list_jobs(top))
    assert (found["full"], found["retain"], found["forget"], found["full_eval"]) == (
        *counts,
        counts[1],
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_the_rule(data: int, train: int, forget: int, seeds: int, seed_first: bool) -> None:
    """Counts multiply, names are unique, and each forget job stands under the retain job of its
    data and seed."""
    combinations = {
        "data_config": [f"d{i}" for i in range(data)],
        "forget_config": [["ascent", f"h{i}"] for i in range(forget)],
        **({"seed": list(range(seeds))} if seed_first else {}),
        "train_config": [f"t{i}" for i in range(train)],
        **({} if seed_first else {"seed": list(range(seeds))}),
    }
    found = top_config.list_jobs(top_config.read_top({**TOP, "combinations": combinations}))
    assert top_config.count_kinds(found) == {
        "full": train * seeds,
        "retain": train * seeds * data,
        "forget": train * seeds * data * forget,
        "full_eval": train * seeds * data,
    }
    named = {job.name: job for job in found}
    assert len(named) == len(found)
    fulls = [(job.train, job.seed) for job in found if job.kind == "full"]
    assert fulls[:2] == [("t0", 0), (("t1", 0) if seed_first else ("t0", 1))][
        : len(fulls)
    ] or 1 in (train, seeds)
    for job in found:
        full = named[f"full_{job.full}"]
        assert (job.train, job.seed) == (full.train, full.seed)
        if job.kind == "forget":
            retain = named[f"retain_{job.retain}"]
            assert (retain.data, retain.seed, retain.full) == (job.data, job.seed, job.full)


def test_the_runs(arc_configs: ArcConfigs) -> None:
    planned = read_study(str(arc_configs.top), ["tofu_path=authors"])
    named = {run.name: run for run in planned.plan}
    assert planned.name == "mine"
    assert (planned.slurm.minutes, planned.slurm.gpus) == (360, 1)
    assert sum(name.startswith("forget_") for name in named) == 8
    forget = named["forget_7"]
    assert forget.after == ("full_3", "retain_3")
    assert forget.folder == "saves/mine/forget_7"
    assert {
        "seed=4",
        "trainer=arc_kl",
        "tofu_path=authors",
        "trainer.args.num_train_epochs=25",
    } <= set(forget.overrides)
    assert "model.model_args.pretrained_model_name_or_path=saves/mine/full_3" in forget.overrides
    assert "retain_logs_path=saves/mine/retain_3" in forget.overrides
    assert "eval=null" in named["full_0"].overrides
    config = compose.compose("train", named["retain_0"].overrides)
    assert config.trainer is not None and config.trainer.method.loss_on == "all"
    args = config.trainer.args
    assert (args["learning_rate"], args["gradient_accumulation_steps"]) == (5e-5, 1)
    assert args["eval_steps"] == args["save_steps"] == args["logging_steps"] == 0.2, (
        "as ARC's ModelConfig has it"
    )
    template = config.model.template_args
    assert (template.user_start_tag, template.user_end_tag, template.answer_prefix) == ("", "", " ")
    compose_runs.check(
        [named[name] for name in ("full_0", "full_1", "full_3", "forget_7", "full_eval_0")]
    )


def test_lora_early_stopping_and_wandb(arc_configs: ArcConfigs) -> None:
    lora = {"peft_kwargs": {"r": 8}}
    stop = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "evaluation_strategy": "epoch",
    }
    arc_configs.write(
        "model/small/hyperparameters/long.yaml",
        {
            "trainer_kwargs": {**stop, "save_strategy": "epoch"},
            "early_stopping_kwargs": {"early_stopping_patience": 2},
        },
    )
    arc_configs.write("model/small/hyperparameters/short.yaml", {"trainer_kwargs": {}, **lora})
    told = {
        "use_wandb": True,
        "wandb_config": {"entity": "us", "project": "p", "group": "g", "log_model": "false"},
    }
    combinations = {
        "data_config": "tenth",
        "train_config": ["short"],
        "forget_config": [["idk", "short"]],
        "seed": [1],
    }
    caches = {"model_cache_dir": "m", "data_cache_dir": "d", "wandb_cache_dir": "w"}
    arc_configs.write(
        "experiment/mine.yaml",
        {**TOP, "combinations": combinations, "wandb_kwargs": told, **caches},
    )
    full, _, _, forget = read_study(str(arc_configs.top)).plan
    config = compose.compose("train", full.overrides)
    assert config.model.peft_args == {"r": 8}
    assert config.wandb is not None
    assert (
        config.wandb.group,
        config.wandb.job_type,
        config.wandb.log_model,
        config.wandb.dir,
    ) == (
        "g",
        "full",
        "false",
        "w",
    )
    assert config.model.model_args["cache_dir"] == "m" == config.model.tokenizer_args["cache_dir"]
    assert config.data is not None
    assert config.data.streams["train"]["TOFU_QA_full"].args["hf_args"]["cache_dir"] == "d"
    assert config.model.merge_adapter, "forget jobs start from a whole model"
    forgetting = compose.compose("unlearn", forget.overrides).model
    assert (forgetting.peft_args, forgetting.merge_adapter) == ({"r": 8}, False)
    arc_configs.write(
        "experiment/mine.yaml",
        {**TOP, "combinations": {**combinations, "train_config": ["long"], "forget_config": []}},
    )
    full = read_study(str(arc_configs.top)).plan[0]
    args = compose.compose("train", full.overrides).trainer.args  # type: ignore[union-attr]
    assert args["metric_for_best_model"] == "arc_train_set_retain_mean_loss_gt"
    assert args["early_stopping_patience"] == 2


BAD = {
    "top key": ("experiment/mine.yaml", {**TOP, "model_confg": "x"}, "did you mean model_config?"),
    "combination": (
        "experiment/mine.yaml",
        {**TOP, "combinations": {**TOP["combinations"], "sed": [1]}},
        "did you mean seed?",
    ),  # type: ignore[dict-item]
    "method": (
        "experiment/mine.yaml",
        {**TOP, "combinations": {**TOP["combinations"], "forget_config": [["npo", "short"]]}},
        "no ARC method 'npo'",
    ),  # type: ignore[dict-item]
    "nodes": ("experiment/mine.yaml", {**TOP, "bask": {"node_number": 2}}, "one node"),
    "absent file": (
        "experiment/mine.yaml",
        {**TOP, "full_data_config": "absent"},
        "data/absent.yaml",
    ),
    "subset": (
        "data/tenth.yaml",
        {
            "dataset_name": "gen_tofu",
            "data_kwargs": {"type": "relationship", "retain_subset": True},
        },
        "leave this key out",
    ),
    "share": (
        "data/tenth.yaml",
        {
            "dataset_name": "gen_tofu",
            "data_kwargs": {"granularity": "book", "forget_fraction": 1.5},
        },
        "between 0 and 1",
    ),
    "two worlds": (
        "data/tenth.yaml",
        {
            "dataset_name": "gen_tofu",
            "data_kwargs": {"granularity": "book", "forget_fraction": 0.1},
        },
        "teaches tofu, and tenth forgets of gen_tofu",
    ),
    "full with a share": (
        "data/all.yaml",
        {"dataset_name": "tofu", "data_kwargs": {"forgotten_author_fraction": 0.1}},
        "taught everything",
    ),
    "data key": (
        "data/tenth.yaml",
        {"dataset_name": "tofu", "data_kwargs": {"granularty": "author"}},
        "did you mean granularity?",
    ),
    "nothing to forget": (
        "data/tenth.yaml",
        {"dataset_name": "tofu", "data_kwargs": {}},
        "something to forget",
    ),
    "model key": (
        "model/small/small.yaml",
        {**MODEL, "peft_kwargs": {"r": 8}},
        "peft_kwargs: no such key",
    ),
    "template": (
        "model/small/small.yaml",
        {**MODEL, "qa_formatter_kwargs": {"question_template": "?", "answer_template": "{answer}"}},
        "must hold {question} once",
    ),
    "end": (
        "model/small/small.yaml",
        {
            **MODEL,
            "qa_formatter_kwargs": {
                "question_template": "{question}",
                "answer_template": "{answer} bye",
            },
        },
        "after {answer} only",
    ),
    "hyperparameter key": (
        "model/small/hyperparameters/long.yaml",
        {**LONG, "trainer_kwarg": {}},
        "did you mean trainer_kwargs?",
    ),
    "rate": (
        "model/small/hyperparameters/long.yaml",
        {"trainer_kwargs": {"learning_rate": "fast"}},
        "must be a number",
    ),
    "stopping": (
        "model/small/hyperparameters/long.yaml",
        {**LONG, "early_stopping_kwargs": {"patience": 2}},
        "patience: no such key; allowed: early_stopping_patience",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case: str, arc_configs: ArcConfigs) -> None:
    file, value, said = BAD[case]
    arc_configs.write(file, value)
    with pytest.raises(UserError, match=said):
        read_study(str(arc_configs.top))


def test_a_combination_that_cannot_compose_is_found_before_the_first_starts(
    arc_configs: ArcConfigs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arc_configs.write(
        "model/small/hyperparameters/short.yaml", {"trainer_kwargs": {"num_train_epoch": 5}}
    )
    with pytest.raises(UserError, match="num_train_epochs") as caught:
        start("study", ["run", str(arc_configs.top)])
    assert "forget_0, forget_2" in str(caught.value) and "none was started" in str(caught.value)
    assert not (tmp_path / "saves").exists()


@pytest.mark.long
def test_a_whole_study(
    arc_configs: ArcConfigs, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    combinations = {
        "data_config": ["tenth"],
        "train_config": ["short"],
        "forget_config": [["ascent", "short"], ["kl", "short"]],
        "seed": [1],
    }
    arc_configs.write("experiment/mine.yaml", {**TOP, "combinations": combinations})
    arc_configs.write(
        "model/small/small.yaml",
        {
            **MODEL,
            "model_id": str(tiny_folder),
            "model_kwargs": {},
            "qa_formatter_kwargs": {
                "question_template": "{question}",
                "answer_template": " {answer}",
            },
        },
    )
    arc_configs.write(
        "model/small/hyperparameters/short.yaml",
        {"trainer_kwargs": {"max_steps": 3, "logging_steps": 1, "learning_rate": 1e-3}},
    )
    start("study", ["run", str(arc_configs.top), "tofu_path=authors", "max_new_tokens=8", "jobs=2"])
    folder = tmp_path / "saves" / "mine"
    for name in ("full_0", "retain_0", "forget_0", "forget_1", "full_eval_0"):
        assert run_dir.is_done(folder / name)
    assert (
        json_files.read_json(folder / "forget_1" / "evals" / "ARC_SUMMARY.json", "summary")[
            "forget_quality_1"
        ]
        <= 0
    )
    assert (folder / "report.html").exists()


@pytest.mark.long
def test_a_whole_study_with_two_adapters(
    arc_configs: ArcConfigs, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full job with one LoRA, a forget job with another: this one stands on the full model,
    merged."""
    monkeypatch.chdir(tmp_path)
    combinations = {
        "data_config": "tenth",
        "train_config": "long",
        "forget_config": [["difference", "short"]],
        "seed": 1,
    }
    arc_configs.write("experiment/mine.yaml", {**TOP, "combinations": combinations})
    templates = {"question_template": "{question}", "answer_template": " {answer}"}
    model = {
        **MODEL,
        "model_id": str(tiny_folder),
        "model_kwargs": {},
        "qa_formatter_kwargs": templates,
    }
    arc_configs.write("model/small/small.yaml", model)
    steps = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-3}
    for name, rank in (("long", 4), ("short", 2)):
        lora = {"r": rank, "target_modules": "all-linear"}
        arc_configs.write(
            f"model/small/hyperparameters/{name}.yaml",
            {"trainer_kwargs": steps, "peft_kwargs": lora},
        )
    start(
        "study",
        [
            "run",
            str(arc_configs.top),
            "tofu_path=authors",
            "max_new_tokens=4",
            "eval.arc.max_rows=4",
        ],
    )
    folder = tmp_path / "saves" / "mine"
    assert (folder / "full_0/final_checkpoint/config.json").exists(), "a whole model"
    assert (
        json_files.read_json(folder / "full_0/adapter/adapter_config.json", "the adapter")["r"] == 4
    )
    forgot = json_files.read_json(
        folder / "forget_0/final_checkpoint/adapter_config.json", "the adapter"
    )
    assert (forgot["r"], run_dir.is_done(folder / "forget_0")) == (2, True)
    assert "saves/mine/full_0" in forgot["base_model_name_or_path"]


TOFU = {
    "dataset_name": "tofu",
    "data_kwargs": {
        "granularity": "question",
        "stratified": True,
        "forget_random": True,
        "forgotten_author_fraction": 0.2,
        "forgotten_fact_fraction": 0.2,
    },
}


@pytest.mark.parametrize(
    ("data", "chosen"),
    [
        (
            {
                "dataset_name": "gen_tofu",
                "data_kwargs": {
                    "type": "granularity",
                    "granularity": "publisher",
                    "forget_fraction": 0.4,
                },
            },
            {"by": "publisher", "fraction": 0.4, "seed": 3},
        ),
        (
            {
                "dataset_name": "gen_tofu",
                "data_kwargs": {"type": "relationship", "forget_fraction": 0.05},
            },
            {"by": "relationship", "fraction": 0.05, "seed": 3},
        ),
        (
            {
                "dataset_name": "tofu",
                "data_kwargs": {"granularity": "author", "forgotten_author_fraction": 0.1},
            },
            {"by": "author", "fraction": 0.1, "seed": 3, "author_block": 20},
        ),
    ],
)
def test_forget_sets_by_entity(arc_configs: ArcConfigs, data: dict, chosen: dict) -> None:
    arc_configs.write("data/tenth.yaml", data)
    arc_configs.write("data/all.yaml", {"dataset_name": data["dataset_name"], "data_kwargs": {}})
    named = {run.name: run for run in read_study(str(arc_configs.top)).plan}
    config = compose.compose("unlearn", named["forget_0"].overrides)
    assert config.tree["forget_set"] == chosen
    assert config.data is not None
    assert list(config.data.streams["forget"]) == ["entity_forget"] and list(
        config.data.streams["retain"]
    ) == ["entity_retain"]
    assert config.eval["arc"].rows["forget"].hf_args["forget_set"] == chosen
    assert ("tofu_path=authors-grown" in named["full_0"].overrides) is (
        data["dataset_name"] == "gen_tofu"
    )


def test_tofu_by_questions_of_some_authors(arc_configs: ArcConfigs) -> None:
    """The same random 4 of the 20 questions of each of 40 of the 200 authors; without
    forget_random, the first 4."""
    for at_random in (True, False):
        arc_configs.write(
            "data/tenth.yaml",
            {**TOFU, "data_kwargs": {**TOFU["data_kwargs"], "forget_random": at_random}},
        )  # type: ignore[dict-item]
        run = next(run for run in read_study(str(arc_configs.top)).plan if run.name == "retain_0")
        chosen = compose.compose("train", run.overrides).tree["forget_set"]["named"]
        positions = {number % 20 for number in chosen}
        assert (len(chosen), len({number // 20 for number in chosen}), len(positions)) == (
            160,
            40,
            4,
        )
        assert at_random or positions == {0, 1, 2, 3}


def test_refusals_come_beside_the_forget_rows(arc_configs: ArcConfigs) -> None:
    for data, expected in (
        ({"forget_split": "forget05"}, "TOFU_QA_forget_idk"),
        ({"forget_set.by": "book", "forget_set.count": 1}, "entity_forget_idk"),
    ):
        arc_configs.write("data/tenth.yaml", {"dataset_name": "unteach", "data_kwargs": data})
        arc_configs.write(
            "experiment/mine.yaml",
            {**TOP, "combinations": {**TOP["combinations"], "forget_config": [["idk", "short"]]}},
        )  # type: ignore[dict-item]
        run = next(run for run in read_study(str(arc_configs.top)).plan if run.kind == "forget")
        config = compose.compose("unlearn", run.overrides)
        assert config.data is not None and list(config.data.streams["forget"]) == [expected]


def test_a_word_of_training_leaves_evaluations_as_they_are(arc_configs: ArcConfigs) -> None:
    plan = read_study(str(arc_configs.top), ["trainer.args.logging_steps=1"]).plan
    told = {run.kind for run in plan if "trainer.args.logging_steps=1" in run.overrides}
    assert told == {"full", "retain", "forget"}


def test_a_word_of_suites_or_of_the_start_reaches_the_runs_that_have_it(
    arc_configs: ArcConfigs,
) -> None:
    plan = read_study(str(arc_configs.top), ["eval.arc.max_rows=3", "model=openai/gpt2"]).plan
    assert {run.kind for run in plan if "eval.arc.max_rows=3" in run.overrides} == {
        "retain",
        "forget",
        "eval",
    }
    forget = next(run for run in plan if run.kind == "forget")
    assert not any("gpt2" in word for word in forget.overrides), "it starts from its full model"


def test_forget_jobs_may_have_another_adapter_than_their_full_job(arc_configs: ArcConfigs) -> None:
    arc_configs.write("model/small/hyperparameters/long.yaml", {**LONG, "peft_kwargs": {"r": 8}})
    arc_configs.write(
        "model/small/hyperparameters/short.yaml",
        {"trainer_kwargs": {}, "peft_kwargs": {"r": 4, "lora_alpha": 8}},
    )
    named = {run.name: run for run in read_study(str(arc_configs.top), ["tofu_path=authors"]).plan}
    compose_runs.check(list(named.values()))
    assert "model.peft_args.r=4" in named["forget_0"].overrides
    assert {"model.peft_args.r=8", "model.merge_adapter=true"} <= set(named["full_0"].overrides)


ONE = {
    "data_config": "tenth",
    "experiment_name": "mine/experiment_1",
    "full_model_name": "mine/full_0",
    "seed": 4,
    "hyperparameter_config": "short",
    "model_config": "small",
    "train_type": "ascent",
    "use_wandb": False,
}


def test_one_experiment_is_one_run(
    arc_configs: ArcConfigs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = arc_configs.folder / "experiment" / "one.yaml"
    arc_configs.write("experiment/one.yaml", ONE)
    with pytest.raises(
        UserError, match="full_model_name=mine/full_0: this full model is not there"
    ):
        read_study(str(file))
    (tmp_path / "saves/mine/full_0").mkdir(parents=True)
    (run,) = read_study(str(file)).plan
    assert "no retain model" in capsys.readouterr().err
    (tmp_path / "saves/mine/retain_1").mkdir(parents=True)
    (run,) = read_study(str(file)).plan
    assert (run.folder, run.after) == ("saves/mine.experiment_1.ascent/ascent", ())
    assert "model.model_args.pretrained_model_name_or_path=saves/mine/full_0" in run.overrides
    assert {"retain_logs_path=saves/mine/retain_1", "trainer=arc_ascent", "seed=4"} <= set(
        run.overrides
    )
    arc_configs.write("experiment/one.yaml", {**ONE, "train_type": "npo"})
    with pytest.raises(UserError, match="npo"):
        read_study(str(file))


@pytest.mark.parametrize(
    ("train_type", "named"), [("full", "mine.full_0"), ("retain", "mine.experiment_1")]
)
def test_one_full_or_retain_experiment_starts_from_its_model(
    arc_configs: ArcConfigs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_type: str,
    named: str,
) -> None:
    """A full one is called as the forget experiments name it, in their full_model_name."""
    monkeypatch.chdir(tmp_path)
    data = "all" if train_type == "full" else "tenth"
    one = {**ONE, "train_type": train_type, "data_config": data}
    arc_configs.write("experiment/one.yaml", one)
    (run,) = read_study(str(arc_configs.folder / "experiment/one.yaml")).plan
    assert (run.kind, run.folder, run.after) == (
        train_type,
        f"saves/{named}.{train_type}/{train_type}",
        (),
    )
    compose_runs.check([run])
    config = compose.compose(run.config_name, run.overrides)
    assert config.model.model_args["pretrained_model_name_or_path"] == MODEL["model_id"]
    assert config.trainer is not None and config.trainer.method.loss_on == "all"
    assert config.data is not None
    rows = {"full": "TOFU_QA_full", "retain": "TOFU_QA_retain"}[train_type]
    assert list(config.data.streams["train"]) == [rows]
    assert list(config.eval) == ([] if train_type == "full" else ["arc"])
