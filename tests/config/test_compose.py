"""Every shipped config composes, strictly; who wins over whom; old names; partners."""

from pathlib import Path

import pytest
import yaml

from unteach import atomic, run_dir
from unteach.config import compose, groups, training_args
from unteach.config.groups import CONFIGS
from unteach.config.tree import to_yaml
from unteach.errors import UserError
from unteach.studies import study_file
from unteach.studies.expansion import expand
from unteach.studies.plan import PlannedRun

MODEL = ("model=auto", "model.model_args.pretrained_model_name_or_path=m")
PRIMARY = {
    "unlearn": "unlearn",
    "finetune": "train",
    "pretrain": "train",
    "eval": "eval",
    "audit": "audit",
}


def unlearn(*words: str):
    return compose.compose(
        "unlearn", ["experiment=unlearn/tofu/default", "task_name=t", *MODEL, *words]
    )


@pytest.mark.parametrize("name", groups.list_options("experiment"))
def test_every_experiment_composes(name: str) -> None:
    config = compose.compose(PRIMARY[name.split("/")[0]], [f"experiment={name}", "task_name=t"])
    assert config.task_name == "t"


@pytest.mark.parametrize("name", groups.list_options("trainer"))
def test_every_trainer_composes(name: str) -> None:
    given = {
        "PDU": ["trainer.method_args.retain_loss_eps=1"],
        "classify": ["eval=null"],
        "regress": ["eval=null"],
    }
    required = given.get(name, [])
    # a stream for whichever it is
    words = [f"trainer={name}", "task_name=t", "data.train=TOFU_QA_full", *required]
    assert compose.compose("unlearn", words).trainer is not None


@pytest.mark.parametrize("name", groups.list_options("model"))
def test_every_model_composes(name: str) -> None:
    words = ["task_name=t", f"model={name}"]
    if name == "auto":
        words.append(MODEL[1])
    assert compose.compose("train", words).model.model_args


@pytest.mark.parametrize("name", groups.list_options("data/datasets"))
def test_every_dataset_composes(name: str) -> None:
    config = compose.compose("train", ["task_name=t", f"data.train={name}"])
    assert list(config.data.streams["train"]) == [name]


@pytest.mark.parametrize("name", groups.list_options("eval"))
def test_every_suite_composes(name: str) -> None:
    suite = {"arc_entities": "arc", "arc_tofu": "arc"}.get(name, name)
    assert list(compose.compose("eval", ["task_name=t", f"eval={name}"]).eval) == [suite]


def choices_of(run: PlannedRun) -> tuple[str, ...]:
    """What tells runs apart but for values: the keys of its words, and its choices of files."""
    return tuple(
        word if word.startswith(("trainer=", "experiment=")) else word.partition("=")[0]
        for word in run.overrides
    )


@pytest.mark.parametrize("name", groups.list_options("study"))
def test_a_run_of_each_kind_of_every_study_composes(name: str) -> None:
    for run in {choices_of(run): run for run in expand(study_file.read(name))}.values():
        compose.compose(run.config_name, run.overrides)


@pytest.mark.long
@pytest.mark.parametrize("name", groups.list_options("study"))
def test_every_run_of_every_study_composes(name: str) -> None:
    for run in expand(study_file.read(name)):
        compose.compose(run.config_name, run.overrides)


def test_every_yaml_is_reached_by_a_test() -> None:
    groups = {
        "experiment",
        "trainer",
        "model",
        "data",
        "eval",
        "audit",
        "study",
        "collator",
        "paths",
        "launch",
        "logs",
    }
    assert {p.name for p in CONFIGS.iterdir() if p.is_dir()} == groups


