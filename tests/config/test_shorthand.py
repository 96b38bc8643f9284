"""The short words: `model=PATH`, `data=FILE`, `forget=FILE`, and the name that a run gets where
none is given."""

from pathlib import Path

import pytest

from unteach.config import compose, files, schema, shorthand
from unteach.config.compose_flat import compose_flat
from unteach.config.overrides import quote, sort_overrides, unquote
from unteach.config.schema import RunConfig
from unteach.config.tokenize import TokenizeConfig
from unteach.data.io import file_formats, tables
from unteach.errors import UserError

PATH = schema.MODEL_KEY


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model's folder, a run's folder and a table, in which the words are said."""
    for place in ("policy", "saves/train/first/final_checkpoint"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("my.csv", "keep.csv"):
        (tmp_path / name).write_text("question,answer,forget\nWho?,Bob,1\nWhat?,Tea,0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(name: str, *words: str) -> RunConfig:
    return compose.compose(name, words, starting=True)


def words(name: str, *given: str) -> list[str]:
    return shorthand.expand(name, list(given), ()).overrides


@pytest.mark.parametrize(
    "place", ["policy", "./policy", "saves/train/first", "org/name", "/abs/model"]
)
def test_a_model_is_named_by_its_place(place: str) -> None:
    assert words("train", f"model={place}") == ["model=auto", f"{PATH}='{place}'"]


def test_a_configurations_name_wins_over_a_folder_of_that_name(folder: Path) -> None:
    (folder / "gpt2").mkdir()
    assert words("train", "model=gpt2") == ["model=gpt2"]
    assert words("train", "model=./gpt2") == ["model=auto", f"{PATH}='./gpt2'"]


def test_a_model_of_an_experiment_is_the_path_that_is_named() -> None:
    config = composed(
        "unlearn", "experiment=unlearn/tofu/default", "model=saves/train/first", "task_name=t"
    )
    assert config.model.model_args[PATH.rpartition(".")[2]] == "saves/train/first"
    assert not config.model.tokenizer_args, "the tokenizer follows the model"


def test_a_bare_name_that_is_nothing_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean gpt2\?.*\./gtp2.*org/name"):
        composed("train", "model=gtp2", "data=my.csv")


def test_rows_are_named_by_their_file() -> None:
    short = composed("train", "model=policy", "data=my.csv", "task_name=t")
    spelled = composed(
        "train",
        "model=auto",
        f"{PATH}=policy",
        "data=files",
        "data.train_file=my.csv",
        "task_name=t",
    )
    assert short.tree == spelled.tree
    assert (
        composed("train", "model=policy", "data.train_file=my.csv", "task_name=t").tree
        == short.tree
    )


def test_rows_of_the_hub_are_named_by_their_id() -> None:
    assert words("train", "data=org/rows:test") == ["data=files", "data.train_file='org/rows:test'"]
    assert words("train", "data=finetune") == ["data=finetune"]


def test_what_is_forgotten_and_retained_is_named_by_two_files() -> None:
    config = composed(
        "unlearn", "model=policy", "trainer=NPO", "forget=my.csv", "retain=keep.csv", "task_name=t"
    )
    assert config.data is not None and config.data.files is not None
    assert (config.data.files.forget_file, config.data.files.retain_file) == ("my.csv", "keep.csv")
    assert not config.data.streams, "the benchmark's rows are not there beside them"


def test_infer_and_tokenize_take_the_same_words() -> None:
    config = compose.compose_inference(["model=policy", "data=my.csv"], starting=True)
    assert (config.input_file, config.model.model_args) == (
        "my.csv",
        {PATH.rpartition(".")[2]: "policy"},
    )
    flat = compose_flat(
        TokenizeConfig, ["model=policy", "data=my.csv", "output_file=x"], "tokenize"
    )
    assert (flat.tokenizer_path, flat.input_file) == ("policy", "my.csv")


def test_one_thing_named_twice_and_differently_is_refused() -> None:
    with pytest.raises(UserError, match="name two; give one"):
        composed("train", "model=policy", f"{PATH}=other", "data=my.csv")
    with pytest.raises(UserError, match="name two; give one"):
        composed("train", "model=policy", "data=my.csv", "data.train_file=keep.csv")
    assert (
        composed("train", "model=policy", f"{PATH}=policy", "data=my.csv").task_name == "policy-my"
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (("train", "model=policy", "data=my.csv"), "policy-my"),
        (
            (
                "unlearn",
                "model=saves/train/policy-my/final_checkpoint",
                "data=my.csv",
                "trainer=NPO",
            ),
            "policy-my-NPO",
        ),
        (
            ("unlearn", "model=org/name", "forget=a/b c.csv", "retain=keep.csv", "trainer=NPO"),
            "name-b-c-NPO",
        ),
        (("train", "model=gpt2", "data=org/rows:test"), "gpt2-rows"),
    ],
)
def test_a_run_without_a_name_is_called_by_what_it_is_made_of(
    given: tuple[str, ...], name: str
) -> None:
    verb, *rest = given
    assert compose.compose(verb, rest).task_name == name
    assert compose.compose(verb, [*rest, "task_name=mine"]).task_name == "mine"


def test_the_formats_are_those_that_tables_reads() -> None:
    assert set(files.TABLES) == set(file_formats.FORMATS)


@pytest.mark.parametrize(
    "word", ["forget=", "retain=''", "holdout=", "data=", "data.train_file=", "data.forget_file="]
)
def test_an_empty_value_names_no_file(word: str) -> None:
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"^{key}=: names no file"):
        composed("unlearn", "model=policy", "trainer=NPO", "data=my.csv", "task_name=t", word)


def test_an_empty_value_is_the_only_mistake_of_its_kind() -> None:
    with pytest.raises(UserError, match=r"^forget=: names no file[^\n]*$"):
        composed("unlearn", "model=policy", "trainer=GradAscent", "forget=")
    with pytest.raises(UserError, match=r"^model=: names no model[^\n]*$"):
        composed("train", "model=", "data=my.csv")
    with pytest.raises(UserError, match=r"^model: no model was named[^\n]*$"):
        composed("train", "model=null", "data=my.csv")
    with pytest.raises(UserError, match=r"^input_file=: names no file[^\n]*$"):
        compose.compose_inference(["model=policy", "input_file="], starting=True)
    with pytest.raises(UserError, match=r"data=: names no file[^\n]*$"):
        compose_flat(TokenizeConfig, ["model=policy", "data=", "output_file=x"], "tokenize")


def test_a_table_of_no_name_is_not_the_current_folder() -> None:
    with pytest.raises(UserError, match="no file is named"):
        tables.open_table("")
    with pytest.raises(UserError, match="names no file"):
        files.Files(forget_file=" ")


NAMES = ["it's", "a b", "a,b", "a=b", "é ü", 'q"q', "a\\b", "a\\'b", "[x]y", "{x}", "'q'x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_place_may_have_any_name(folder: Path, name: str) -> None:
    (folder / f"{name}.csv").write_text("question,answer\nWho?,Bob\n")
    (folder / name).mkdir()
    place = f"./{name}.csv"
    trained = composed("train", f"model=./{name}", f"data={place}", "task_name=t")
    assert trained.model.model_args[PATH.rpartition(".")[2]] == f"./{name}"
    assert trained.data is not None and trained.data.files is not None
    assert trained.data.files.train_file == place
    spelled = composed(
        "train", f"{PATH}=./{name}", "model=auto", f"data.train_file={place}", "task_name=t"
    )
    assert spelled.tree == trained.tree
    unlearned = composed(
        "unlearn", "model=policy", "trainer=GradAscent", f"forget={place}", "task_name=t"
    )
    assert unlearned.data is not None and unlearned.data.files is not None
    assert unlearned.data.files.forget_file == place


@pytest.mark.parametrize("name", NAMES)
def test_quoted_text_is_read_as_it_was(name: str) -> None:
    [(_, value)] = sort_overrides([f"key={quote(name)}"]).values
    assert value == unquote(quote(name)) == name


@pytest.mark.parametrize("place", ["sets:test", "./sets:test", "sets:train[:1]"])
def test_a_split_of_a_folder_is_a_place(folder: Path, place: str) -> None:
    (folder / "sets").mkdir()
    for words_of_rows in ([f"data={place}"], [f"data.train_file={place}"]):
        config = composed("train", "model=policy", *words_of_rows, "task_name=t")
        assert (
            config.data is not None
            and config.data.files is not None
            and config.data.files.train_file == place
        )
    config = composed(
        "unlearn", "model=policy", "trainer=GradAscent", f"forget={place}", "task_name=t"
    )
    assert (
        config.data is not None
        and config.data.files is not None
        and config.data.files.forget_file == place
    )


def test_a_file_has_no_splits() -> None:
    with pytest.raises(UserError, match=r"data=my\.csv:test: there is no such file"):
        composed("train", "model=policy", "data=my.csv:test")


def test_a_path_alone_brings_no_other_models_tokenizer() -> None:
    alone = composed("train", f"{PATH}=policy", "data=my.csv", "task_name=t")
    assert alone.model == composed("train", "model=policy", "data=my.csv", "task_name=t").model
    assert "llama" not in str(alone.model).lower()


@pytest.mark.parametrize(
    ("file", "name"),
    [("pol.csv", "policy-pol"), ("policy.csv", "policy"), ("icy.csv", "policy-icy")],
)
def test_a_part_of_a_word_is_no_part_of_a_name(file: str, name: str) -> None:
    (Path.cwd() / file).write_text("question,answer\na,b\n")
    assert compose.compose("train", ["model=policy", f"data={file}"]).task_name == name


@pytest.mark.parametrize(
    "word", ["data=./${x}.csv", "data.train_file=${x}.csv", "forget=${x}.csv", "model=./${x}.csv"]
)
def test_a_file_whose_name_would_be_a_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "${x}.csv").write_text("input,output\na,b\n")
    with pytest.raises(
        UserError, match=r"stands for another key .* a file of this name cannot be given; rename it"
    ):
        compose.compose("train", (word, "task_name=t"))


def test_where_no_key_is_resolved_its_name_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "${x}.csv").write_text("input,output\na,b\n")
    words = shorthand.expand("tokenize", ["input_file=${x}.csv"], ()).overrides
    assert words == ["input_file='${x}.csv'"]
