"""`unteach check`: all about a run, and nothing of it done."""

import errno
import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.data.test_template import CHATML
from unteach import owner
from unteach.config.verb_options import Options
from unteach.errors import UserError, describe_machine_failure
from unteach.models import loading
from unteach.verbs import check
from unteach.verbs.start import start


def words(kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "unlearn",
        "experiment=unlearn/tofu/default",
        "model=auto",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        f"tofu_path={kit / 'data'}",
        *extra,
    ]


def test_it_says_what_a_run_would_be_and_does_nothing(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "__call__", None)  # nothing runs a model
    start("check", words(kit, tmp_path / "run", "trainer=NPO", "trainer.args.num_train_epochs=3"))
    said = capsys.readouterr().out
    rows = len((kit / "data" / "forget10.jsonl").read_text().splitlines())
    assert "529,248 parameters, 529,248 of them trained" in said
    assert "answer log-probs, computed once" in said
    assert f"forget: {rows} rows" in said and "(sets the epoch)" in said
    assert f"{3 * -(-rows // 32)} (3 epochs" in said
    assert "GiB a process" in said
    assert "⟦" in said, "the loss mask is shown without colours too"
    assert "absent      forget_quality: it compares with a retain model" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["trainer=RMU"], "layers      forget, retain at model.layers.0, of 4 layers"),
        (
            ["trainer=CircuitBreaker"],
            "layers      forget, retain at model.layers.0 and model.layers.1, of 4 layers",
        ),
        (
            ["trainer=NPO", "trainer.method_args.retain_loss_type=EMBED_DIFF"],
            "layers      retain at model.layers.0, of 4 layers",
        ),
        (["trainer=RMU", "compat=openunlearning"], None),
        (["trainer=NPO"], ""),
    ],
    ids=str,
)
def test_it_says_whose_states_are_taken(
    args: list[str],
    line: str | None,
    kit: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A quarter down where nothing else is said, which compat=openunlearning does: layer 7."""
    if line is None:
        with pytest.raises(UserError, match=r"'layers\.7' matches no layer"):
            start("check", words(kit, tmp_path / "run", *args))
        return
    start("check", words(kit, tmp_path / "run", *args))
    said = capsys.readouterr().out
    assert (line in said.splitlines()) if line else ("\nlayers " not in said)


@pytest.mark.parametrize(
    "args",
    [
        ["trainer=RMU", "trainer.method_args.module_regex=layers.4"],
        ["trainer=CircuitBreaker", "trainer.method_args.target_layers=[layers.1,layers.4]"],
        ["trainer=CircuitBreaker", "trainer.method_args.retain_layers=[layers.4]"],
        [
            "trainer=NPO",
            *(
                f"trainer.method_args.retain_{x}"
                for x in ("loss_type=EMBED_DIFF", "layer=layers.4")
            ),
        ],
    ],
    ids=str,
)
def test_a_layer_that_is_not_there_is_found(args: list[str], kit: Path, tmp_path: Path) -> None:
    for weights in (True, False):
        path = kit / "policy"
        if not weights:
            path = tmp_path / "empty"
            shutil.copytree(kit / "policy", path, ignore=shutil.ignore_patterns("*.safetensors"))
        named = f"model.model_args.pretrained_model_name_or_path={path}"
        with pytest.raises(
            UserError, match=r"'layers\.4' matches no layer .*layers\.0 to layers\.3"
        ):
            start("check", [*words(kit, tmp_path / "run", *args), named])


def test_what_is_learned_is_the_answer_and_its_end(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("check", words(kit, tmp_path / "run"))
    said = capsys.readouterr().out
    learned = [part.partition("⟧")[0] for part in said.split("⟦")[2:]]
    answers = [
        json.loads(line)["answer"]
        for line in (kit / "data" / "forget10.jsonl").read_text().splitlines()
    ]
    assert learned[0].endswith("</s>") or learned[0]
    assert any(answer.split()[0] in learned[0] for answer in answers)


def test_each_value_is_shown_with_where_it_came_from(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("trainer=NPO", "trainer.args.learning_rate=3e-5", "forget_split=forget05")
    start("check", words(kit, tmp_path / "run", *extra), Options(prints_tree=True))
    lines = {line.partition(":")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["learning_rate"].endswith("# command line") and "3.0e-05" in lines["learning_rate"]
    assert lines["max_grad_norm"].endswith("# base_trainer.yaml")
    assert lines["warmup_epochs"].endswith("# experiment/unlearn/tofu/default.yaml")
    assert lines["handler"].endswith(".yaml")
    assert "retain95" in lines["retain_split"] and lines["retain_split"].endswith(
        "# variables.yaml"
    )


def test_it_finds_what_the_run_would_find(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="forget99"):
        start(
            "check",
            words(
                kit,
                tmp_path / "run",
                "forget_split=forget99",
                "eval.tofu.metrics=[forget_Q_A_Prob]",
            ),
        )
    with pytest.raises(UserError, match="did you mean unlearn"):
        start("check", ["unlern", "task_name=t"])


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_a_folder_that_cannot_be_written_is_refused(
    tiny_folder: Path, tmp_path: Path, verb: str
) -> None:
    rows = tmp_path / "a.csv"
    rows.write_text("question,answer\nwho?,me\n")
    places = {
        f"{rows}": "Not a directory",
        f"{rows}/run": "a.csv",
        "/proc/run": "no file can be made there",
    }
    if not Path("/proc").is_dir():
        del places["/proc/run"]
    for folder, message in places.items():
        with pytest.raises((UserError, OSError), match=message) as raised:
            start(
                "check",
                [verb, f"model={tiny_folder}", f"data={rows}", f"paths.output_dir={folder}"],
            )
        assert describe_machine_failure(raised.value) or isinstance(raised.value, UserError), folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


@pytest.mark.parametrize(
    ("verb", "words"),
    {
        "audit": ["forget=a.csv", "paths.output_dir=PLACE"],
        "infer": ["input_file=a.csv", "output_file=PLACE.jsonl"],
        "tokenize": ["input_file=a.csv", "output_file=PLACE"],
        "export": ["MODEL", "to=PLACE"],
    }.items(),
    ids=str,
)
def test_every_verb_says_that_its_place_cannot_be_written(
    verb: str,
    words: list[str],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("question,answer\nwho?,me\n")
    model = [] if verb == "export" else [f"model={tiny_folder}"]
    for place in ("a.csv/x", "/proc/x", "/proc/x/y"):
        named = [word.replace("PLACE", place) for word in words]
        named = [word.replace("MODEL", str(tiny_folder)) for word in named]
        with pytest.raises((UserError, OSError)) as raised:
            start("check", [verb, *model, *named])
        found = describe_machine_failure(raised.value)
        message = found[0] if found else str(raised.value)
        assert "name another place" in message, message
        assert place.split("/x")[0] in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_forgetting_says_that_its_place_cannot_be_written(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("question,answer\nwho?,me\n")
    Path("saves").write_text("no folder")
    with pytest.raises((UserError, OSError)) as raised:
        start("check", ["forget", "a.csv", f"model={tiny_folder}"])
    found = describe_machine_failure(raised.value)
    assert found is not None and "saves: a file stands where a folder is expected" in found[0]


def test_it_says_what_would_be_asked_tokenised_and_exported(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And does nothing of it, before the verb was carried out and after."""
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("question,answer\nwho?,me\nwhere?,here\n")
    commands = {
        "infer": [f"model={tiny_folder}", "input_file=a.csv", "max_new_tokens=2"],
        "tokenize": [f"model={tiny_folder}", "input_file=a.csv", "output_file=tokens"],
        "export": [str(tiny_folder), "to=plain"],
    }
    for verb, words in commands.items():
        before = sorted(tmp_path.rglob("*"))
        start("check", [verb, *words])
        said = capsys.readouterr().out
        assert "(new)" in said and "nothing was written" in said
        assert sorted(tmp_path.rglob("*")) == before
        start(verb, words)
        capsys.readouterr()
        start("check", [verb, *words])
        said = capsys.readouterr().out
        assert "(finished)" in said or "(exported before)" in said
    with pytest.raises(UserError, match="holds answers to something else: other settings"):
        start("check", ["infer", *commands["infer"], "max_new_tokens=3"])
    start("check", ["infer", *commands["infer"], "max_new_tokens=3", "changed=redo"])
    assert "the old answers would be moved aside" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds tokens made otherwise"):
        start("check", ["tokenize", *commands["tokenize"], "max_length=9"])
    with pytest.raises(UserError, match="something else is there already"):
        start("check", ["export", *commands["export"], "dtype=float16"])


@pytest.mark.parametrize("verb", ["infer", "forget", "tokenize", "export"])
def test_what_has_no_tree_prints_none(verb: str) -> None:
    with pytest.raises(UserError, match=f"unteach check {verb} takes no --print"):
        start("check", [verb], Options(prints_tree=True))


def test_a_read_only_folder_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(owner.os, "open", refuse)
    with pytest.raises(PermissionError) as raised:
        owner.refuse_unwritable(tmp_path / "new" / "run")
    found = describe_machine_failure(raised.value)
    assert found is not None and found[0].startswith(
        f"{tmp_path / 'new'}: this user may not read or write it"
    )
    assert not list(tmp_path.iterdir())


def test_rows_do_not_steer_the_terminal(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nwho \x1b]0;x\x07?,m\x1b[2Je\n")
    start(
        "check",
        [
            "train",
            f"model={tiny_folder}",
            f"data={tmp_path / 'a.csv'}",
            f"paths.output_dir={tmp_path / 'r'}",
        ],
    )
    said = capsys.readouterr().out
    assert "\ufffd]0;x\ufffd" in said and "\ufffd[2J" in said
    assert "\x1b" not in said and "\x07" not in said


def check_files(folder: Path, model: Path, *extra: str) -> None:
    named = f"model.model_args.pretrained_model_name_or_path={model}"
    start(
        "check",
        [
            "train",
            "data=files",
            "task_name=t",
            "model=auto",
            named,
            f"paths.output_dir={folder / 'run'}",
            *extra,
        ],
    )


@pytest.mark.parametrize("form", ["answers", "conversations"])
def test_of_a_large_file_the_first_rows_are_tokenised(
    form: str,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All rows are read and tried; what is said of tokens says of which rows it is."""
    rows = [
        {"question": f"Who is {number}?", "answer": "Ann." if number != 8 else " "}
        for number in range(30)
    ]
    if form == "conversations":
        rows = [
            {
                "messages": [
                    {"role": "user", "content": r["question"]},
                    {"role": "assistant", "content": r["answer"]},
                ]
            }
            for r in rows
        ]
        model = tmp_path / "chat"
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
        shutil.copytree(tiny_folder, model)
        tokenizer.chat_template = CHATML.replace("<|im_end|>", "</s>").replace(
            "<|im_start|>", "<s>"
        )
        tokenizer.save_pretrained(model)
        tiny_folder = model
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (f"data.train_file={file}",)
    check_files(tmp_path, tiny_folder, *words)
    whole = capsys.readouterr().out
    assert "29 rows, " in whole and "of the first" not in whole

    monkeypatch.setattr(check, "TOKENIZED_ROWS", 5)
    check_files(tmp_path, tiny_folder, *words)
    part = capsys.readouterr().out
    assert "29 rows, of the first 5 rows: " in part and "the first 5 rows are tokenised" in part
    assert "1 row dropped" in part and "line 9" in part, "a row beyond the first is read, too"
    assert part.partition("first of train")[2] == whole.partition("first of train")[2], (
        "the rows of the first step"
    )

    rows[20] = {"messages": 3} if form == "conversations" else {"question": 3, "answer": "x"}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="line 21"):
        check_files(tmp_path, tiny_folder, *words)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_hidden_layers": 5}, "it holds no weights for model.layers.2"),
        ({"hidden_size": 64}, "400 x 32 in its weights and 400 x 64 by its config.json"),
    ],
)
def test_weights_that_are_not_the_models_are_told_before_it_is_loaded(
    settings: dict[str, int], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **settings}))
    (tmp_path / "rows.csv").write_text("question,answer\nWho?,Ann\n")
    with pytest.raises(UserError, match=said):
        check_files(tmp_path, model, f"data.train_file={tmp_path / 'rows.csv'}")


def test_small_weights_are_tried_and_large_ones_are_not_read(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    (tmp_path / "rows.csv").write_text("question,answer\nWho?,Ann\n")
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        check_files(tmp_path, model, f"data.train_file={tmp_path / 'rows.csv'}")
    monkeypatch.setattr(loading, "MAX_CHECKED_BYTES", 1000)
    check_files(tmp_path, model, f"data.train_file={tmp_path / 'rows.csv'}")


def test_an_adapter_is_as_large_as_its_base(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small adapter over a large model is no reason to load that."""
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    adapter = tmp_path / "adapter"
    config = peft.LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(adapter)
    transformers.AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(adapter)
    (tmp_path / "rows.csv").write_text("question,answer\nWho?,Ann\n")
    is_meta: list[bool] = []
    finish = loading.finish

    def watch(model: torch.nn.Module, *rest: object) -> object:
        is_meta.append(next(model.parameters()).is_meta)
        return finish(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "finish", watch)
    check_files(tmp_path, adapter, f"data.train_file={tmp_path / 'rows.csv'}")
    size = (adapter / "adapter_model.safetensors").stat().st_size
    monkeypatch.setattr(loading, "MAX_CHECKED_BYTES", size + 1)
    check_files(tmp_path, adapter, f"data.train_file={tmp_path / 'rows.csv'}")
    assert is_meta == [False, True]
