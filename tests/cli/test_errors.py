"""Whatever goes wrong ends in one message that says how to mend it, the right exit code, and
nothing half-written."""

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import read_rows
from tests.doors import train
from tests.recovery.conftest import after, spawn, spawn_two
from tests.recovery.test_kill import tidy
from unteach import atomic, cli, errors, fingerprints, run_dir
from unteach.evals import measurement_cache
from unteach.inference import result_store
from unteach.training import callbacks, checkpoint

TOFU = "experiment=unlearn/tofu/default"
AUTO = ("model=auto", "model.model_args.pretrained_model_name_or_path=m", "task_name=t")
ARGS, QA, SUITE = "trainer.args", "data.forget.TOFU_QA_forget", "eval.tofu"
BEST = "trainer.args.metric_for_best_model"


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """What a command says that ends with `code`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    said = capsys.readouterr().err
    assert ended.value.code == code, said
    assert "Traceback" not in said
    assert said.startswith("unteach: ") and said.count("unteach: ") == 1, said
    return said


CONFIGURATIONS = {
    "top key": (("seeed=1",), "seeed: no such key; did you mean seed?"),
    "trainer.args key": (
        (f"{ARGS}.lerning_rate=1",),
        f"{ARGS}.lerning_rate: no such key; did you mean learning_rate?",
    ),
    "method_args key": (("trainer=NPO", "trainer.method_args.betta=1"), "did you mean beta?"),
    "method_args of another": (
        ("trainer=GradDiff", "trainer.method_args.beta=1"),
        "trainer.method_args.beta: no such key",
    ),
    "data args key": (
        (f"{QA}.args.max_lenght=3",),
        f"{QA}.args.max_lenght: no such key; did you mean max_length?",
    ),
    "eval key": ((f"{SUITE}.batchsize=3",), "did you mean batch_size?"),
    "rows key": ((f"{SUITE}.rows.forget.knd=qa",), "did you mean kind?"),
    "generation key": ((f"{SUITE}.generation.max_new_token=4",), "did you mean max_new_tokens?"),
    "define key": (
        (f"{SUITE}.define.x={{metric:rouge,text:forget.answer}}",),
        "did you mean texts?",
    ),
    "template key": (("model.template_args.user_strt_tag=x",), "did you mean user_start_tag?"),
    "stream": (("data.retian=TOFU_QA_retain",), "did you mean retain?"),
    "type of an argument": (
        (f"{ARGS}.learning_rate=high",),
        f"{ARGS}.learning_rate: must be float, got 'high'",
    ),
    "type of a field": (
        ("trainer=NPO", "trainer.method_args.beta=[1]"),
        "trainer.method_args.beta: must be a number",
    ),
    "number as text": (("task_name=7",), "task_name='7'"),
    "negative": ((f"{ARGS}.per_device_train_batch_size=-1",), "must be 1 or more, got -1"),
    "zero": ((f"{ARGS}.gradient_accumulation_steps=0",), "must be 1 or more, got 0"),
    "not finite": ((f"{ARGS}.learning_rate=nan",), "must be a finite number"),
    "no epoch": ((f"{ARGS}.num_train_epochs=0",), "must be above 0"),
    "seed": (("seed=-1",), "seed: must be from 0"),
    "a suite that is not asked for": (
        ("eval=null", "eval.tofu.batch_size=8", "eval.tofu.max_rows=3"),
        "eval.tofu: this run has no suite of that name to set eval.tofu.batch_size, "
        "eval.tofu.max_rows of; add eval=tofu",
    ),
    "eval batch": ((f"{SUITE}.batch_size=0",), "batch_size must be 1 or more"),
    "schedule": ((f"{ARGS}.lr_scheduler_type=cosin",), "did you mean cosine?"),
    "optimiser": ((f"{ARGS}.optim=adamw_tourch",), "did you mean adamw_torch?"),
    "strategy": ((f"{ARGS}.eval_strategy=epochs",), "did you mean epoch?"),
    "tracker": ((f"{ARGS}.report_to=wandbb",), "did you mean wandb?"),
    "workers": ((f"{ARGS}.dataloader_prefetch_factor=2",), "needs dataloader_num_workers above 0"),
    "two precisions": ((f"{ARGS}.bf16=true", f"{ARGS}.fp16=true"), "leave one out"),
    "two warm-ups": (
        (f"{ARGS}.warmup_steps=1", f"{ARGS}.warmup_epochs=1"),
        "say one thing in two ways",
    ),
    "superseded": (
        (f"{ARGS}.group_by_length=true",),
        "not used here: the rows of a step are drawn",
    ),
    "hub": ((f"{ARGS}.push_to_hub=true",), "unteach export <run> push=REPO"),
    "method": (("trainer=NPOO",), "there is no method called 'NPOO'; did you mean NPO?"),
    "handler": (("trainer.handler=npoo",), "did you mean NPO?"),
    "metric": ((f"{SUITE}.metrics=[forget_Q_A_Prb]",), "did you mean forget_Q_A_Prob?"),
    "no metric": ((f"{SUITE}.metrics=[]",), "asks for nothing"),
    "metric's rule": ((f"{SUITE}.define.x={{metric:rogue}}",), "did you mean rouge?"),
    "rule without a name": (
        (f"{SUITE}.define.x={{texts:forget.answer}}",),
        "define.x.metric: is required",
    ),
    "dataset": (("data.forget=TOFU_QA_forgot",), "did you mean TOFU_QA_forget?"),
    "dataset's class": ((f"{QA}.handler=QADatset",), "did you mean QADataset?"),
    "suite": (("eval=tofo",), "there is no suite called 'tofo'; did you mean tofu?"),
    "model": (("model=Llama-3.2-1B-Instrct",), "did you mean Llama-3.2-1B-Instruct?"),
    "model's class": (("model.model_handler=AutoModel",), "did you mean AutoModelForCausalLM?"),
    "experiment": (("experiment=unlearn/tofu/defalt",), "did you mean unlearn/tofu/default?"),
    "collator": (
        ("collator=DataColatorForSupervisedDataset",),
        "did you mean DataCollatorForSupervisedDataset?",
    ),
    "stream that a method lacks": (
        ("trainer=finetune",),
        "trains on the stream 'train'; this run has forget, retain",
    ),
    "anchor": (
        ("data.anchor=holdout",),
        "'holdout' is not a stream of this run; its streams: forget, retain",
    ),
    "best of nothing measured": (
        (f"{ARGS}.load_best_model_at_end=true", f"{BEST}=tofu_model_utility"),
        "nothing is measured",
    ),
    "best of another": (
        (f"{ARGS}.eval_strategy=epoch", f"{BEST}=tofu_model_utilty"),
        "did you mean tofu_model_utility?",
    ),
    "best of which": ((f"{ARGS}.load_best_model_at_end=true",), "needs metric_for_best_model"),
    "patience without a best": (
        (f"{ARGS}.early_stopping_patience=2",),
        "early_stopping_patience: needs metric_for_best_model",
    ),
    "best saved when": (
        (
            f"{ARGS}.load_best_model_at_end=true",
            f"{ARGS}.eval_strategy=steps",
            f"{BEST}=tofu_model_utility",
        ),
        "needs eval_strategy=epoch, as save_strategy",
    ),
    "compat": (("compat=openunlearn",), "compat: must be openunlearning"),
    "template": (("template=chatml",), "must be one of auto, raw, chat, qa"),
    "partner": (
        ("forget_split=forget_7",),
        "no known partner: set retain_split and holdout_split as well",
    ),
    "two seeds": (("seed=1", f"{ARGS}.seed=2"), "one value"),
    "resume of no checkpoint": (
        ("resume=saves/nothing",),
        "must be auto, never, or a checkpoint folder",
    ),
    "config name": (("--config-name=unlern",), "did you mean unlearn?"),
    "config folder": (("--config-dir=nothing",), "there is no such folder"),
    "option": (("--confg-name=x",), "did you mean --config-name?"),
    "sweep": (("seed=0,1",), "study"),
    "sweep's option": (("-m",), "several runs are a study"),
    "list without quotes": (
        ("model.added_tokens=[<|user|>, <|end|>]",),
        """put each of the list in quotes, and all of it in others: 'model.added_tokens=["<|user|>","<|end|>"]'""",
    ),
    "bracket": (("plugins=[x",), "every bracket and quote closed"),
    "letters": (("tofu_path=Übung",), "\"tofu_path='Übung'\""),
    "no value": (("trainer",), "write key=value"),
    "hydra's own": (("hydra.run.dir=x",), "paths.output_dir"),
    "removed": (("~seed",), "seed: is required, and was removed"),
    "nothing to remove": (("~sed",), "there is no such key to remove"),
    "interpolation": (
        ("task_name=${sed}",),
        "Interpolation key 'sed' not found; did you mean seed?",
    ),
    "layers": (("layers.common.args.learning_rate=1",), "layers are for configuration files"),
    "group": (("trainers/x=NPO",), "trainers/x"),
    "group without a name": (("trainer={handler:NPO}",), "takes a name"),
    "folder's name": (("task_name=../x",), "names the run's folder"),
    "plugin absent": (("plugins=[nothing.py]",), "plugins: there is no file"),
    "plugin's form": (("plugins=my.py",), "must be a list of Python files"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_that_cannot_run(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    extra, expected = CONFIGURATIONS[case]
    said = refused(capsys, 2, "unlearn", TOFU, *AUTO, *extra)
    assert expected in said
    assert not list(tmp_path.iterdir()), "a refused command writes nothing"


@pytest.fixture
def corpus(kit: Path, tmp_path: Path) -> Path:
    """The kit's corpus with 9 forget rows and 5 retain rows."""
    folder = tmp_path / "corpus"
    shutil.copytree(kit / "data", folder, copy_function=shutil.copyfile)
    for name, size in (("forget10", 9), ("retain90", 5), ("forget10_perturbed", 9)):
        write_rows(folder / f"{name}.jsonl", read_rows(kit / "data" / f"{name}.jsonl")[:size])
    return folder


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def words(kit: Path, tmp_path: Path, *extra: str) -> list[str]:
    """A run of 6 steps of 4 rows that saves after every second one."""
    return [
        TOFU,
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        "task_name=t",
        "eval=null",
        f"tofu_path={tmp_path / 'corpus'}",
        f"paths.output_dir={tmp_path / 'run'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        f"{ARGS}.per_device_train_batch_size=4",
        f"{ARGS}.gradient_accumulation_steps=1",
        f"{ARGS}.num_train_epochs=2",
        f"{ARGS}.save_strategy=steps",
        f"{ARGS}.save_steps=2",
        f"{ARGS}.logging_steps=1",
        f"{ARGS}.learning_rate=1e-4",
        f"{ARGS}.warmup_epochs=0",
        *extra,
    ]


