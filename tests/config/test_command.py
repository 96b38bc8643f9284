"""The command that a run keeps is the one that makes it again, without what only its owner may
know."""

import shlex

import pytest

from unteach.config import compose
from unteach.config.secrets import drop_secrets, hide_secrets
from unteach.config.tree import to_yaml

WORDS = [
    "experiment=unlearn/authors/default",
    "trainer=NPO",
    "task_name=a b",
    "model.model_args.token=abc",
]


def test_a_configuration_knows_its_command() -> None:
    command = compose.compose("unlearn", WORDS).command
    assert shlex.split(command) == ["unteach", "unlearn", *WORDS[:-1], "model.model_args.token=…"]
    again = compose.compose("unlearn", shlex.split(command)[2:-1])
    assert again.command == command.removesuffix(" 'model.model_args.token=…'")
    assert compose.compose(
        "eval", ["model=tiny", "task_name=x", "eval=tofu", "tofu_path=authors"]
    ).command.startswith("unteach eval model=tiny ")


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("model.model_args.token=hf_x", "model.model_args.token=…"),
        ("a.hf_token=x", "a.hf_token=…"),
        ("backend_args.api_key=x", "backend_args.api_key=…"),
        (
            "model.model_args={token: abc, revision: main}",
            "model.model_args={token: …, revision: main}",
        ),
        ("data.train_file=https://me:pass@host/a.csv", "data.train_file=https://…@host/a.csv"),
        ("task_name=hf_abcdefghijklmnopqrstuv", "task_name=…"),
        ("model.model_args={'hub_token': 'a, b', x: 1}", "model.model_args={'hub_token': …, x: 1}"),
        ("a={headers: {Authorization: Bearer abc, y: 1}}", "a={headers: {Authorization: …, y: 1}}"),
        ("a.aws_secret_access_key=x", "a.aws_secret_access_key=…"),
        ("data=https://host/a.csv?token=abc&page=1", "data=https://host/a.csv?token=…&page=1"),
        (
            "data=https://host/a.csv?X-Amz-Signature=abc",
            "data=https://host/a.csv?X-Amz-Signature=…",
        ),
        ("model.model_args.token=null", "model.model_args.token=null"),
    ],
)
def test_secrets_are_never_kept(word: str, kept: str) -> None:
    assert hide_secrets(word) == kept


def test_a_token_is_used_and_not_kept_in_the_configuration() -> None:
    config = compose.compose(
        "unlearn", [*WORDS, "model.tokenizer_args={token: abc, pad_token: pad}"]
    )
    assert config.model.model_args["token"] == "abc"
    assert "token" not in config.tree["model"]["model_args"]
    assert config.tree["model"]["tokenizer_args"]["pad_token"] == "pad"
    assert "abc" not in to_yaml(config.tree)
    rows = {"data": {"train": {"mine": {"args": {"hf_args": {"path": "a", "token": "abc"}}}}}}
    assert drop_secrets(rows)["data"]["train"]["mine"]["args"]["hf_args"] == {"path": "a"}


@pytest.mark.parametrize(
    "word",
    [
        "max_new_tokens=4",
        "eval.tofu.tokens=forget.answer",
        "question_key=question",
        "model.tokenizer_args.pad_token=<pad>",
        "model.tokenizer_args={eos_token: </s>, 'image_token': <i>}",
        "data.columns={input: token}",
        "backend_args.api_key_env=MY_KEY",
        "tofu_path=data/tokens",
    ],
)
def test_what_is_no_secret_is_kept(word: str) -> None:
    assert hide_secrets(word) == word
