"""Completion: what it offers, that it starts next to nothing, and in real shells, where they are."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unteach import cli
from unteach.config import groups
from unteach.editor import complete, shells
from unteach.errors import UserError
from unteach.verbs.start import start

SCRIPT = shells.HERE / "complete.py"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>()][AB012]?|[\x00\x08]")
"""How a shell moves the cursor."""
INDEX = json.loads((shells.HERE / "index.json").read_text(encoding="utf-8"))
EXAMPLE_PLUGIN = """\
from unteach.registry import method

@method("Gentle", paper="")
class Gentle:
    pass
"""


def offer(line: str) -> list[str]:
    words = complete.split_line(line)
    return [text for text, _ in complete.complete(words, INDEX)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("rows.csv", "rows.md", "run.yaml", "my rows.jsonl"):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "rows").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_verbs() -> None:
    assert set(offer("")) == {*cli.VERBS, "--help", "--version"}
    assert offer("unl") == ["unlearn"]
    assert offer("nothing ") == [], "of a verb that there is not"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train trainer.", ["trainer.handler=", "trainer.args="]),
        ("train trainer.args.learn", ["trainer.args.learning_rate="]),
        ("train learning_r", ["trainer.args.learning_rate="]),
        ("train trainer=NP", ["trainer=NPO"]),
        ("train trainer.args.bf16=", ["trainer.args.bf16=true", "trainer.args.bf16=false"]),
        ("train trainer.args.optim=paged_l", ["trainer.args.optim=paged_lion_32bit"]),
        ("train data.train=TOFU_QA_ful", ["data.train=TOFU_QA_full"]),
        ("eval eval=[tofu,mu", ["eval=[tofu,muse"]),
        ("eval eval.tofu.metrics=[forget_qual", ["eval.tofu.metrics=[forget_quality"]),
        ("unlearn experiment=unlearn/tofu/d", ["experiment=unlearn/tofu/default"]),
        ("study run study=dem", ["study=demo"]),
        ("study st", ["status"]),
        ("study run loc", ["local=", "local."]),
        ("infer backend=op", ["backend=openai"]),
        ("infer max_new", ["max_new_tokens="]),
        ("forget bud", ["budget="]),
        ("check forget exact=y", ["exact=yes"]),
        ("audit verify mod", ["model="]),
        ("audit nproc", ["nproc="]),
        ("audit launch", ["launch="]),
        ("audit backend=", ["backend=hf", "backend=vllm", "backend=openai"]),
        ("check ", ["train", "audit", "forget", "infer", "tokenize", "export"]),
        ("check infer max_new", ["max_new_tokens="]),
        ("check infer backend=op", ["backend=openai"]),
        ("check tokenize inp", ["input_file="]),
        ("check tokenize mod", ["model="]),
        ("check export as=gg", ["as=gguf_adapter"]),
        ("export as=gg", ["as=gguf_adapter"]),
        ("fetch w", ["wmdp"]),
        ("list metr", ["metrics"]),
        ("list metrics ks", ["ks_test"]),
        ("help forget_qual", ["forget_quality"]),
        ("help trainer.args.learn", ["trainer.args.learning_rate"]),
        ("schema stu", ["study"]),
        ("completion z", ["zsh"]),
        ("check --pr", ["--print"]),
        ("train 'trainer=NP", ["trainer=NPO"]),
    ],
)
def test_words(line: str, expected: list[str]) -> None:
    offered = offer(line)
    assert offered[: len(expected)] == expected or set(expected) <= set(offered)


def test_a_verb_offers_its_own_keys_and_none_that_is_set() -> None:
    assert not [word for word in offer("eval trainer") if word.startswith("trainer")]
    assert "audit=" not in offer("train ") and "audit=" in offer("audit ")
    assert "seed=" in offer("train ") and "seed=" not in offer("train seed=1 ")
    assert not [word for word in offer("train trainer.args.") if "evaluation_strategy" in word]


def test_a_verb_of_two_words_offers_no_option_that_it_refuses() -> None:
    assert offer("check infer --") == offer("check export --") == ["--config-dir", "--help"]


def test_files(folder: Path) -> None:
    assert offer("train data=ro") == ["data=rows/", "data=rows.csv"]
    assert offer("forget ro")[:2] == ["rows/", "rows.csv"]
    assert offer("check forget ro")[:2] == ["rows/", "rows.csv"]
    assert offer("check export ro") == offer("export ro") == ["rows/"]
    assert offer("check infer ru")[0] == "run.yaml"
    assert offer("train model=ro") == ["model=rows/"]
    assert offer("train ru")[0] == "run.yaml"
    assert offer(f"train data={folder}/my")[0] == f"data={folder}/my rows.jsonl"
    assert offer("train --config-dir ro") == ["rows/"]


def test_names_of_ones_own(folder: Path) -> None:
    home = folder / "mine"
    for name in ("experiment/unlearn/facts/new", "model/small"):
        file = home / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("", encoding="utf-8")
    (folder / "gentle.py").write_text(EXAMPLE_PLUGIN, encoding="utf-8")
    assert offer("unlearn --config-dir mine experiment=unlearn/fa") == [
        "experiment=unlearn/facts/new"
    ]
    assert offer("train -cd=mine model=smal") == ["model=small"]
    assert offer("train plugins=[gentle.py] trainer=Gen") == ["trainer=Gentle"]
    assert offer("train plugins=[absent.py] trainer=Gen") == []


def test_installed_plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder / "site-packages"
    package = home / "theirs"
    (package / "configs" / "trainer").mkdir(parents=True)
    (package / "configs" / "trainer" / "TheirFile.yaml").write_text("", encoding="utf-8")
    (package / "methods.py").write_text(EXAMPLE_PLUGIN, encoding="utf-8")
    info = home / "theirs-1.0.dist-info"
    info.mkdir()
    text = "[console_scripts]\na = b:c\n\n[unteach.plugins]\nGentle = theirs.methods:Gentle\n"
    (info / "entry_points.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(home)])
    assert {"trainer=Gentle", "trainer=TheirFile"} <= set(offer("train trainer="))


@pytest.mark.parametrize("group", ["trainer", "model", "experiment", "audit", "eval", "study"])
def test_every_shipped_name_is_offered(group: str) -> None:
    verb = {"audit": "audit", "study": "study run"}.get(group, "train")
    names = [name for name in groups.list_options(group) if "/" not in name or group != "data"]
    assert {f"{group}={name}" for name in names} <= set(offer(f"{verb} {group}="))


def test_it_imports_next_to_nothing() -> None:
    command = [sys.executable, "-I", "-X", "importtime", str(SCRIPT), "bash", "="]
    done = subprocess.run(
        [*command, "unteach train trainer="], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = {"hydra", "torch", "transformers", "yaml", "typing", "pathlib", "unteach.cli"}
    assert "json" in imported and not heavy & imported
    assert "NPO" in done.stdout.splitlines()


@pytest.mark.parametrize(
    "line", ["train 'a", 'train "', "train \\", "train =", "train a=[,", "é=ü"]
)
def test_no_line_breaks_it(line: str) -> None:
    offer(line)


def write_script(shell: str, folder: Path) -> Path:
    file = folder / f"unteach.{shell}"
    file.write_text(shells.write_script(shell), encoding="utf-8")
    return file


def need(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed here")
    return found


def press_tab(command: list[str], setup: str, typed: str, awaited: str, home: Path) -> str:
    """Type words and Tab into an interactive shell; give what it has shown when `awaited` is there,
    or when it has shown nothing more for a while."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "vt100", "PS1": "> "}
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env=environment, cwd=home, close_fds=True
    )
    os.close(child)
    shown = ""
    try:
        os.write(parent, f"{setup}; echo RE''ADY\n".encode())
        shown = read_until(parent, "READY\r.*> ")
        assert "READY\r" in shown, shown
        os.write(parent, f"{typed}\t".encode())
        shown = read_until(parent, awaited)
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    return shown


