"""The three ways in: a folder of YAML, one Python file, an installed package; and OpenUnlearning's
own components."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.doors import train
from unteach import fingerprints, registry, run_dir
from unteach.config.compose import compose
from unteach.errors import UserError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugin"


def command(kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer.args.max_steps=2",
        "trainer.args.per_device_train_batch_size=4",
        "trainer.args.logging_steps=1",
        "trainer.args.gradient_accumulation_steps=1",
        "eval=null",
        *extra,
    ]


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


METHOD = '''
from dataclasses import dataclass

from unteach.methods.base import Term, Unlearn
from unteach.registry import method


@method("Halved{n}")
@dataclass
class Halved{n}(Unlearn):
    """Half of ascent."""

    share: float = 0.5

    def forget(self, policy, reference):
        return Term("forget", self.share * policy.value, "forget.tokens")
'''


def test_one_file_is_a_method_with_fields_and_no_yaml(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format(n="A"))
    extra = (
        f"plugins=[{tmp_path / 'mine.py'}]",
        "trainer=HalvedA",
        "trainer.method_args.share=0.25",
    )
    train(*command(kit, tmp_path / "run", *extra), config_name="unlearn")
    with_defaults = command(kit, tmp_path / "asc", "trainer=GradDiff")
    train(*with_defaults, config_name="unlearn")
    assert logged(tmp_path / "run")[0]["forget_loss"] == pytest.approx(
        0.25 * logged(tmp_path / "asc")[0]["forget_loss"], rel=1e-5
    )
    with pytest.raises(UserError, match="did you mean share"):
        compose(
            "unlearn", command(kit, tmp_path / "run", *extra[:2], "trainer.method_args.shard=1")
        )


RULE = '''
from dataclasses import dataclass

from unteach.methods.wrap.surgery import Surgery, dot_products
from unteach.registry import surgery


@surgery("retain_when_opposed", cost="1 more copy of the gradient")
@dataclass
class RetainWhenOpposed(Surgery):
    """g_r alone where the two point against each other, the sum elsewhere."""

    threshold: float = 0.0

    def combine(self, forget, retain, dots=dot_products):
        opposed = float(dots(forget, retain).sum()) < self.threshold
        for f, r in zip(forget, retain, strict=True):
            yield r if opposed else f + r
'''


def test_one_file_is_a_rule_of_surgery_with_fields(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The norm of the gradient is that of the retain side alone, which ascent opposes."""
    (tmp_path / "rule.py").write_text(RULE)
    plugin = f"plugins=[{tmp_path / 'rule.py'}]"
    named = "trainer.surgery={name: retain_when_opposed, threshold: 1e9}"
    extra = ("trainer=GradDiff", "trainer.args.max_steps=1")
    train(*command(kit, tmp_path / "run", plugin, *extra, named), config_name="unlearn")
    assert "retain_when_opposed (threshold 1000000000.0): g_r alone" in capsys.readouterr().out
    alone = command(kit, tmp_path / "r", *extra, "trainer.method_args.gamma=0")
    train(*alone, config_name="unlearn")
    found, expected = (logged(tmp_path / name)[0]["grad_norm"] for name in ("run", "r"))
    assert found == pytest.approx(expected, rel=1e-5)
    wrong = "trainer.surgery={name: retain_when_opposed, treshold: 1}"
    with pytest.raises(UserError, match="did you mean threshold"):
        compose("unlearn", command(kit, tmp_path / "run", plugin, *extra, wrong))