def test_who_wins(tmp_path: Path) -> None:
    """Base, experiment's common, method, experiment's block for the method, user."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/mine.yaml").write_text(
        "handler: NPO\nargs: {learning_rate: 3.0, weight_decay: 3.0}\n"
    )
    experiment = tmp_path / "experiment/e.yaml"
    experiment.parent.mkdir()
    experiment.write_text(
        "# @package _global_\nlayers:\n"
        "  common: {args: {learning_rate: 2.0, warmup_steps: 2}}\n"
        "  tuned: {mine: {args: {weight_decay: 4.0, adam_beta1: 0.4}, method_args: {beta: 0.4}}}\n"
    )

    def args(*words: str) -> dict:
        made = compose.compose("unlearn", ["task_name=t", "experiment=e", *words], [str(tmp_path)])
        return {**made.trainer.args, "beta": getattr(made.trainer.method, "beta", None)}

    mine = args("trainer=mine", "trainer.args.adam_beta1=0.5")
    assert mine["optim"] == "adamw_torch_fused"  # base
    assert mine["warmup_steps"] == 2  # common, over nothing
    assert mine["learning_rate"] == 3.0  # the method over common
    assert mine["weight_decay"] == 4.0  # the experiment's block for the method over the method
    assert mine["adam_beta1"] == 0.5  # the user over all
    assert mine["beta"] == 0.4
    other = args("trainer=GradDiff")
    assert (other["learning_rate"], other["weight_decay"], other["beta"]) == (2.0, 0.0, None)


def test_one_split_sets_its_partners() -> None:
    tree = unlearn("forget_split=forget05").tree
    assert (tree["retain_split"], tree["holdout_split"]) == ("retain95", "holdout05")
    rows = tree["eval"]["tofu"]["rows"]
    names = [rows[name]["hf_args"]["name"] for name in ("forget", "mia_holdout")]
    assert names == ["forget05_perturbed", "holdout05"]
    assert (
        unlearn("forget_split=forget05", "retain_split=retain90").tree["retain_split"] == "retain90"
    )


@pytest.mark.parametrize(
    "experiment", ["unlearn/tofu/default", "unlearn/muse/default", "unlearn/wmdp/default"]
)
@pytest.mark.parametrize(
    ("dataset", "named"),
    [
        ("WMDP_forget", {"path": "cais/wmdp-corpora", "name": "cyber-forget-corpus"}),
        ("MUSE_retain", {"path": "muse-bench/MUSE-News", "split": "retain1"}),
        ("MUSE_train", {"path": "tamarsonha/MUSE-News-Train"}),
        ("TOFU_QA_forget_pert", {"path": "locuslab/TOFU", "name": "forget10_perturbed"}),
        ("TOFU_QA_retain", {"path": "locuslab/TOFU", "name": "retain90"}),
    ],
)
def test_a_dataset_of_another_benchmark_keeps_its_own_rows(
    experiment: str, dataset: str, named: dict
) -> None:
    config = compose.compose(
        "unlearn",
        [f"experiment={experiment}", "trainer=GradAscent", f"data.forget={dataset}", "task_name=t"],
    )
    assert config.data.streams["forget"][dataset].args["hf_args"].items() >= named.items()


def test_a_shared_variable_is_the_users_where_its_benchmark_may_have_it() -> None:
    words = ["experiment=unlearn/tofu/default", "data.forget=WMDP_forget", "task_name=t"]
    for given, name in {"bio": "bio", "chem": "chem", "Books": "cyber"}.items():
        config = compose.compose("unlearn", [*words, f"data_split={given}"])
        assert (
            config.data.streams["forget"]["WMDP_forget"].args["hf_args"]["name"]
            == f"{name}-forget-corpus"
        )
    muse = [
        "experiment=unlearn/muse/default",
        "data.forget=TOFU_QA_forget",
        "data.retain=TOFU_QA_retain",
        "task_name=t",
    ]
    streams = compose.compose("unlearn", [*muse, "forget_split=forget05"]).data.streams
    names = [part.args["hf_args"]["name"] for parts in streams.values() for part in parts.values()]
    assert names == ["forget05", "retain95"]


def test_short_forms() -> None:
    assert list(unlearn("data.forget=TOFU_QA_holdout").data.streams["forget"]) == [
        "TOFU_QA_holdout"
    ]
    assert unlearn("eval=null").eval == {}
    assert (
        compose.compose(
            "unlearn.yaml", ["experiment=unlearn/tofu/default.yaml", "task_name=t", *MODEL]
        ).mode
        == "unlearn"
    )
    # no `+`
    assert (
        unlearn("trainer.args.torch_empty_cache_steps=4").trainer.args["torch_empty_cache_steps"]
        == 4
    )
    assert unlearn("+trainer.args.optim=sgd").trainer.args["optim"] == "sgd"


def test_a_model_takes_the_experiments_checkpoint_or_asks_for_a_path() -> None:
    words = ["experiment=unlearn/tofu/default", "task_name=t"]
    chosen = compose.compose("unlearn", [*words, "model=Llama-3.2-3B-Instruct"])
    assert (
        chosen.model.model_args["pretrained_model_name_or_path"]
        == "open-unlearning/tofu_Llama-3.2-3B-Instruct_full"
    )
    with pytest.raises(UserError, match=r"pretrained_model_name_or_path=PATH"):
        compose.compose("unlearn", [*words, "model=Llama-2-7b-hf"])


def test_old_names_are_translated(capsys: pytest.CaptureFixture[str]) -> None:
    config = unlearn(
        "trainer.args.evaluation_strategy=epoch",
        "trainer.args.warmup_ratio=0.1",
        "trainer.args.no_cuda=true",
        "trainer.args.save_safetensors=true",
        "trainer.args.logging_dir=x",
        "model.model_args.torch_dtype=bfloat16",
        "model.template_args.asst_tag=A",
        "trainer.args.ddp_find_unused_parameters=None",
    )
    args = config.trainer.args
    assert (args["eval_strategy"], args["warmup_steps"], args["use_cpu"]) == ("epoch", 0.1, True)
    assert args["ddp_find_unused_parameters"] is None
    assert config.model.model_args["dtype"] == "bfloat16"
    assert config.model.template_args.asst_start_tag == "A"
    said = capsys.readouterr().err
    for name in (
        "evaluation_strategy",
        "warmup_ratio",
        "no_cuda",
        "save_safetensors",
        "logging_dir",
        "torch_dtype",
        "asst_tag",
    ):
        assert said.count(name) == 1, f"{name} is said once"


def test_who_wins_under_an_old_name_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/old.yaml").write_text(
        "handler: GradDiff\nargs: {evaluation_strategy: epoch, no_cuda: true, logging_dir: x, "
        "save_strategy: no}\n"
    )
    words = ["experiment=unlearn/tofu/default", "task_name=t", "trainer=old", *MODEL]
    args = compose.compose("unlearn", words, [str(tmp_path)]).trainer.args
    assert (args["eval_strategy"], args["use_cpu"], args["save_strategy"]) == ("epoch", True, "no")
    assert "output_dir" not in args and "logging_dir" not in capsys.readouterr().err, (
        "a file of OpenUnlearning's has it"
    )
    args = compose.compose(
        "unlearn", [*words, "trainer.args.eval_strategy=steps"], [str(tmp_path)]
    ).trainer.args
    assert args["eval_strategy"] == "steps", "the user over the file, whatever each calls it"


@pytest.mark.parametrize("word", ["warmup_steps=7", "warmup_ratio=0.1", "warmup_epochs=2.0"])
def test_one_warmup(word: str) -> None:
    """The experiment says it in epochs; the user's way replaces it, and does not stand beside it
    unheard."""
    args = unlearn(f"trainer.args.{word}").trainer.args
    said = {name: value for name, value in args.items() if name.startswith("warmup")}
    name = word.partition("=")[0].replace("ratio", "steps")
    assert said == {name: float(word.partition("=")[2])}
    assert not [
        name
        for name in unlearn("~trainer.args.warmup_epochs").trainer.args
        if name.startswith("warmup")
    ]


def test_resume_from_checkpoint_acts() -> None:
    assert unlearn("trainer.args.resume_from_checkpoint=true").resume == "auto"
    assert unlearn("trainer.args.resume_from_checkpoint=false").resume == "never"
    assert unlearn("trainer.args.resume_from_checkpoint=a/checkpoint-3").resume == "a/checkpoint-3"


def test_a_stream_of_several_datasets_and_one_that_no_file_has() -> None:
    streams = unlearn(
        "data.forget=[TOFU_QA_forget,TOFU_QA_ra]", "data.train=TOFU_QA_full"
    ).data.streams
    assert list(streams["forget"]) == ["TOFU_QA_forget", "TOFU_QA_ra"]
    assert list(streams["train"]) == ["TOFU_QA_full"]


def test_every_refused_argument_says_why() -> None:
    with pytest.raises(UserError) as caught:
        unlearn(*(f"trainer.args.{name}=true" for name in training_args.REFUSED))
    for name, reason in training_args.REFUSED.items():
        assert f"trainer.args.{name}: not used here: {reason}" in str(caught.value)


def test_one_seed() -> None:
    assert unlearn("seed=3").seed == 3
    assert unlearn("trainer.args.seed=4").seed == 4
    assert unlearn().seed == 0


def test_compat_turns_every_quirk_on() -> None:
    config = unlearn("compat=openunlearning", "trainer=GradDiff")
    assert config.trainer.method.kl_over == "all"
    assert config.eval["tofu"].compat == "openunlearning"
    assert (
        unlearn(
            "compat=openunlearning", "trainer=GradDiff", "trainer.method_args.kl_over=answer"
        ).trainer.method.kl_over
        == "answer"
    )


def test_all_mistakes_at_once() -> None:
    with pytest.raises(UserError) as caught:
        unlearn(
            "trainer=NPO",
            "trainer.args.lerning_rate=1",
            "trainer.args.num_train_epochs=abc",
            "trainer.method_args.betta=1",
            "data.forget.TOFU_QA_forget.args.max_lenght=3",
            "eval.tofu.metrics=[forget_qualty]",
            "seeed=1",
        )
    said = str(caught.value)
    for hint in (
        "learning_rate",
        "float",
        "beta",
        "max_length",
        "forget_quality",
        "seed",
        "6 mistakes",
    ):
        assert hint in said


def test_the_resolved_tree_survives_its_file(tmp_path: Path) -> None:
    config = unlearn()
    atomic.write_text(tmp_path / run_dir.CONFIG, to_yaml(config.tree))
    assert run_dir.open_run(tmp_path, config.tree, "auto") is run_dir.RunState.BEGUN
    (tmp_path / run_dir.METRICS).write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(UserError, match=r"trainer\.args\.learning_rate"):
        run_dir.open_run(tmp_path, unlearn("trainer.args.learning_rate=1").tree, "auto")
    assert (
        run_dir.open_run(tmp_path, unlearn("trainer.args.logging_steps=1").tree, "auto")
        is run_dir.RunState.BEGUN
    )
    assert (
        run_dir.open_run(tmp_path, unlearn("trainer.args.learning_rate=1").tree, "never")
        is run_dir.RunState.NEW
    )
    assert (tmp_path.parent / f"{tmp_path.name}.old1" / run_dir.CONFIG).exists()


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028", "é\n", "\x00", "名前"])
def test_a_tree_is_read_as_it_was_written(text: str) -> None:
    assert yaml.safe_load(to_yaml({"key": text})) == {"key": text}


def test_rows_of_ones_own_are_measured_by_their_own_suite_unless_another_is_named(
    tmp_path: Path,
) -> None:
    rows = ("data=files", f"data.train_file={tmp_path / 'rows.csv'}", "task_name=t", *MODEL)

    def suites(*words: str, name: str = "unlearn") -> list[str]:
        return list(compose.compose(name, [*rows, *words]).eval)

    assert (
        suites()
        == suites("eval.rows.max_rows=5")
        == suites(name="train")
        == suites(name="eval")
        == ["rows"]
    )
    assert suites("eval=null") == []
    assert suites("trainer=classify", name="train") == suites("trainer=PrefDPO", name="train") == []
    assert suites("eval=[rows,tofu]") == ["rows", "tofu"]
    assert suites("eval=tofu") == suites("eval.tofu.batch_size=4") == ["tofu"]
    assert suites("experiment=unlearn/tofu/default") == ["tofu"]
    for words, said in (
        (("trainer=PrefDPO", "eval=rows"), r"eval\.rows: measures prompts with answers, or text"),
        (("trainer=KTO", "eval.rows.max_rows=5"), r"trainer\.handler=KTO trains on feedback"),
        (("trainer=classify", "eval.rows.max_rows=5"), "trainer.handler=Classify trains none"),
        (("eval.rows.max_rows=0",), "max_rows must be 1 or more"),
        (
            ("eval.rows.describe.forget_pro.label=x",),
            r"describe\.forget_pro: .*did you mean forget_prob\?",
        ),
        (
            ("eval.rows.describe.forget_prob.better=up",),
            "better: must be one of higher, lower, near retain",
        ),
        (("eval.rows.rows.forget.hf_args={path: x}",), "give one of hf_args .* and role"),
    ):
        with pytest.raises(UserError, match=said):
            suites(*words, name="train")
    with pytest.raises(UserError, match="data: no suite of this evaluation reads it"):
        suites("eval=tofu", name="eval")


def test_what_asks_for_what_is_so_is_accepted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    muse = compose.compose("unlearn", ["experiment=unlearn/muse/sustainabilty", "task_name=x"])
    words = [
        "experiment=unlearn/tofu/default",
        "task_name=x",
        "~model.model_args.attn_implementation",
    ]
    tofu = compose.compose("unlearn", [*words, "trainer.args.remove_unused_columns=false"])
    said = capsys.readouterr().err
    assert (
        muse.tree["data"]
        == compose.compose(
            "unlearn", ["experiment=unlearn/muse/sustainability", "task_name=x"]
        ).tree["data"]
    )
    assert "remove_unused_columns" not in tofu.tree["trainer"]["args"]
    assert "sustainabilty is spelled unlearn/muse/sustainability here" in said
    assert "~model.model_args.attn_implementation: it is not set anyway" in said
    assert (
        "trainer.args.remove_unused_columns=false is what is done anyway: batches are built from "
        "streams" in said
    )
    with pytest.raises(UserError, match="remove_unused_columns: not used here"):
        compose.compose("unlearn", [*words, "trainer.args.remove_unused_columns=true"])


def test_a_composition_is_nobody_elses() -> None:
    """The same groups are composed once a process, and what one run sets is not in the next."""
    first = unlearn("trainer=NPO", "trainer.method_args.beta=0.7")
    second = unlearn("trainer=NPO")
    assert (first.trainer.method.beta, second.trainer.method.beta) == (0.7, 0.1)