def evaluation(kit: Path, tmp_path: Path, *extra: str) -> list[str]:
    return [
        "experiment=eval/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        "task_name=t",
        f"tofu_path={tmp_path / 'corpus'}",
        f"paths.output_dir={tmp_path / 'run'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        *extra,
    ]


def nothing_half_written(folder: Path) -> None:
    left = [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert not left, left
    assert not (folder / run_dir.DONE).exists()
    assert not (folder / run_dir.FINAL).exists()


DATA = {
    "missing column": (
        lambda rows: [{"question": row["question"]} for row in rows],
        "line 1: no column 'answer'; its columns: question",
    ),
    "column missing in one row": (
        lambda rows: [*rows[:3], {"question": "?"}],
        "line 4: no column 'answer'",
    ),
    "no rows": (lambda rows: [], "the file is empty"),
    "only empty answers": (
        lambda rows: [{**row, "answer": " "} for row in rows],
        "no row can be used: 9 rows dropped, nothing in answer (lines 1, 2, 3, 4, 5, 6, 7, 8 and 1 "
        "more)",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_trained_on(
    case: str, kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = DATA[case]
    write_rows(corpus / "forget10.jsonl", change(read_rows(corpus / "forget10.jsonl")))
    said = refused(capsys, 2, "unlearn", *words(kit, corpus.parent))
    assert expected in said
    assert "forget10" in said, "it says which rows"
    nothing_half_written(corpus.parent / "run")


PLACES = {
    "split": (("forget_split=forget05",), "corpus has no forget05"),
    "folder": (("tofu_path=./nothing",), "./nothing: there is no such folder"),
    "model": (
        ("model.model_args.pretrained_model_name_or_path=./nothing",),
        "nothing: there is no such folder",
    ),
    "no room for an answer": (
        (f"{QA}.args.max_length=2",),
        "no room for an answer within max_length (lines 1, 2, 3, 4, 5, 6, 7, 8 and 1 more)",
    ),
    "model argument": (
        ("model.model_args.attn_implementaton=eager",),
        "did you mean attn_implementation?",
    ),
    "dtype": (("model.model_args.dtype=float8",), "must be auto or one of"),
    "no checkpoint": (
        ("resume={tmp}/corpus",),
        "this checkpoint cannot be used, it was not finished",
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_is_not_where_the_command_says(
    case: str, kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra, expected = PLACES[case]
    said = refused(
        capsys,
        2,
        "unlearn",
        *words(kit, corpus.parent, *(word.format(tmp=corpus.parent) for word in extra)),
    )
    assert expected in said
    nothing_half_written(corpus.parent / "run")


def test_a_model_folder_without_its_weights(
    kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, key = corpus.parent / "model", "model.model_args.pretrained_model_name_or_path"
    shutil.copytree(
        kit / "policy",
        model,
        copy_function=shutil.copyfile,
        ignore=shutil.ignore_patterns("*.safetensors"),
    )
    said = refused(capsys, 2, "unlearn", *words(kit, corpus.parent, f"{key}={model}"))
    assert str(model) in said and "safetensors" in said and key in said
    shutil.copyfile(kit / "policy/model.safetensors", model / "model.safetensors")
    os.truncate(model / "model.safetensors", 1000)
    assert str(model) in refused(capsys, 2, "unlearn", *words(kit, corpus.parent, f"{key}={model}"))
    (model / "config.json").unlink()
    assert "no model is in this folder" in refused(
        capsys, 2, "unlearn", *words(kit, corpus.parent, f"{key}={model}")
    )
    nothing_half_written(corpus.parent / "run")


def test_rows_that_cannot_be_used_are_counted_and_named(
    kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(corpus / "forget10.jsonl")
    rows[0]["answer"], rows[1]["answer"] = "", "long " * 600
    write_rows(corpus / "forget10.jsonl", rows)
    cli.main(["unlearn", *words(kit, corpus.parent, f"{ARGS}.max_steps=1")])
    said = capsys.readouterr().err
    assert "data.forget.TOFU_QA_forget: 1 row dropped, nothing in answer (line 1)" in said
    assert "data.forget.TOFU_QA_forget: 1 row cut at max_length (line 2)" in said


def test_retain_logs_that_cannot_be_compared_with(
    kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp, log = corpus.parent, corpus.parent / "log.json"
    command = evaluation(kit, tmp, f"{SUITE}.metrics=[forget_quality]", f"retain_logs_path={log}")
    assert f"there is no file {log}" in refused(capsys, 2, "eval", *command)
    log.write_text('{"forget_truth_ratio": ')
    assert "is not whole JSON" in refused(capsys, 2, "eval", *command)
    log.write_text(
        json.dumps(
            {name: {"agg_value": 0.5} for name in ("forget_knowmem_ROUGE", "forget_verbmem_ROUGE")}
        )
    )
    assert "is it the log of another suite?" in refused(capsys, 2, "eval", *command)
    values = {str(row): {"score": 0.5} for row in range(30)}
    log.write_text(json.dumps({"forget_truth_ratio": {"agg_value": 0.5, "value_by_index": values}}))
    said = refused(capsys, 2, "eval", *command)
    assert "was measured on 30 rows" in said and "forget10_perturbed" in said
    assert "no retain_logs_path is set" in refused(capsys, 2, "eval", *command[:-1])
    assert not list((tmp / "run").glob("TOFU_*"))


def test_the_folder_of_another_configuration(
    kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(kit, corpus.parent, f"{ARGS}.max_steps=1")
    cli.main(["unlearn", *command])
    before = fingerprints.hash_files(corpus.parent / "run")
    said = refused(capsys, 2, "unlearn", *command, f"{ARGS}.weight_decay=0.5", "trainer=NPO")
    assert (
        "trainer.args.weight_decay" in said and "trainer.handler" in said and "resume=never" in said
    )
    assert fingerprints.hash_files(corpus.parent / "run") == before


def test_a_loss_that_is_not_finite(
    kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    model = corpus.parent / "model"
    shutil.copytree(kit / "policy", model, copy_function=shutil.copyfile)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = 3e38  # finite, and too large for what is multiplied with it
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    extra = f"model.model_args.pretrained_model_name_or_path={model}"
    said = refused(capsys, errors.EXIT_DIVERGED, "unlearn", *words(kit, corpus.parent, extra))
    assert "step 1: the gradient is not finite (stream forget, rows [" in said
    assert "learning_rate" in said
    nothing_half_written(corpus.parent / "run")


PLUGINS = {
    "syntax": ("def broken(:", "SyntaxError"),
    "import": ("import a_package_that_nobody_has", "No module named 'a_package_that_nobody_has'"),
    "raises": ("1 / 0", "ZeroDivisionError"),
    "taken name": (
        "from unteach.registry import method\n@method('npo')\nclass Mine: pass",
        "'npo' is taken by",
    ),
}


@pytest.mark.parametrize("case", PLUGINS)
def test_plugins_that_cannot_be_loaded(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, expected = PLUGINS[case]
    file = tmp_path / f"my_{case.replace(' ', '_')}.py"
    file.write_text(code)
    said = refused(capsys, 2, "unlearn", TOFU, *AUTO, f"plugins=[{file}]")
    assert expected in said and str(file) in said


BROKEN_FILES = {
    "trainer/mine.yaml": ("handler: [", ("trainer=mine",), "mine.yaml"),
    "model/mine.yaml": ("- a\n- b\n", ("model=mine",), "model: must be a mapping"),
    "experiment/mine.yaml": (
        "# @package _global_\ndefaults: [nothing: x]\n",
        ("experiment=mine",),
        "nothing",
    ),
    "experiment/layers.yaml": (
        "# @package _global_\nlayers: {common: 5}\n",
        ("experiment=layers",),
        "layers.common: must be a mapping",
    ),
    "experiment/args.yaml": (
        "# @package _global_\nlayers: {common: {args: [1]}}\n",
        ("experiment=args",),
        "must be a mapping",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_configuration_files_that_cannot_be_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, extra, expected = BROKEN_FILES[name]
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    assert expected in refused(
        capsys, 2, "unlearn", f"--config-dir={tmp_path}", "task_name=t", *extra
    )


def test_a_folder_that_is_a_file_or_that_may_not_be_written(
    kit: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus.parent / "file").write_text("")
    for folder in (corpus.parent / "file", corpus.parent / "file" / "inside"):
        said = refused(
            capsys, 2, "unlearn", *words(kit, corpus.parent, f"paths.output_dir={folder}")
        )
        assert str(corpus.parent / "file") in said
    assert "a file stands" in refused(
        capsys, 2, "unlearn", *words(kit, corpus.parent, "paths.cache_dir=/dev/null/x")
    )


OUTSIDE = {
    "memory": (MemoryError(), 2, "trainer.args.per_device_train_batch_size"),
    "gpu memory": (
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate"),
        2,
        "out of memory",
    ),
    "cpu memory": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"),
        2,
        "out of memory",
    ),
    "permission": (PermissionError(13, "Permission denied", "/data/x"), 2, "/data/x"),
    "read-only": (OSError(30, "Read-only file system", "/data/x"), 2, "/data/x"),
    "folder for a file": (IsADirectoryError(21, "Is a directory", "/data/x"), 2, "/data/x"),
    "network": (type("ConnectTimeout", (Exception,), {})("timed out"), 2, "network"),
    "hub": (type("HfHubHTTPError", (OSError,), {})("502 Server Error"), 2, "502"),
    "hub of datasets": (
        ConnectionError("Couldn't reach 'cais/wmdp' on the Hub (OfflineModeIsEnabled)"),
        2,
        "the network or the hub failed (Couldn't reach 'cais/wmdp'",
    ),
    "a pipe": (BrokenPipeError(32, "Broken pipe", "/data/x"), 75, "another process"),
    "no key of Weights & Biases": (
        type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})("No API key"),
        2,
        "Weights & Biases did not take the run (No API key). Log in with `wandb login`",
    ),
    "disk": (OSError(28, "No space left on device", "/data/x"), 2, "the disk is full (/data/x)"),
    "long name": (
        OSError(36, "File name too long", "x" * 300),
        2,
        "longer than the file system takes",
    ),
    "no folder": (
        FileNotFoundError(2, "No such file or directory", "/proc/x"),
        2,
        "/proc/x: it is not there",
    ),
    "many files": (OSError(24, "Too many open files", "/data/x"), 2, "ulimit -n"),
    "any other number": (
        OSError(5, "Input/output error", "/data/x"),
        2,
        "/data/x: Input/output error",
    ),
    "another process": (
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"),
        75,
        "another process",
    ),
    "interrupted": (KeyboardInterrupt(), 130, "interrupted"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_is_nobodys_bug(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error, code, expected = OUTSIDE[case]

    def fails(words: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "_command", fails)
    assert expected in refused(capsys, code)


@pytest.mark.parametrize("writing", [atomic.atomic_write, atomic.atomic_write_folder])
def test_a_full_disk_names_what_was_being_written(writing: Any, tmp_path: Path) -> None:
    """Whatever the library says that writes: torch and safetensors name no file, nor does a file's
    own write()."""
    for error in (
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/3"),
    ):
        with pytest.raises(type(error)) as raised, writing(tmp_path / "results"):
            raise error
        found = errors.describe_machine_failure(raised.value)
        assert found is not None and f"the disk is full ({tmp_path / 'results'}" in found[0]


def test_an_append_to_a_full_disk_names_its_file(tmp_path: Path) -> None:
    full = Path("/dev/full")  # every write to it fails as on a full disk
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    store = measurement_cache.Store(tmp_path, "weights", "float32")
    store._own_file = full
    state = SimpleNamespace(is_world_process_zero=True, global_step=1, max_steps=2, epoch=0.5)

    def write_answer() -> None:
        with full.open("ab", buffering=0) as file:
            result_store.PartWriter(file)(result_store.Line(1, {}, "digest"), {"output": "x"})

    appends = {
        "metrics": lambda: callbacks.MetricsFile(full).on_log(None, state, None, {"loss": 1.0}),
        "measurements": lambda: store.put("classify", [(1,)], [[0.5]]),
        "answers": write_answer,
    }
    for name, append in appends.items():
        with pytest.raises(OSError, match="No space left") as raised:
            append()
        found = errors.describe_machine_failure(raised.value)
        assert found is not None and "the disk is full (/dev/full" in found[0], name


def test_a_bug_is_called_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_command", lambda words: [][0])
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "Traceback" in said and "this is a bug" in said


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    command, folder = words(kit, tmp_path), tmp_path / "run"

    def until_the_disk_is_full() -> None:
        done = checkpoint.complete

        def fills(of: Path) -> None:
            done(of)
            # less than the weights
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

        checkpoint.complete = fills
        train(*command, config_name="unlearn")

    assert after(spawn(until_the_disk_is_full, tmp_path / "log"), 120) == 2
    said = (tmp_path / "log").read_text()
    assert "unteach: the disk is full" in said and "run the same command again" in said.replace(
        "\n", " "
    )
    assert "Traceback" not in said
    assert checkpoint.find_fault(folder / "checkpoint-2") is None
    assert checkpoint.find_newest(folder)[0] == folder / "checkpoint-2"
    assert after(spawn(lambda: train(*command, config_name="unlearn"), tmp_path / "log2"), 120) == 0
    assert json.loads((folder / run_dir.MANIFEST).read_text())["resumed_at"] == 2
    tidy(folder)


def test_a_rank_that_is_killed(kit: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = words(
        kit, tmp_path, f"{ARGS}.per_device_train_batch_size=2", f"{ARGS}.num_train_epochs=8"
    )
    pids = spawn_two(lambda: train(*command, config_name="unlearn"), tmp_path / "log")
    started = time.monotonic()
    while (
        not (folder / "checkpoint-2" / checkpoint.MARKER).exists()
        and time.monotonic() - started < 60
    ):
        time.sleep(0.005)
    os.kill(pids[1], signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[1], 0)[1]) == -signal.SIGKILL
    assert after(pids[0], 60) == errors.EXIT_PREEMPTED, (tmp_path / "log.0").read_text()
    said = (tmp_path / "log.0").read_text()
    assert "unteach: another process of this run is gone" in said
    assert "Traceback" not in said
    again = spawn_two(lambda: train(*command, config_name="unlearn"), tmp_path / "again")
    assert [after(pid, 120) for pid in again] == [0, 0], (tmp_path / "again.0").read_text()
    assert json.loads((folder / run_dir.MANIFEST).read_text())["resumed_at"] >= 2
    tidy(folder)


def test_load_says_what_is_wrong_in_its_own_words(tmp_path: Path) -> None:
    import unteach

    with pytest.raises(
        errors.UserError,
        match=r"^unteach\.load: cannot load nope: .*Name a folder, or run `hf download nope`",
    ):
        unteach.load("nope")
    with pytest.raises(
        errors.UserError,
        match=rf"^unteach\.load: run={tmp_path / 'nope'}: there is no such folder$",
    ):
        unteach.load(str(tmp_path / "nope"))


def test_a_silent_hub_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library tells of each failed request and of each try that follows: ten lines, and as many
    for the next file."""
    import logging

    from unteach.config import environment

    monkeypatch.setattr(environment, "_hub_was_silent", False)
    environment.prepare_environment()
    logger = logging.getLogger(environment.HUB)
    monkeypatch.setattr(logger, "propagate", True)
    logger.addHandler(caplog.handler)
    try:
        for _file in range(2):
            for count in range(1, 6):
                logger.warning(
                    "'[Errno -2] Name or service not known' thrown while requesting HEAD "
                    "https://hub/x"
                )
                logger.warning(f"Retrying in 8s [Retry {count}/5].")
        logger.warning("Rate limited. Waiting 60s before retry [Retry 1/5].")
    finally:
        logger.removeHandler(caplog.handler)
    said = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert said == [
        environment.HUB_IS_SILENT,
        "Rate limited. Waiting 60s before retry [Retry 1/5].",
    ]