def test_a_name_is_not_given_twice(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.py").write_text(METHOD.format(n="B").replace('"HalvedB"', '"npo"'))
    with pytest.raises(UserError, match=r"taken\.py.*'npo' is taken by unteach\.methods"):
        compose("unlearn", command(kit, tmp_path, f"plugins=[{tmp_path / 'taken.py'}]"))


def test_a_file_that_is_not_there_or_cannot_run_is_named(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plugins: there is no file .*absent\.py"):
        compose("unlearn", command(kit, tmp_path, f"plugins=[{tmp_path / 'absent.py'}]"))
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(
        UserError, match=r"broken\.py cannot be loaded: ModuleNotFoundError.*nowhere_to_be_found"
    ):
        compose("unlearn", command(kit, tmp_path, f"plugins=[{tmp_path / 'broken.py'}]"))


COMPONENTS = """
import torch
from torch.utils.data import Dataset
from transformers import Trainer
import json


class QADataset(Dataset):
    def __init__(
        self,
        hf_args,
        template_args, # will be pipelined from model
        tokenizer, # will be pipelined from model
        question_key="question",
        answer_key="answer",
        max_length=512,
        predict_with_generate=False,
    ):
        with open(f"{hf_args['path']}/{hf_args['name']}.jsonl") as file:
            self.data = [json.loads(line) for line in file]
        self.tokenizer = tokenizer
        self.start, self.end = template_args.get("asst_start_tag", ""), template_args.get("user_end_tag", "")
        self.question_key, self.answer_key, self.max_length = question_key, answer_key, max_length

    def __len__(self):
        return len(self.data)

    def __getitem__(self, idx):
        asked = self.tokenizer(self.data[idx][self.question_key] + self.end + self.start)["input_ids"]
        told = self.tokenizer(self.data[idx][self.answer_key])["input_ids"] + [self.tokenizer.eos_token_id]
        item = {
            "input_ids": torch.tensor(asked + told),
            "labels": torch.tensor([-100] * len(asked) + told),
            "attention_mask": torch.ones(len(asked) + len(told), dtype=torch.long),
        }
        return item


class DoubleAscent(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        forget = {k: inputs["forget"][k] for k in ("input_ids", "attention_mask", "labels")}
        outputs = model(**forget)
        loss = -2 * outputs.loss
        return (loss, outputs) if return_outputs else loss
"""

DATASET_YAML = """
TOFU_QA_FULL: # data.tofu.QADataset
  handler: QADataset
  args:
    hf_args: # load_dataset
      name: "full"
      split: "train"
      path: "locuslab/TOFU"

    question_key: "question"
    answer_key: "answer"
    max_length: 512
"""

TRAINER_YAML = """
handler: Trainer # Train/finetune
args: # transformers.Trainer
  per_device_train_batch_size: 2
  per_device_eval_batch_size: 16
  gradient_accumulation_steps: 4
  warmup_steps: 5
  learning_rate: 1e-5
  bf16: True
  bf16_full_eval: True
  logging_steps: 5
  output_dir: ${paths.train_output_dir}
  logging_dir: ${trainer.args.output_dir}/logs
  optim: paged_adamw_32bit
  save_strategy: epoch
  save_only_model: True
  weight_decay: 0.01
  do_train: True
  do_eval: True
  eval_strategy: epoch
  num_train_epochs: 10
  seed: 0
"""

MODEL_YAML = """
model_args: # AutoModelForCausalLM
  pretrained_model_name_or_path: "meta-llama/Llama-3.1-8B-Instruct" # replace to load local models
  attn_implementation: 'flash_attention_2'
  torch_dtype: bfloat16

tokenizer_args: # AutoTokenizer
  pretrained_model_name_or_path: "meta-llama/Llama-3.1-8B-Instruct"

template_args:
  apply_chat_template: False
  user_start_tag: "<|start_header_id|>system<|end_header_id|>\\n\\nYou are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\\n\\n"
  user_end_tag: "<|eot_id|>"
  asst_tag: "<|start_header_id|>assistant<|end_header_id|>\\n\\n"
"""


@pytest.fixture
def components(tmp_path: Path) -> Path:
    """A plugin file and a folder of YAML as OpenUnlearning's page on components shows them."""
    (tmp_path / "components.py").write_text(COMPONENTS)
    for place, text in (
        ("data/datasets/TOFU_QA_FULL", DATASET_YAML),
        ("trainer/theirs", TRAINER_YAML),
        ("model/theirs", MODEL_YAML),
    ):
        file = tmp_path / "configs" / f"{place}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return tmp_path


def test_open_unlearnings_components_run_as_they_are_written(kit: Path, components: Path) -> None:
    words = [
        f"plugins=[{components / 'components.py'}]",
        "model=theirs",
        "trainer=theirs",
        "data.train=TOFU_QA_FULL",
        "task_name=t",
        f"paths.output_dir={components / 'run'}",
        f"paths.cache_dir={components / 'cache'}",
        # what a machine without a GPU, bitsandbytes and the network must say otherwise
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        f"model.tokenizer_args.pretrained_model_name_or_path={kit / 'policy'}",
        "model.model_args.attn_implementation=sdpa",
        "trainer.args.optim=adamw_torch",
        "trainer.args.max_steps=2",
        f"data.train.TOFU_QA_FULL.args.hf_args.path={kit / 'data'}",
    ]
    config = compose("train", words, [str(components / "configs")])
    assert config.data is not None and config.trainer is not None
    part = config.data.streams["train"]["TOFU_QA_FULL"]
    assert part.cls.__module__ == "unteach_plugin_components"
    assert (
        config.trainer.args["learning_rate"] == 1e-5 and config.trainer.args["weight_decay"] == 0.01
    )
    train(*words, config_dirs=[str(components / "configs")])
    assert (components / "run" / run_dir.FINAL / "model.safetensors").exists()
    assert registry.dataset.get("QADataset").__module__ == "unteach.data.handlers.qa", (
        "only in runs that name the file"
    )


def test_a_trainer_subclass_keeps_its_own_loss_and_the_run_says_so(
    kit: Path, components: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = (
        f"plugins=[{components / 'components.py'}]",
        "trainer.handler=DoubleAscent",
        "trainer.method_args=null",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=1",
        "trainer.args.learning_rate=1e-3",
    )
    train(*command(kit, components / "run", *extra), config_name="unlearn")
    assert "rule of normalisation does not hold" in capsys.readouterr().err
    lines = logged(components / "run")
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["loss"] < 0
    before = fingerprints.hash_files(kit / "policy" / "model.safetensors")
    assert (
        fingerprints.hash_files(components / "run" / run_dir.FINAL / "model.safetensors") != before
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the example plugin, built from its own files, and a
    broken one."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            folder,
            source,
        ],
        check=True,
    )
    (folder / "broken_plugin.py").write_text("raise RuntimeError('half a plugin')\n")
    facts = folder / "broken_plugin-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[unteach.plugins]\nHalfAMethod = broken_plugin\n")
    return folder


def unteach(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-m", "unteach", *words], env=environment, capture_output=True, text=True
    )


def test_an_installed_package_is_listed_and_a_broken_one_is_named(site: Path) -> None:
    listed = unteach(site, "list", "methods")
    assert listed.returncode == 0, listed.stderr
    assert "Unlikelihood" in listed.stdout and "unteach_example.unlikelihood" in listed.stdout
    assert "broken-plugin" in listed.stderr and "half a plugin" in listed.stderr
    assert "NPO" in listed.stdout


@pytest.mark.long
def test_an_installed_package_runs_with_its_yaml(site: Path, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("Who wrote it?\tShe did.\nWhen?\tLong ago, in the spring.\n")
    words = command(
        kit,
        tmp_path / "run",
        "trainer=Unlikelihood",
        "data.forget=my_rows",
        f"data.forget.my_rows.args.path={tmp_path / 'rows.tsv'}",
        "eval=tofu",
        "eval.tofu.define.entropy.metric=answer_entropy",
        "eval.tofu.define.entropy.answers=forget.answer",
        "eval.tofu.metrics=[entropy]",
    )
    done = unteach(site, "unlearn", *[word for word in words if word != "eval=null"])
    assert done.returncode == 0, done.stderr
    assert all(line["forget_loss"] > 0 for line in logged(tmp_path / "run"))
    value = json.loads((tmp_path / "run/evals/TOFU_SUMMARY.json").read_text())["entropy"]
    assert 0 < value < 10
    described = json.loads((tmp_path / "run/evals/TOFU_METRICS.json").read_text())["entropy"]
    assert (described["label"], described["better"]) == ("answer entropy", "higher")


def test_a_broken_package_fails_only_where_it_is_asked_for(
    site: Path, kit: Path, tmp_path: Path
) -> None:
    asked = unteach(site, "unlearn", *command(kit, tmp_path / "run", "trainer.handler=HalfAMethod"))
    assert asked.returncode == 2
    assert "broken-plugin" in asked.stderr and "half a plugin" in asked.stderr
    assert "Traceback" not in asked.stderr


@pytest.mark.long
def test_the_example_method_conforms(site: Path) -> None:
    code = "from unteach.testing import check_method; check_method('Unlikelihood', processes=False)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
