"""Every command of OpenUnlearning's document of experiments is understood as it stands there."""

import shlex
from typing import Any

import pytest

from unteach import cli
from unteach.config import preflight, schema
from unteach.verbs import start_run

COMMANDS = {
    "finetune": "python src/train.py --config-name=train.yaml experiment=finetune/tofu/default "
    "task_name=SAMPLE_TRAIN",
    "unlearn": "python src/train.py --config-name=unlearn.yaml experiment=unlearn/tofu/default "
    "task_name=SAMPLE_TRAIN",
    "eval": "python src/eval.py --config-name=eval.yaml experiment=eval/muse/default "
    "task_name=SAMPLE_EVAL",
    "muse": r"""python src/train.py --config-name=unlearn.yaml experiment=unlearn/muse/default data_split=News \
        trainer=NPO trainer.method_args.retain_loss_type=KL task_name=llama2_books_NPO_KL \
        retain_logs_path=saves/eval/muse_books_retain/MUSE_EVAL.json""",
    "tofu": r"""python src/train.py --config-name=unlearn.yaml \
        experiment=unlearn/tofu/default.yaml \
        task_name=NPO_unlearn_tofu_llama_8 \
        model=Llama-3.1-8B-Instruct \
        model.model_args.pretrained_model_name_or_path=saves/finetune/path_model_llama \
        trainer=NPO trainer.args.per_device_train_batch_size=4 \
        forget_split=forget05 retain_split=retain95 \
        retain_logs_path=saves/eval/tofu_retain95/TOFU_EVAL.json \
        paths.output_dir=saves/unlearn/NPO/evals""",
    "simple finetuning": r"""python src/train.py --config-name=train.yaml experiment=finetune/tofu/default \
        trainer.args.learning_rate=5e-5 task_name=llama3.2-1B_finetune_example""",
    "distributed": r"""python src/train.py --config-name=unlearn.yaml experiment=unlearn/muse/default.yaml \
        task_name=DISTRIBUTED_TRAIN""",
    "eval of a checkpoint": r"""python src/eval.py experiment=eval/muse/default.yaml task_name=SAMPLE_EVAL \
        model.model_args.pretrained_model_name_or_path=saves/unlearn/muse_unlearn_exp""",
}
SCRIPTS = {"src/train.py": "train", "src/eval.py": "eval"}
UNLEARN = (
    "python src/train.py --config-name=unlearn.yaml experiment=unlearn/tofu/default task_name=t"
)


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line up to where the run would start, and gives its configuration."""
    found: list[schema.RunConfig] = []
    monkeypatch.setattr(start_run, "carry_out", lambda verb, config: found.append(config))
    monkeypatch.setattr(start_run, "resolve_files", lambda config: config)
    # the document's checkpoints are its reader's
    monkeypatch.setattr(preflight, "find_absent", lambda *_: [])

    def compose(command: str) -> schema.RunConfig:
        _, script, *words = shlex.split(command.replace("\\\n", " "))
        cli._command([SCRIPTS[script], *words])
        return found.pop()

    return compose


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_the_document_composes(name: str, composed: Any) -> None:
    config = composed(COMMANDS[name])
    assert f"task_name={config.task_name}" in COMMANDS[name]
    assert isinstance(config, schema.EvalConfig) == ("eval.py" in COMMANDS[name])
    assert config.eval


def test_the_long_command_means_what_it_says(composed: Any) -> None:
    config = composed(COMMANDS["tofu"])
    assert config.mode == "unlearn"
    assert config.paths.output_dir == "saves/unlearn/NPO/evals"
    assert (
        config.model.model_args["pretrained_model_name_or_path"]
        == "saves/finetune/path_model_llama"
    )
    assert (
        config.model.tokenizer_args["pretrained_model_name_or_path"]
        == "meta-llama/Llama-3.1-8B-Instruct"
    )
    assert (config.trainer.handler, config.trainer.args["per_device_train_batch_size"]) == (
        "NPO",
        4,
    )
    names = [
        part.args["hf_args"]["name"]
        for parts in config.data.streams.values()
        for part in parts.values()
    ]
    assert names == ["forget05", "retain95"]
    assert config.eval["tofu"].retain_logs_path == "saves/eval/tofu_retain95/TOFU_EVAL.json"


def test_the_muse_command_means_what_it_says(composed: Any) -> None:
    config = composed(COMMANDS["muse"])
    assert config.paths.output_dir == "saves/unlearn/llama2_books_NPO_KL"
    assert config.model.model_args["pretrained_model_name_or_path"] == "muse-bench/MUSE-News_target"
    assert config.trainer.method.retain_loss_type == "KL"
    assert list(config.eval) == ["muse"]
    rows = {
        name: part.args["hf_args"]
        for parts in config.data.streams.values()
        for name, part in parts.items()
    }
    assert rows == {
        "MUSE_forget": {"path": "muse-bench/MUSE-News", "name": "raw", "split": "forget"},
        "MUSE_retain": {"path": "muse-bench/MUSE-News", "name": "raw", "split": "retain1"},
    }


def test_the_tables_of_arguments(composed: Any) -> None:
    """The forms that its tables show: `model`, `trainer`, `data`, `eval`, the splits and the
    paths."""
    assert (
        composed(f"{UNLEARN} model=Llama-2-7b-chat-hf").model.template_args.user_start_tag
        == "[INST] "
    )
    config = composed(
        f"{UNLEARN} model.tokenizer_args.pretrained_model_name_or_path=tok "
        "model.template_args.apply_chat_template=false "
        "'model.template_args.user_start_tag=\"[INST] \"'"
    )
    assert config.model.tokenizer_args["pretrained_model_name_or_path"] == "tok"
    assert config.model.template_args.apply_chat_template is False
    assert config.model.template_args.user_start_tag == "[INST] "
    config = composed(
        f"{UNLEARN} 'model.template_args={{apply_chat_template: false, user_start_tag: \"[INST] "
        f"\"}}'"
    )
    assert config.model.template_args.user_start_tag == "[INST] "
    assert (
        composed(f"{UNLEARN} trainer=NPO trainer.method_args.beta=0.5").trainer.method.beta == 0.5
    )
    args = composed(
        f"{UNLEARN} trainer.args.optim=sgd trainer.args.num_train_epochs=2"
    ).trainer.args
    assert (args["optim"], args["num_train_epochs"]) == ("sgd", 2)
    assert set(composed(f"{UNLEARN} data=unlearn").data.streams) == {"forget", "retain"}
    assert list(composed(f"{UNLEARN} eval=muse").eval) == ["muse"]
    splits = composed(f"{UNLEARN} forget_split=forget01 retain_split=retain99").data.streams
    assert splits["retain"]["TOFU_QA_retain"].args["hf_args"]["name"] == "retain99"
    assert composed(f"{UNLEARN} paths.output_dir=here").paths.output_dir == "here"


@pytest.mark.parametrize(
    "experiment",
    ["experiment=unlearn/tofu/default", "experiment=unlearn/muse/default", "model=gpt2"],
)
def test_a_stream_is_the_dataset_it_names(experiment: str, composed: Any) -> None:
    command = f"python src/train.py --config-name=unlearn.yaml {experiment} task_name=t"
    config = composed(
        f"{command} data.forget=MUSE_forget data.retain=MUSE_retain data.anchor=forget "
        f"data_split=Books"
    )
    rows = {
        name: part.args["hf_args"]
        for parts in config.data.streams.values()
        for name, part in parts.items()
    }
    assert rows == {
        "MUSE_forget": {"path": "muse-bench/MUSE-Books", "name": "raw", "split": "forget"},
        "MUSE_retain": {"path": "muse-bench/MUSE-Books", "name": "raw", "split": "retain1"},
    }
    assert config.data.anchor == "forget"


def test_the_splits_of_muse(composed: Any) -> None:
    for experiment, dataset, default in (
        ("scalability", "scal", "forget_4"),
        ("sustainability", "sust", "forget_1"),
    ):
        command = (
            f"python src/train.py --config-name=unlearn.yaml "
            f"experiment=unlearn/muse/{experiment} task_name=t"
        )
        for word, split in (("", default), ("forget_split=forget_2", "forget_2")):
            streams = composed(f"{command} {word} retain_split=retain2").data.streams
            assert streams["forget"][f"MUSE_forget_{dataset}"].args["hf_args"]["split"] == split
            assert streams["retain"]["MUSE_retain"].args["hf_args"]["split"] == "retain2"


def test_the_published_values_of_each_experiment(composed: Any) -> None:
    def args(experiment: str, *words: str) -> Any:
        name = "unlearn" if experiment.startswith("unlearn") else "train"
        return composed(
            f"python src/train.py --config-name={name} experiment={experiment} task_name=t "
            f"{' '.join(words)}"
        )

    tofu = args("unlearn/tofu/default").trainer.args
    assert (
        tofu["learning_rate"],
        tofu["weight_decay"],
        tofu["num_train_epochs"],
        tofu["warmup_epochs"],
    ) == (
        1e-5,
        0.01,
        10,
        1.0,
    )
    assert args("finetune/tofu/default").trainer.args["num_train_epochs"] == 5
    muse = args("unlearn/muse/default").trainer.args
    assert (muse["per_device_train_batch_size"], muse["gradient_accumulation_steps"]) == (4, 8)
    assert (muse["learning_rate"], muse["lr_scheduler_type"], muse["weight_decay"]) == (
        1e-5,
        "constant",
        0.0,
    )
    taught = args("finetune/muse/default", "data_sub_set=retain")
    assert taught.data.streams["train"]["MUSE_train"].args["hf_args"]["split"] == "retain"
    assert (taught.trainer.args["weight_decay"], taught.trainer.args["num_train_epochs"]) == (
        0.01,
        10,
    )
    wmdp = args("unlearn/wmdp/default")
    assert (wmdp.trainer.args["max_steps"], wmdp.trainer.args["learning_rate"]) == (150, 5e-5)
    assert (wmdp.trainer.method.steering_coeff, wmdp.trainer.method.alpha) == (6.5, 1200.0)
    assert wmdp.eval == {}
    other = args("unlearn/wmdp/default", "trainer=GradDiff", "data_split=bio")
    assert (other.trainer.method.alpha, other.trainer.args["learning_rate"]) == (1.0, 1e-5)
    assert (
        other.data.streams["forget"]["WMDP_forget"].args["hf_args"]["name"] == "bio-forget-corpus"
    )
    idk = args("unlearn/tofu/idk", "forget_split=forget05")
    assert (idk.trainer.handler, idk.tree["holdout_split"]) == ("DPO", "holdout05")
    pdu = args("unlearn/tofu/default", "trainer=PDU").trainer.method
    assert (pdu.retain_loss_eps, pdu.alpha, pdu.dual_step_size) == (0.3, 100.0, 5.0)