def read_until(descriptor: int, awaited: str) -> str:
    shown = ""
    while not re.search(awaited, shown, re.DOTALL) and select.select([descriptor], [], [], 20)[0]:
        try:
            shown += os.read(descriptor, 65536).decode(errors="replace")
            shown = CONTROL.sub("", shown)
        except OSError:
            break
    return shown


def test_bash(folder: Path) -> None:
    script = write_script("bash", folder)
    command = [need("bash"), "--norc", "--noprofile", "-i"]
    awaited = r"trainer\.args\.learning_rate="
    shown = press_tab(
        command, f"source {script}", "unteach train trainer.args.learn", awaited, folder
    )
    assert re.search(awaited, shown)
    shown = press_tab(command, f"source {script}", "unteach train trainer=SimN", "SimNPO ", folder)
    assert "trainer=SimNPO " in shown
    shown = press_tab(command, f"source {script}", "unteach train data=my", r"jsonl", folder)
    assert r"data=my\ rows.jsonl" in shown


def run_bash(script: Path, typed: str, folder: Path) -> list[str]:
    """What the script of bash offers, without a terminal."""
    ask = f"source '{script}'; COMP_LINE=$1; COMP_POINT=${{#1}}; _unteach 2>/dev/null; "
    done = subprocess.run(
        [need("bash"), "--norc", "-c", ask + "printf '%s\\n' \"${COMPREPLY[@]}\"", "-", typed],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    return done.stdout.splitlines()


def test_bash_takes_no_name_for_a_pattern(folder: Path) -> None:
    script = write_script("bash", folder)
    for name in ("x[1].csv", "x1.csv", "y*.csv"):
        (folder / name).write_text("", encoding="utf-8")
    assert run_bash(script, "unteach train data=x", folder) == [r"x1.csv", r"x\[1\].csv"]
    assert run_bash(script, "unteach train data=y", folder) == [r"y\*.csv"]
    assert run_bash(script, r"unteach train data=x\[", folder) == [r"x\[1\].csv"]
    assert run_bash(script, "unteach eval eval=[tofu,mu", folder) == ["[tofu,muse"]


def test_paths_with_spaces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder / "my programs"
    home.mkdir()
    for name in ("complete.py", "index.json", "completion.bash"):
        shutil.copy(shells.HERE / name, home)
    (home / "my python").symlink_to(sys.executable)
    monkeypatch.setattr(shells, "HERE", home)
    monkeypatch.setattr(sys, "executable", str(home / "my python"))
    script = write_script("bash", home)
    assert run_bash(script, "unteach unl", folder) == ["unlearn"]


def test_zsh(folder: Path) -> None:
    script = write_script("zsh", folder)
    command = [need("zsh"), "-f", "-i"]
    setup = f"autoload -Uz compinit; compinit -u; source {script}"
    for typed, awaited in (
        ("unteach train trainer.args.learn", "ing_rate="),
        ("unteach train trainer=SimN", "PO "),
        ("unteach train data=my", r"\\ rows.jsonl"),
    ):
        assert awaited.replace("\\\\", "\\") in press_tab(command, setup, typed, awaited, folder)


def test_fish(folder: Path) -> None:
    script = write_script("fish", folder)
    asked = {
        "unteach train trainer.args.learn": "trainer.args.learning_rate=",
        "unteach train trainer=SimN": "trainer=SimNPO",
        "unteach unl": "unlearn",
        "unteach train data=my": "data=my rows.jsonl",
    }
    for line, expected in asked.items():
        done = subprocess.run(
            [need("fish"), "--no-config", "-c", f"source {script}; complete -C '{line}'"],
            capture_output=True,
            text=True,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )
        assert expected in [line.split("\t")[0] for line in done.stdout.splitlines()], done


def test_the_verb_prints_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in shells.SHELLS:
        start("completion", [shell])
        text = capsys.readouterr().out
        assert "@" + "COMMAND" not in text and str(SCRIPT) in text
    with pytest.raises(UserError, match="Allowed: bash, fish, zsh"):
        start("completion", ["tcsh"])
    with pytest.raises(UserError, match="name a shell"):
        start("completion", [])
