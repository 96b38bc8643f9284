"""`--help`: quick, 80 columns wide, with defaults that hold and examples that compose
(tests/docs/test_commands.py)."""

import re
import subprocess
import sys

import pytest

from unteach import cli
from unteach.config import compose, groups
from unteach.errors import UserError
from unteach.verbs import help as verb_help


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    cli._command(list(words))
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verbs_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, verb, "--help")
    assert text.startswith(f"usage: unteach {verb} ")
    assert max(map(len, text.splitlines())) <= 80
    assert "{" not in re.sub(r"\{r: 16.*?\}", "", text), "every default was looked up"
    assert re.search(rf"^examples$.*^  unteach {verb}\b", text, re.M | re.S)
    assert all(
        (verb_help.HERE.parents[3] / page).is_file()
        for page in re.findall(r"docs/[\w-]+\.md", text)
    )
    assert text == printed(capsys, "help", verb) == printed(capsys, verb, "x=1", "-h")


def test_the_general_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert all(re.search(rf"^  {verb} ", text, re.M) for verb in cli.VERBS)
    assert text == printed(capsys, "help") == printed(capsys) == printed(capsys, "-h")


def test_help_of_something_else_is_a_mistake() -> None:
    with pytest.raises(UserError, match="did you mean train"):
        cli._command(["help", "trian"])


@pytest.mark.parametrize("verb", ["train", "unlearn"])
def test_defaults_are_those_of_a_run(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said in brackets is what a run gets that says nothing else."""
    model = "model.model_args.pretrained_model_name_or_path=x"
    config = compose.compose(
        verb, ["task_name=t", "model=auto", model, "data=files", "data.train_file=a.csv"]
    )
    text = printed(capsys, verb, "--help")
    for key in (
        "learning_rate",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
    ):
        said = re.search(rf"trainer\.args\.{key}=.*\[(.+)\]", text)
        assert said and float(said[1]) == config.trainer.args[key]
    methods = re.findall(r"`unteach list methods` \[(\w+)\]", text)
    assert methods == [{"train": "finetune", "unlearn": "GradAscent"}[verb]]
    assert methods[0] in groups.list_options("trainer") and config.trainer.handler in (
        "SFT",
        methods[0],
    )


def test_there_is_a_text_for_every_verb_and_no_other() -> None:
    texts = {file.stem for file in verb_help.HERE.glob("*.txt")}
    assert texts == {*cli.VERBS, "run_keys", "more"}


def test_help_imports_next_to_nothing() -> None:
    code = (
        "import sys, unteach.cli\nfor verb in unteach.cli.VERBS: unteach.cli._command([verb, "
        "'--help'])\n"
        "assert not {'hydra', 'torch', 'transformers', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
