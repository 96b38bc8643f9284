"""A run as a YAML file: the command line's keys, and the `config.yaml` that a run keeps."""

from pathlib import Path

import pytest

from unteach import atomic, run_dir
from unteach.cli import _options
from unteach.config import compose, provenance
from unteach.config.tree import to_yaml
from unteach.config.verb_options import Options
from unteach.errors import UserError
from unteach.verbs import check
from unteach.verbs.start import start

RUN = """\
model: policy
data: my.csv
trainer: NPO
trainer.args.learning_rate: 1e-4
trainer.args:
  num_train_epochs: 2
data.columns: {input: "Frage 1"}
eval: null
"""
WORDS = ("model=policy", "data=my.csv", "trainer=NPO", "trainer.args.learning_rate=1e-4")
WORDS += ("trainer.args.num_train_epochs=2", "data.columns.input='Frage 1'", "eval=null")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policy").mkdir()
    (tmp_path / "run.yaml").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_keys_are_the_words_of_a_command_line() -> None:
    of_file = compose.compose("unlearn", ["run.yaml", "task_name=t"])
    assert of_file.tree == compose.compose("unlearn", [*WORDS, "task_name=t"]).tree
    assert of_file.trainer is not None and of_file.trainer.args["learning_rate"] == 1e-4


def test_words_after_it_win_and_its_name_is_the_runs() -> None:
    config = compose.compose(
        "unlearn", ["run.yaml", "trainer=GradDiff", "forget=a.csv", "retain=b.csv", "seed=3"]
    )
    assert config.trainer is not None and config.data is not None and config.data.files is not None
    assert (config.task_name, config.trainer.handler, config.seed) == ("run", "GradDiff", 3)
    assert (config.data.files.train_file, config.data.files.forget_file) == (None, "a.csv")


def test_a_mistake_is_said_with_its_place(folder: Path) -> None:
    (folder / "run.yaml").write_text(
        RUN.replace("learning_rate", "lerning_rate").replace("seed", "x") + "lr: 3\n"
    )
    with pytest.raises(UserError) as caught:
        compose.compose("unlearn", ["run.yaml"])
    assert "did you mean learning_rate?  (run.yaml, line 4)" in str(caught.value)
    assert "write trainer.args.learning_rate=3  (run.yaml, line 9)" in str(caught.value)


def test_where_each_value_is_from_is_known() -> None:
    known = provenance.find_origins("unlearn", ["run.yaml", "trainer.args.num_train_epochs=5"])
    assert known["trainer.args.learning_rate"] == "run.yaml, line 4"
    assert known["trainer.args.num_train_epochs"] == "command line"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rum.yaml", None, "did you mean run.yaml?"),
        ("run.yaml", "- a\n", "must hold keys and values"),
        ("run.yaml", "a: [", "cannot be read as YAML"),
        ("run.yaml", "seed: 1\nseed: 2\n", "seed is said twice"),
    ],
)
def test_a_file_that_is_none_is_refused(
    folder: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(UserError) as caught:
        compose.compose("train", [name])
    assert said in str(caught.value)


def kept(folder: Path, *words: str) -> tuple[str, dict]:
    """A run's folder with its configuration in it: the path of the file, and the tree."""
    config = compose.compose(
        "unlearn", ["experiment=unlearn/tofu/default", "model=policy", "task_name=old", *words]
    )
    place = Path(config.paths.output_dir)
    atomic.write_text(place / run_dir.CONFIG, to_yaml(config.tree))
    return str(place / run_dir.CONFIG), config.tree


def test_a_kept_configuration_is_the_same_run_under_another_name(folder: Path) -> None:
    file, tree = kept(
        folder, "trainer=NPO", "trainer.args.seed=3", "compat=openunlearning", "template=qa"
    )
    again = compose.compose("train", [file, "task_name=again"], starting=True)
    assert run_dir.list_differences(tree, again.tree) == ["paths.output_dir", "task_name"]
    assert again.paths.output_dir == "saves/unlearn/again"
    same = compose.compose("unlearn", [file])
    assert (
        run_dir.open_run(Path(same.paths.output_dir), same.tree, same.resume)
        is run_dir.RunState.BEGUN
    )
    changed = compose.compose("unlearn", [file, "task_name=more", "trainer.args.learning_rate=1"])
    assert run_dir.list_differences(tree, changed.tree) == [
        "trainer.args.learning_rate",
        "paths.output_dir",
        "task_name",
    ]


def test_texts_of_a_kept_configuration_stand_for_themselves(folder: Path) -> None:
    file, _ = kept(folder, "model.template_args.system_prompt='cost: \\${seed}'")
    again = compose.compose("unlearn", [file, "task_name=again"])
    assert again.model.template_args.system_prompt == "cost: ${seed}"


@pytest.mark.parametrize(
    ("verb", "word", "said"),
    [
        ("eval", "seed=1", "is the configuration of `unteach unlearn`"),
        ("unlearn", "trainer=GradDiff", "trainer=GradDiff: chooses a file"),
        ("unlearn", "model=policy", "model=policy: chooses a file"),
        ("unlearn", "trainer.args.lerning_rate=1", "did you mean learning_rate?"),
    ],
)
def test_what_a_kept_configuration_cannot_be_is_said(
    folder: Path, verb: str, word: str, said: str
) -> None:
    file, _ = kept(folder)
    with pytest.raises(UserError) as caught:
        compose.compose(verb, [file, word])
    assert said in str(caught.value)


def test_other_tools_way_to_name_the_file_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _options(["--config", "run.yaml", "seed=1"], "train") == (
        Options(),
        ["run.yaml", "seed=1"],
    )
    assert _options(["seed=1", "--config-name=saves/x/config.yaml"], "train") == (
        Options(),
        ["saves/x/config.yaml", "seed=1"],
    )
    assert _options(["--config-name=unlearn.yaml"], "train") == (
        Options("unlearn.yaml"),
        [],
    )
    with pytest.raises(UserError, match="takes the file of a run"):
        _options(["--config", "unlearn"], "train")
    checked: list = []
    monkeypatch.setattr(check, "check", checked.append)
    start("check", ["unlearn", "run.yaml", "data=org/rows"])
    assert checked[0].task_name == "run"
