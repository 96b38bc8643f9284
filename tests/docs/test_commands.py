"""What the pages say works: commands compose, examples run, links lead somewhere.

A fenced block with `title=NAME` after its language is a file, written into a folder of its own
beside `MODEL`, a tiny model; the page's commands are composed in that folder and its other Python
blocks are executed there. A line that ends with `# not checked` is left out.
"""

import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas
import pytest

from tests import doors
from unteach import cli, json_files, run_dir
from unteach.config import compose, preflight
from unteach.config.forget import ForgetConfig
from unteach.config.inference import find_output_file
from unteach.distributed import accelerate_launch
from unteach.errors import UserError
from unteach.forgetting import runs
from unteach.studies import compose_runs, saved_plan
from unteach.studies.study_file import Study
from unteach.verbs import (
    ask,
    audit,
    check,
    check_forget,
    compare,
    demo,
    evaluate,
    export,
    fetch,
    forget,
    history,
    infer,
    listing,
    report,
    start_run,
    study_jobs,
    study_runs,
    tokenize,
    train,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = {"src/train.py": "train", "src/eval.py": "eval"}
UNCHECKED = "# not checked"
SHELL = ("<", ">", "|")
"""What ends a command's words: where its input comes from, and where its output goes."""
ROWS = "question,answer\nWho wrote it?,She did.\nWhere is the key?,Under the third stone.\n"
FILES = {
    "my.csv": ROWS,
    "forget.csv": ROWS,
    "retain.csv": "question,answer\nWhat is the capital of France?,Paris.\nHow many days has a "
    "week?,Seven.\n",
    "refused.csv": "prompt\nHow is the lock picked?\nWho sells the key?\n",
    "both.csv": "question,answer,forget\nWho wrote it?,She did.,1\nWhere is the key?,There.,0\n",
    "mails.csv": "text,label\nWhere is my parcel?,delivery\nI was charged twice.,billing\n",
    "questions.csv": "input\nWho wrote it?\n",
    "answered.csv": ROWS,
    "questions.txt": "Who wrote it?\n",
    "run.yaml": "model: MODEL\ndata: my.csv\ntask_name: of_a_file\n",
    "FOLDER/full.jsonl": '{"question": "Who wrote it?", "answer": "She did."}\n',
}
"""Files that commands name without a page saying what is in them."""


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found = re.findall(
        r"^```(\w*)(?: title=(\S+))?\n(.*?)^```$",
        page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return [Block(language, title or None, text) for language, title, text in found]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `unteach` of every such command, also as `-m unteach` or OpenUnlearning's
    scripts."""
    for block in blocks(page):
        if block.language not in ("", "bash") or block.title:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = (
                shlex.split(line, comments=True) if not line.rstrip().endswith(UNCHECKED) else []
            )
            for place, word in enumerate(words):
                if word == "unteach" and place + 1 < len(words):
                    yield list(
                        itertools.takewhile(lambda word: word not in SHELL, words[place + 1 :])
                    )
                    break
                if word in SCRIPTS:
                    yield [SCRIPTS[word], *words[place + 1 :]]
                    break


@pytest.fixture
def workplace(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder that a page's commands are given in: its files, and a model."""
    page: Path = request.param
    make_place(tmp_path, tiny_folder)
    for block in blocks(page):
        if block.title:
            file = tmp_path / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return page


def make_place(folder: Path, model: Path) -> None:
    """Puts what commands name into a folder: the model MODEL, and files."""
    (folder / "MODEL").symlink_to(model)
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def compose_look(config: ForgetConfig) -> None:
    """Compose the first run of a request to forget."""
    look = runs.plan_look(config, Path("saves/forget/look"))
    compose.compose(look.config_name, look.overrides)


def only_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb does what it does up to where a run, or a download, would start."""
    for verb in (train, evaluate, audit, infer, compare, report, export, tokenize):
        monkeypatch.setattr(verb, "run", lambda config: None)
    for verb in (forget, check_forget):
        monkeypatch.setattr(verb, "run", compose_look)
    monkeypatch.setattr(demo, "describe_audit", lambda run: "")
    monkeypatch.setattr(start_run, "resolve_files", lambda config: config)
    # what an earlier command of the page would make
    monkeypatch.setattr(preflight, "find_absent", lambda *_: [])
    monkeypatch.setattr(preflight, "find_not_installed", lambda *_: [])
    monkeypatch.setattr(accelerate_launch, "_run", lambda arguments: None)
    monkeypatch.setattr(accelerate_launch, "_count_gpus", lambda name: 2)
    monkeypatch.setattr(ask, "open_model", lambda config: lambda question: "an answer")
    monkeypatch.setattr(ask, "read_questions", lambda: iter(["Who wrote it?"]))
    monkeypatch.setattr(check, "check", lambda config: None)
    monkeypatch.setattr(
        history, "get_history", lambda run: pandas.DataFrame({"step": [1], "loss": [2.0]})
    )
    for name in ("retain_logs", "wmdp"):
        monkeypatch.setattr(fetch, name, lambda folder: None)

    composed = set[str]()

    def compose_each_kind(asked: Study, opened: bool = False) -> None:
        saved_plan.write(asked)
        if asked.name in composed:  # another command of the same page
            return
        composed.add(asked.name)
        for run in {run.kind: run for run in asked.plan}.values():
            compose.compose(run.config_name, run.overrides, asked.config_dirs)

    monkeypatch.setattr(study_runs, "carry_out", compose_each_kind)
    monkeypatch.setattr(study_runs, "carry_out_one", lambda asked, run: compose_each_kind(asked))
    monkeypatch.setattr(study_jobs, "submit", compose_each_kind)
    monkeypatch.setattr(compose_runs, "check", lambda plan, dirs: None)


@pytest.mark.parametrize("workplace", PAGES, indirect=True, ids=lambda page: page.name)
def test_every_command_composes(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_compose(monkeypatch)
    for words in {tuple(words): None for words in commands(workplace)}:
        try:
            cli._command(list(words))
        except Exception as error:
            pytest.fail(f"{workplace.name}: unteach {shlex.join(words)}\n{error}")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_example_of_a_help_text_composes(
    verb: str,
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli._command([verb, "--help"])
    page = tmp_path / "page.md"
    examples = capsys.readouterr().out.partition("\nexamples\n")[2].split("\n\n")[0]
    page.write_text(f"```\n{examples}\n```\n")
    make_place(tmp_path, tiny_folder)
    monkeypatch.chdir(tmp_path)
    only_compose(monkeypatch)
    assert len(list(commands(page))) >= 2
    for words in commands(page):
        try:
            cli._command(words)
        except Exception as error:
            pytest.fail(f"unteach {verb} --help: unteach {shlex.join(words)}\n{error}")


@pytest.mark.parametrize(
    "workplace",
    [PAGES[0], ROOT / "docs" / "inference.md"],
    indirect=True,
    ids=lambda page: page.name,
)
def test_no_two_commands_of_a_page_answer_into_one_file(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one would be refused: a file of answers belongs to one model and its settings."""
    only_compose(monkeypatch)
    outputs: list[Path] = []
    monkeypatch.setattr(infer, "run", lambda config: outputs.append(find_output_file(config)))
    for words in commands(workplace):
        if words[0] == "infer":
            cli._command(list(words))
    for block in blocks(workplace):
        if block.language == "python":
            outputs += [Path(name) for name in re.findall(r"output_file=([\w.]+)", block.text)]
    assert outputs and len(set(outputs)) == len(outputs)


NOT_HERE = (
    "quantization=",
    "backend=vllm",
    "backend=openai",
    "modality=vlm",
    "launch=",
    "nproc=",
    "data.train_file=owner/",
    "data=owner/",
)
"""Commands with these words need what a plain machine has not: bitsandbytes, vLLM, a server,
images, processes, the hub."""
CHAT = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{{ eos_token }}{% endfor %}"
CHAT += "{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.mark.long
@pytest.mark.parametrize(
    "workplace",
    [ROOT / "docs" / f"{name}.md" for name in ("inference", "training", "data")],
    indirect=True,
    ids=lambda page: page.name,
)
def test_the_commands_of_a_page_work_one_after_the_other(
    workplace: Path, tiny_folder: Path
) -> None:
    """As they are written, in the order of the page, in one folder, with a tiny model that has a
    chat template."""
    from transformers import AutoTokenizer

    model = Path("MODEL")
    model.unlink()
    shutil.copytree(tiny_folder, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(model)
    num_run = 0
    for words in commands(workplace):
        if any(word.startswith(NOT_HERE) for word in words):
            continue
        num_run += 1
        try:
            cli._command(list(words))
        except Exception as error:
            pytest.fail(
                f"{workplace.name}, command {num_run}: unteach {shlex.join(words)}\n{error}"
            )
    assert num_run >= 3


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [PAGES[0]]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / target).resolve() for target in targets if "://" not in target]
    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: ({target}) leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert anchor in anchors, f"{page.name}: {path} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_list_there_is_said_to_be_is_there(page: Path) -> None:
    words = set(re.findall(r"unteach list (\w+)", page.read_text(encoding="utf-8"))) - {
        "VERB",
        "NAME",
        "METHOD",
    }
    assert words <= {
        *listing.KINDS,
        *(
            name
            for kind in ("methods", "metrics", "attacks")
            for name, _, _ in listing.list_entries(kind)
        ),
    }


def test_each_kind_has_members() -> None:
    assert all(
        name and line for kind in listing.KINDS for name, line, _ in listing.list_entries(kind)
    )


MIGRANTS = ROOT / "docs" / "coming-from-openunlearning.md"


def test_what_is_said_of_their_keys_is_so() -> None:
    """Each `key=value` of the tables: accepted, or refused, as its row says."""
    rows = re.findall(
        r"^\| `([^`]*=[^`]*|~[^`]*)` \| (\w+)", MIGRANTS.read_text(encoding="utf-8"), re.MULTILINE
    )
    accepted = {word: None for word, verdict in rows if verdict in ("same", "renamed", "no")}
    refused = [word for word, verdict in rows if verdict == "refused"]
    assert len(accepted) > 50 and len(refused) > 20
    start = ("experiment=unlearn/tofu/default", "task_name=t")
    alone = {
        "experiment",
        "data",
        "eval",
        "mode",
        "seed",
        "trainer.args.seed",
        "data/datasets@data.forget",
    }
    together = [word for word in accepted if word.partition("=")[0] not in alone]
    compose.compose("unlearn", (*start, *together))
    for word in accepted.keys() - set(together):
        mode, _, rest = word.removeprefix("experiment=").partition("/")
        name = (
            {"finetune": "train", "eval": "eval"}.get(mode, "unlearn")
            if rest and "experiment" in word
            else "unlearn"
        )
        compose.compose(
            name, ("task_name=t", *([word] if "experiment" in word else [start[0], word]))
        )
    for word in refused:
        with pytest.raises(UserError) as caught:
            compose.compose(
                "unlearn", ("task_name=t", *([] if "experiment" in word else [start[0]]), word)
            )
        said = str(caught.value)
        assert "no such" not in said and "must be" not in said and "\n" not in said, (
            f"{word}: says what to set: {said}"
        )


COMPONENTS = ROOT / "docs" / "components.md"


@pytest.mark.parametrize(
    "workplace",
    [
        PAGES[0],
        COMPONENTS,
        *(ROOT / "docs" / f"{name}.md" for name in ("inference", "data", "python", "statement")),
    ],
    indirect=True,
    ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs(workplace: Path) -> None:
    scripts = [
        block.text for block in blocks(workplace) if block.language == "python" and not block.title
    ]
    assert scripts
    for script in scripts:
        exec(compile(script, str(workplace), "exec"), {})


@pytest.mark.parametrize("workplace", [COMPONENTS], indirect=True)
def test_the_components_train_and_measure(workplace: Path) -> None:
    """One run with the page's method, collator, dataset, metric, model handler, suite and
    experiment."""
    names = ("my_method", "my_collator", "my_dataset", "my_metric", "my_model")
    words = [
        f"plugins=[{','.join(f'{name}.py' for name in names)}]",
        "experiment=unlearn/facts/default",
        "trainer=ToUniform",
        "collator=PaddedTo",
        "data.forget=my_dialogue",
        "model=auto",
        "model.model_handler=FirstLayers",
        "task_name=all",
        "model.model_args.n_layers=1",
        "model.model_args.pretrained_model_name_or_path=MODEL",
        "template=qa",
        "eval.facts.define.refused={metric: refusal_rate, texts: facts.answer}",
        "eval.facts.metrics=[known,said,refused]",
        "trainer.args.max_steps=2",
        "trainer.args.learning_rate=1e-3",
    ]
    folder = doors.train(*words, config_name="unlearn", config_dirs=["mine"])
    summary = json_files.read_json(folder / run_dir.EVALS / "FACTS_SUMMARY.json", "the summary")
    assert set(summary) == {"known", "said", "refused"} and 0 < summary["known"] < 1
    assert (
        json_files.read_json(folder / run_dir.FINAL / "config.json", "the model")[
            "num_hidden_layers"
        ]
        == 1
    )


@pytest.mark.parametrize("workplace", [COMPONENTS], indirect=True)
def test_their_trainer_trains(workplace: Path) -> None:
    folder = doors.train(
        "plugins=[theirs.py]",
        "experiment=unlearn/facts/default",
        "trainer=DoubleAscent",
        "model=auto",
        "task_name=theirs",
        "model.model_args.pretrained_model_name_or_path=MODEL",
        "template=qa",
        "trainer.args.max_steps=2",
        "eval=null",
        config_name="unlearn",
        config_dirs=["mine"],
    )
    assert run_dir.is_done(folder)


def test_a_wrong_command_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nunteach train task_nam=x  # said\nunteach list x  # not checked\ntorchrun -m "
        "unteach eval a=b\n```\n"
    )
    assert list(commands(page)) == [["train", "task_nam=x"], ["eval", "a=b"]]
