"""Every mistake of a command in one answer, what people type first among them, and what would stop
a run at once."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from unteach import atomic, cli, run_dir
from unteach.config import compose, groups, synonyms, training_args
from unteach.config.groups import CONFIGS
from unteach.config.tree import to_yaml
from unteach.config.verb_configs import STUDY_ACTIONS
from unteach.errors import UserError
from unteach.studies import study_file
from unteach.verbs.start import start

TOFU = "experiment=unlearn/tofu/default"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policy").mkdir()
    (tmp_path / "my.csv").write_text("question,answer\nWho?,Bob\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(verb: str, *words: str) -> list[str]:
    """The sentences of the refusal."""
    composer: Any = functools.partial(compose.compose, verb)
    if verb == "infer":
        composer = compose.compose_inference
    with pytest.raises(UserError) as caught:
        composer(words, starting=True)
    first, *rest = str(caught.value).splitlines()
    return [line.strip() for line in rest] or [first]


def test_choices_keys_values_and_files_are_answered_together() -> None:
    found = said(
        "unlearn",
        "trainer=NOP",
        "trainer.method_args.bta=2",
        "trainer.args.lerning_rate=1",
        "forget_split=forget5",
        "a=[1",
        "data=mi.csv",
        "model=./polcy",
        "lr=1",
        "task_name=x",
        "compat=on",
    )
    hints = [
        "cannot read 'a=[1'",
        "did you mean NPO?",
        "did you mean beta?",
        "did you mean learning_rate?",
    ]
    hints += [
        "did you mean forget05?",
        "did you mean my.csv?",
        "did you mean policy?",
        "write trainer.args.learning_rate=1",
    ]
    hints += ["compat: must be"]
    for hint in hints:
        assert sum(hint in line for line in found) == 1, hint
    assert len(found) == len(hints)


def test_what_hangs_on_a_choice_that_cannot_be_guessed_is_not_judged() -> None:
    found = said(
        "unlearn",
        TOFU,
        "trainer=Q",
        "trainer.method_args.beta=2",
        "trainer.args.lerning_rate=1",
        "task_name=x",
    )
    assert ["'Q'" in found[0], "did you mean learning_rate?" in found[1], len(found)] == [
        True,
        True,
        2,
    ]


@pytest.mark.parametrize(
    ("split", "hint"),
    [
        ("forget5", "did you mean forget05?"),
        ("forget_10", "did you mean forget10?"),
        ("mine", "forget_split=mine: TOFU"),
    ],
)
def test_a_split_that_has_no_partner_is_answered_with_the_nearest(split: str, hint: str) -> None:
    assert hint in said("unlearn", TOFU, f"forget_split={split}", "task_name=x")[0]


FIRST = {
    "lr": "trainer.args.learning_rate",
    "learning_rate": "trainer.args.learning_rate",
    "epochs": "trainer.args.num_train_epochs",
    "num_train_epochs": "trainer.args.num_train_epochs",
    "batch_size": "trainer.args.per_device_train_batch_size",
    "max_steps": "trainer.args.max_steps",
    "warmup": "trainer.args.warmup_steps",
    "output_dir": "paths.output_dir",
    "lora_r": "model.peft_args.r",
    "dtype": "model.model_args.dtype",
    "beta": "trainer.method_args.beta",
    "max_length": "data.max_length",
    "train_file": "data.train_file",
}


def test_what_people_type_first_is_answered_with_the_right_key() -> None:
    found = said(
        "unlearn", "model=policy", "data=my.csv", "trainer=NPO", *(f"{name}=1" for name in FIRST)
    )
    assert found == [f"{name}: no such key; write {key}=1" for name, key in FIRST.items()]


def test_a_field_of_other_methods_is_said_to_be_theirs() -> None:
    assert "field of the methods" in said("train", "model=policy", "data=my.csv", "beta=1")[0]


def test_each_verb_has_its_own_answer() -> None:
    assert (
        "write eval.<suite>.batch_size=4"
        in said("eval", "model=policy", "eval=tofu", "batch_size=4", "task_name=x")[0]
    )
    found = said("infer", "model=policy", "data=my.csv", "batch_size=4", "max_tokens=5", "input=x")
    assert [
        "backend_args.batch_size" in found[0],
        "max_new_tokens" in found[1],
        "input_file" in found[2],
    ] == 3 * [True]


def test_every_answer_is_a_key() -> None:
    assert set(training_args.OTHER_NAMES.values()) <= set(training_args.declared_fields())
    assert set(synonyms.VERBS.values()) - {"ask"} <= {
        *cli.VERBS,
        *(f"study {name}" for name in STUDY_ACTIONS),
    }
    assert not (set(synonyms.VERBS) | set(synonyms.INSTEAD)) & set(cli.VERBS)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["finetune"], "`unteach train …`"),
        (["status"], "`unteach study status …`"),
        (["chat"], "`unteach ask …`"),
        (["webui"], "unteach report"),
        (["clean"], "resume=never"),
        (["zzz"], "no verb called 'zzz'. Allowed"),
        (["trian"], "did you mean train?"),
        (["model=x"], "a verb comes first"),
        (
            ["train", "--learning_rate", "1e-5", "--lr=3", "--model", "X"],
            "--lr: write trainer.args.learning_rate=3",
        ),
        (["train", "--learning_rate", "1e-5", "--lr=3", "--model", "X"], "--model: write model=X"),
        (["train", "--confg-name=x"], "did you mean --config-name?"),
        (["report", "saves/x", "--out", "r"], "--out: write out=r, without dashes"),
        (["report", "saves/x", "output_dir=r"], "did you mean out? Allowed: out, suite"),
        (["compare", "a", "b", "--suite=TOFU"], "--suite: write suite=TOFU, without dashes"),
        (["history", "saves/x", "--output", "h.csv"], "--output: write to=h.csv, without dashes"),
        (["export", "saves/x", "torch_dtype=bfloat16"], "did you mean dtype?"),
        (["export", "saves/x", "--zzz=1"], "there is no option called '--zzz'"),
        (["fetch", "wmdp", "out=x"], "did you mean to?"),
        (["tokenize", "--model", "m"], "--model: write tokenizer_path=m, without dashes"),
        (["infer", "--max_tokens", "4"], "--max_tokens: write max_new_tokens=4, without dashes"),
        (["ask", "--temperature", "0.5"], "--temperature: write temperature=0.5, without dashes"),
        (["study", "plan", "nothere.yaml"], "study=nothere.yaml: there is no such file"),
    ],
)
def test_verbs_and_options_of_other_tools_are_answered(words: list[str], hint: str) -> None:
    with pytest.raises(UserError) as caught:
        cli._command(words)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("verb", "words", "hints"),
    [
        ("train", (), ("model: no model was named", "data: no rows were named")),
        ("unlearn", (), ("model: no model was named", "forget=FILE and retain=FILE")),
        ("eval", (), ("model: no model was named", "eval: no suite was named")),
        ("infer", ("input_file=my.csv",), ("model: no model was named",)),
        ("train", ("data=my.csv",), ("model: no model was named",)),
        ("unlearn", (TOFU, "forget=my.csv", "retain=my.csv"), ("model: no model was named",)),
        ("train", ("model=policy",), ("data: no rows were named",)),
    ],
)
def test_nothing_is_taken_that_nobody_named(
    verb: str, words: tuple[str, ...], hints: tuple[str, ...]
) -> None:
    name = () if verb == "infer" else ("task_name=x",)
    found = said(verb, *words, *name)
    assert len(found) == len(hints)
    assert all(hint in line for hint, line in zip(hints, found, strict=True))


def test_random_weights_are_not_unlearned() -> None:
    words = ("experiment=unlearn/authors/default", "task_name=x")
    assert "random weights would be unlearned" in said("unlearn", *words)[0]
    compose.compose(
        "unlearn", [*words, "model.model_args.pretrained_model_name_or_path=policy"], starting=True
    )


def test_an_experiments_file_without_its_first_line_is_told(folder: Path) -> None:
    (folder / "mine/experiment").mkdir(parents=True)
    (folder / "mine/experiment/e.yaml").write_text("task_name: t\nseed: 3\n")
    with pytest.raises(
        UserError, match=r"e\.yaml: its first line must be `# @package _global_`"
    ) as caught:
        compose.compose("train", ["experiment=e"], ["mine"])
    assert "task_name" not in str(caught.value)


def test_a_primary_configuration_of_ones_own(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/own.yaml").write_text(
        "defaults: [train, override /model: tiny, _self_]\ntask_name: t\nseed: 3\n"
    )
    config = compose.compose("own", [], ["mine"], starting=True)
    assert (config.task_name, config.seed, config.model.model_handler) == ("t", 3, "scratch")


def test_a_run_keeps_the_variables_that_it_uses() -> None:
    plain = compose.compose("train", ["model=policy", "data=my.csv", "eval=null"]).tree
    assert not set(plain) & set(run_dir.UNUSED_VARIABLES)
    tofu = compose.compose("unlearn", [TOFU, "model=policy", "task_name=t", "eval=null"]).tree
    assert {"tofu_path", "forget_split", "retain_split"} == set(tofu) & set(
        run_dir.UNUSED_VARIABLES
    )
    named = compose.compose("train", ["model=policy", "data=my.csv", "wmdp_path=x"]).tree
    assert named["wmdp_path"] == "x", "what a command sets is kept"
    declared = yaml.safe_load((CONFIGS / "variables.yaml").read_text())
    own = {"seed", "resume", "launch", "nproc", "plugins", "template", "compat"}
    assert set(run_dir.UNUSED_VARIABLES) == set(declared) - own


def test_a_run_that_kept_every_variable_goes_on(folder: Path) -> None:
    tree = compose.compose("train", ["model=policy", "data=my.csv"]).tree
    atomic.write_text(
        folder / "run" / run_dir.CONFIG,
        to_yaml({**tree, "forget_split": "forget10", "wmdp_path": "x"}),
    )
    (folder / "run" / run_dir.METRICS).write_text('{"step": 1, "loss": 2.0}\n')
    assert run_dir.open_run(folder / "run", tree, "auto") is run_dir.RunState.BEGUN
    with pytest.raises(UserError, match=r"differ: seed\."):
        run_dir.open_run(folder / "run", {**tree, "seed": 1}, "auto")


STUDY = """\
name: bad
full: {experiment: finetune/authors/default}
retian: {experiment: finetune/authors/retain}
forget: [{trainer: NPOO}]
vary: {sed: [0]}
eval: [tofuu]
"""


def test_a_study_is_answered_in_one_round(folder: Path) -> None:
    (folder / "bad.yaml").write_text(STUDY)
    with pytest.raises(UserError) as caught:
        start("study", ["plan", "bad.yaml"])
    for hint in (
        "did you mean retain?",
        "did you mean NPO?",
        "did you mean seed?",
        "did you mean tofu?",
    ):
        assert hint in str(caught.value)
    assert not (folder / "saves").exists()


def test_a_plan_refuses_what_a_run_refuses(folder: Path) -> None:
    (folder / "bad.yaml").write_text(
        STUDY.replace("retian", "retain").replace("sed", "seed").replace("tofuu", "tofu")
    )
    with pytest.raises(UserError, match=r"NPOO: trainer=NPOO: .*did you mean NPO\?"):
        start("study", ["plan", "bad.yaml"])


def test_a_study_is_called_by_what_was_chosen(folder: Path) -> None:
    mapping = {
        "name": "authors",
        "vary": {"seed": [0, 1], "forget_split": ["forget05"], "trainer.args.lr": [1]},
    }
    assert (
        study_file.vary(mapping, ["forget_split=forget10", "seed=[0]"])[0]["name"]
        == "authors-forget10-seed0"
    )
    (folder / "saves/authors-forget_splitforget10").mkdir(parents=True)
    assert (
        study_file.vary(mapping, ["forget_split=forget10"])[0]["name"]
        == "authors-forget_splitforget10"
    ), "it goes on"


def test_a_model_by_its_path_starts_a_study(folder: Path) -> None:
    (folder / "s.yaml").write_text(
        "name: s\nfull: {experiment: finetune/authors/default, model: ./policy}\n"
        "forget: [{trainer: NPO}]\nvary: {forget_split: [forget10]}\n"
    )
    plan = {run.name: run for run in study_file.read_study("s.yaml").plan}
    forget = compose.compose("unlearn", plan["NPO"].overrides)
    assert forget.model.model_args["pretrained_model_name_or_path"] == "saves/s/full"


def test_the_names_of_groups_are_not_looked_for_outside() -> None:
    assert groups.list_options("/") == groups.list_options("../config") == []


def test_a_bare_file_or_folder_is_answered_with_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taught").mkdir()
    (tmp_path / "my.csv").write_text("question,answer\na,b\n")
    with pytest.raises(UserError) as refused:
        compose.compose("train", ["taught", "my.csv"], starting=True)
    assert "taught: is a folder; a model is named by model=taught" in str(refused.value)
    assert "my.csv: is a file of rows; write data=my.csv" in str(refused.value)


def test_other_names_of_arguments_are_known_under_trainer_args_too(tmp_path: Path) -> None:
    words = [
        "experiment=finetune/tofu/default",
        "task_name=t",
        "trainer.args.batch_size=4",
        "trainer.args.lr=1e-4",
    ]
    with pytest.raises(UserError) as refused:
        compose.compose("train", words)
    assert "trainer.args.batch_size: no such key; did you mean per_device_train_batch_size?" in str(
        refused.value
    )
    assert "trainer.args.lr: no such key; did you mean learning_rate?" in str(refused.value)


def test_a_stream_that_is_missing_beside_files_is_asked_for_as_a_file() -> None:
    (found,) = said("unlearn", "trainer=NPO", "forget=my.csv", "model=policy")
    assert found.endswith("this run has forget. Give its rows too: retain=FILE")
    (found,) = said("unlearn", "trainer=NPO", "~data.retain", TOFU, "model=policy", "task_name=x")
    assert "Set data.retain=DATASET" in found


@pytest.mark.parametrize(
    ("words", "measured"),
    [(("eval=null", "eval=rows"), ["rows"]), (("eval=rows", "eval=null"), [])],
)
def test_of_two_words_on_what_is_measured_the_later_wins(
    words: tuple[str, ...], measured: list[str]
) -> None:
    config = compose.compose("train", ["model=policy", "data=my.csv", *words])
    assert list(config.eval) == measured


@pytest.mark.parametrize(
    "asked",
    [
        ("infer", "quantization=4bit"),
        ("train", "model.model_args.quantization_config={load_in_8bit: true}"),
    ],
)
def test_a_package_that_quantises_is_missed_before_anything_is_loaded(
    asked: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    verb, word = asked
    assert 'pip install ".[quant]"' in said(verb, "model=policy", "data=my.csv", word)[0]


def test_random_weights_are_not_unlearned_in_training_either() -> None:
    found = said(
        "train", "trainer=GradAscent", "data.forget_file=my.csv", "model=tiny", "task_name=x"
    )
    assert "random weights would be unlearned" in found[0]


def test_rows_of_ones_own_are_compared_with_no_retain_model() -> None:
    found = said(
        "train", "model=policy", "data=my.csv", "eval=rows", "eval.rows.retain_model=policy"
    )
    assert found[0].startswith("eval.rows.retain_model: no metric")


def test_unlearning_without_a_method_says_which_is_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    compose.compose("unlearn", ["model=policy", "forget=my.csv"])
    assert "note: trainer=GradAscent, as no method is named" in capsys.readouterr().err
    compose.compose("unlearn", ["model=policy", "forget=my.csv", "trainer=GradAscent"])
    assert "no method is named" not in capsys.readouterr().err


def test_a_key_misspelled_is_taken_for_one_that_people_type() -> None:
    assert said("train", "modle=policy", "model=policy", "data=my.csv") == [
        "modle: no such key; did you mean model?"
    ]


def test_a_file_named_as_one_of_another_tools_is_a_file(folder: Path) -> None:
    (folder / "examples").mkdir()
    (folder / "examples" / "rows.csv").write_text("question,answer\nWho?,Bob\n")
    words = ["model=policy", "data=examples/rows.csv", "task_name=examples/mine", "eval=null"]
    assert compose.compose("train", words).task_name == "examples/mine"
    own = folder / "mine" / "data" / "datasets" / "TOFU_MIA.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("TOFU_MIA: {handler: QADataset, args: {hf_args: {path: csv}}}\n")
    config = compose.compose(
        "train", ["model=policy", "data.train=TOFU_MIA", "task_name=x", "eval=null"], ["mine"]
    )
    assert config.data is not None and list(config.data.streams["train"]) == ["TOFU_MIA"]
    (found,) = said("unlearn", TOFU, "model=policy", "task_name=x", "data.forget=TOFU_MIA")
    assert found.endswith("eval.muse.rows.…") and "these rows belong to the suites" in found


def test_a_value_is_given_back_as_a_configuration_spells_it() -> None:
    train = ("model=policy", "data=my.csv", "task_name=t")
    (line,) = said("train", *train, "model.model_args=[1,true]")
    assert line == "model.model_args: must be a mapping, got [1, true]"
    (line,) = said("train", *train, "trainer.args.learning_rate={fast: null}")
    assert line.endswith("must be float, got {fast: null}")


def test_a_row_of_names_is_answered_with_the_list() -> None:
    train = ("model=policy", "data=my.csv", "task_name=t")
    (line,) = said("train", *train, "model.peft_args.target_modules=k_proj, v_proj")
    assert line.endswith("write model.peft_args.target_modules=[k_proj,v_proj]")
    (line,) = said("train", *train, "seed=range(1,4)")
    assert line.endswith("(unteach study …)")
