"""The JSON schemas: up to date, true to what the reader takes, named by all shipped YAML."""

import functools
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from unteach.config import compose, groups
from unteach.editor import schemas
from unteach.errors import UserError
from unteach.strict_yaml import parse_yaml, read_yaml
from unteach.studies.expansion import expand
from unteach.verbs.start import start

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = groups.CONFIGS.parent / "schemas"
SHIPPED = sorted(groups.CONFIGS.rglob("*.yaml"))
OF_ACCELERATE = "launch"
"""The group whose files are accelerate's own, and have no schema of ours."""
EDITOR_LINE = re.compile(r"^# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)
PATH_KEY = "model.model_args.pretrained_model_name_or_path"


@functools.cache
def read_schema(kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.json").read_text(encoding="utf-8"))
    return schema


def list_faults(kind: str, content: object) -> list[str]:
    validator = jsonschema.Draft7Validator(read_schema(kind))
    return [error.message for error in validator.iter_errors(content)]


def test_what_editors_and_shells_read_is_up_to_date(tmp_path: Path) -> None:
    pins = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for package in ("transformers", "peft"):
        if f"{package}=={metadata.version(package)}" not in pins:
            pytest.skip(f"the fields of {package} are those of another version here")
    # In a process of its own: in this one, tests have registered plugins.
    script = ROOT / "docs" / "make_editor.py"
    subprocess.run([sys.executable, script, str(tmp_path)], check=True)
    made = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(made) == len(schemas.BUILDERS) + 1
    for file in made:
        shipped = groups.CONFIGS.parent / file.relative_to(tmp_path)
        assert shipped.read_text(encoding="utf-8") == file.read_text(encoding="utf-8"), (
            f"{file.name}: run `python docs/make_editor.py`"
        )


def test_there_is_a_file_for_every_kind_and_no_other() -> None:
    assert {file.stem for file in SCHEMAS.iterdir()} == {*schemas.BUILDERS}


@pytest.mark.parametrize("kind", schemas.BUILDERS)
def test_a_schema_is_one(kind: str) -> None:
    jsonschema.Draft7Validator.check_schema(read_schema(kind))


def list_nodes(node: object) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            nodes.append(node)
            waiting += node.values()
    return nodes


@pytest.mark.parametrize("kind", schemas.BUILDERS)
def test_no_default_stops_an_editor(kind: str) -> None:
    """yaml-language-server takes a default for text where text is the first of several types, and
    completes nothing more where it is null."""
    for node in list_nodes(read_schema(kind)):
        kinds = node.get("type")
        first = kinds[0] if isinstance(kinds, list) else kinds
        if first == "string" and "default" in node:
            assert isinstance(node["default"], str), node


@pytest.mark.parametrize(
    "file", SHIPPED, ids=lambda file: str(file.relative_to(groups.CONFIGS).with_suffix(""))
)
def test_a_shipped_file_names_its_schema_and_is_valid_under_it(file: Path) -> None:
    named = EDITOR_LINE.findall(file.read_text(encoding="utf-8"))
    if file.parent.name == OF_ACCELERATE:
        assert not named
        return
    assert len(named) == 1
    schema = (file.parent / named[0]).resolve()
    assert schema.parent == SCHEMAS
    assert not list_faults(schema.stem, read_yaml(file))


BLOCK = re.compile(r"^```yaml(?: title=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
KINDS_BY_FOLDER = {
    "study": "study",
    "datasets": "dataset",
    "model": "model",
    "eval": "suite",
    "collator": "collator",
    "trainer": "trainer",
    "experiment": "experiment",
}


def find_kind(title: str, content: dict[str, Any]) -> str:
    for folder, kind in KINDS_BY_FOLDER.items():
        if folder in Path(title).parts[:-1]:
            return kind
    return "study" if "full" in content else "run"


@pytest.mark.parametrize("name", ["experiments", "studies", "components", "editor"])
def test_the_files_of_a_page_are_valid(name: str) -> None:
    """But for parts of files, which have no name, and what a page shows as wrong."""
    page = ROOT / "docs" / f"{name}.md"
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    titled = [(title, text) for title, text in blocks if title and "wrong" not in title]
    assert titled
    for title, text in titled:
        content = parse_yaml(text, title)
        assert not list_faults(find_kind(title, content), content), title


@pytest.mark.parametrize("experiment", groups.list_options("experiment"))
def test_what_a_run_keeps_is_valid(experiment: str) -> None:
    verb = experiment.partition("/")[0]
    name = verb if verb in ("unlearn", "eval", "audit") else "train"
    words = [f"experiment={experiment}", "task_name=t", "model=auto", f"{PATH_KEY}=x"]
    config = compose.compose(name, words)
    assert not list_faults("run", config.tree)


RIGHT = [
    "model: tiny\ndata: my.csv\ntrainer: NPO\ntrainer.method_args.beta: 0.5\n",
    "model: org/name\nforget: {path: json, data_files: a.jsonl}\nretain: null\n",
    "trainer.args: {learning_rate: 1e-4, save_strategy: no}\ntrainer.args.max_steps: 5\n",
    "trainer: {handler: NPO, method_args: {beta: 1}, args: {report_to: [wandb, tensorboard]}}\n",
    "trainer: mine\nplugins: [mine.py]\ntrainer.method_args.strength: 3\n",
    "plugins: [mine.py]\ndata.mine: MINE\n",
    "trainer.args.evaluation_strategy: epoch\ntrainer.args.overwrite_output_dir: true\n",
    "eval: [tofu, mine]\neval.mine.max_rows: 5\neval.tofu.rows.forget.kind: qa\n",
    "data.train: [TOFU_QA_full, MUSE_train]\ndata.train.TOFU_QA_full.args.max_length: 64\n",
    "seed: ${world_seed}\ntrainer.args.learning_rate: ${oc.env:RATE}\n",
    "+trainer.args.foo: 1\ndata/datasets@data.train: TOFU_QA_full\n",
    "model.peft_args: {r: 16, target_modules: all-linear}\nmodel.peft_args.lora_alpha: 8\n",
    "trainer.surgery: {name: pcgrad}\ntrainer.guard.action: stop\ntrainer.land: null\n",
    "audit: standard\naudit.attacks.rank: null\naudit.attacks.mine: {attack: rank}\n",
    "forget_set: {by: author, fraction: 0.1}\nforget_set.seed: 1\n",
    "data.columns.input: Frage\ndata.max_rows: {forget: 5}\ndata.max_rows.retain: 6\n",
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_file_is_valid(text: str) -> None:
    assert not list_faults("run", parse_yaml(text, "run.yaml"))


WRONG = [
    "trianer: NPO",
    "trainer.args.learnign_rate: 1e-4",
    "trainer.args: {learnign_rate: 1e-4}",
    "trainer.args.learning_rate: fast",
    "trainer.args.learning_rate: -1",
    "trainer.args.num_train_epochs: 0",
    "trainer.args.max_steps: 1.5",
    "trainer.args.optim: adamm",
    "trainer.args.bf16: maybe",
    "trainer.args.output_dir: x",
    "trainer: NPO\ntrainer.method_args.gama: 1",
    "trainer: NPO\ntrainer.method_args: {temperature: 1}",
    "trainer: NPO\ntrainer.method_args.beta: low",
    "trainer: {handler: NPO, method_args: {gama: 1}}",
    "trainer.guard.action: halt",
    "trainer.guard: {evry: 5}",
    "data.trian_file: my.csv",
    "data: {trian_file: my.csv}",
    "data.too_long: cut",
    "seed: one",
    "seed: true",
    "task_name: [a]",
    "model.pure_bf16: 1",
    "model: {template_args: {kind: chatty}}",
    "model.template_args.boundary: loose",
    "eval.tofu.max_row: 5",
    "eval.mine.batch_size: big",
    "eval: {tofu: {define: {m: {metric: ks_test, forgett: x}}}}",
    "audit.max_facts: many",
    "audit.attacks: {rank: {over: all}}",
    "paths.output: x",
    "forget_set: {fractoin: 0.1}",
    "wandb.log_model: always",
    "nproc: two",
    "plugins: mine.py",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_not_valid(text: str) -> None:
    assert list_faults("run", parse_yaml(text, "run.yaml"))


@pytest.mark.parametrize("text", [text for text in WRONG if "\n" not in text and "{" not in text])
def test_what_the_schema_refuses_the_reader_refuses(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    others = "model: org/name\ndata: my.csv\ntask_name: t\n"
    name = text.partition(":")[0]
    kept = [line for line in others.splitlines() if not line.startswith(f"{name}:")]
    file.write_text("\n".join([*kept, text]), encoding="utf-8")
    verb = "audit" if text.startswith("audit") else "train"
    with pytest.raises(UserError):
        compose.compose(verb, [str(file)])


STUDIES_WRONG = [
    "full: {experiment: finetune/authors/default}",
    "name: x\nfull: {experimnt: a}",
    "name: x\nfull: {experiment: a}\nvari: {seed: [0]}",
    "name: x\nfull: {experiment: a}\nvary: {sed: [0]}",
    "name: x\nfull: {experiment: a}\nvary: {seed: [0, a]}",
    "name: x\nfull: {experiment: a}\nforget: [{trainer: NPO, trainer.method_args.gama: 1}]",
    "name: x\nfull: {experiment: a}\nforget: [{trainer.args.learning_rate: fast}]",
    "name: x\nfull: {experiment: a}\nslurm: {times: 5}",
    "name: x\nfull: {experiment: a}\nlocal: {jobs: two}",
    "name: x\nfull: {experiment: a}\nforget: [{trainer: NPO, search: {runs: 2, ovr: {}}}]",
]


@pytest.mark.parametrize("text", STUDIES_WRONG)
def test_a_wrong_study_is_not_valid(text: str) -> None:
    assert list_faults("study", parse_yaml(text, "study.yaml"))


def test_a_right_study_is_valid() -> None:
    study = parse_yaml(
        "name: mine\nfull: {data: all.csv, model: tiny}\nretain: {data: kept.csv}\n"
        "forget:\n  - {trainer: NPO, forget: a.csv, vary: {trainer.method_args.beta: [0.1, 1]}}\n"
        "  - {name: vector, trainer: TaskVector, trainer.method_args.finetuned: {run: NPO}}\n"
        "  - {trainer: RMU, search: {runs: 2, over: {trainer.args.learning_rate:"
        " {low: 1e-5, high: 1e-3, scale: log}, seed: [1, 2]}}}\n"
        "vary: {seed: 0}\naudit: {audit: standard, audit.max_facts: 40}\n"
        "slurm: {time: 60, kinds: {forget: {gpus: 1}}}\n",
        "study.yaml",
    )
    assert not list_faults("study", study)
    study["forget"][0]["vary"] = {}
    del study["forget"][1:], study["audit"]
    assert expand({key: value for key, value in study.items() if key != "slurm"})


def test_the_verb_prints_a_schema_with_names_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "Gentle.yaml").write_text("handler: NPO\n", encoding="utf-8")
    start("schema", ["trainer"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["properties"].keys() == read_schema("trainer")["properties"].keys()
    schema = schemas.build("run", [str(tmp_path)])
    assert "Gentle" in schema["properties"]["trainer"]["anyOf"][0]["enum"]
    with_field = {"trainer": "Gentle", "trainer.method_args.gama": 1}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(with_field))
    start("schema", [])
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == {*schemas.BUILDERS}
    with pytest.raises(UserError, match="did you mean study"):
        start("schema", ["studdy"])
