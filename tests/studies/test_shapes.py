"""A study file of another shape is said key by key; what it names is safe in a folder, a script and
a file."""

import json
import subprocess
from pathlib import Path

import pytest

from unteach.config.overrides import spell_value
from unteach.errors import UserError
from unteach.studies import saved_plan, slurm_scripts
from unteach.studies.expansion import expand
from unteach.studies.plan import PlannedRun
from unteach.studies.settings import Slurm, read_slurm
from unteach.studies.study_file import read_study

FULL = "full: {experiment: finetune/authors/default, model: tiny}\n"
SHAPES = {
    "full": ("name: s\nfull:\n", "full: must be a mapping"),
    "full text": ("name: s\nfull: x\n", "full: must be a mapping of overrides, got 'x'"),
    "vary list": (f"name: s\n{FULL}vary: [1]\n", r"vary: must be a mapping, got \[1\]"),
    "vary text": (f"name: s\n{FULL}vary: x\n", "vary: must be a mapping, got 'x'"),
    "vary of an entry": (
        "name: s\nfull: {experiment: a/b/c, vary: 3}\n",
        "full.vary: must be a mapping, got 3",
    ),
    "search": (
        "name: s\nfull: {experiment: a/b/c, search: [1]}\n",
        "full.search: must be a mapping",
    ),
    "eval": (f"name: s\n{FULL}eval: 5\n", "eval: must be a name or a list of names, got 5"),
    "evaluate": (
        f"name: s\n{FULL}evaluate: 5\n",
        "evaluate: must be a name or a list of names, got 5",
    ),
    "wandb": (f"name: s\n{FULL}wandb: x\n", "wandb: must be a mapping, got 'x'"),
    "local": (f"name: s\n{FULL}local: x\n", "local: must be a mapping, got 'x'"),
    "slurm": (f"name: s\n{FULL}slurm: [1]\n", r"slurm: must be a mapping, got \[1\]"),
    "forget": (f"name: s\n{FULL}forget: x\n", "forget: must be a list of mappings"),
    "forget entry": (
        f"name: s\n{FULL}forget: [x]\n",
        r"forget\[0\]: must be a mapping of overrides, got 'x'",
    ),
    "from": (
        f"name: s\n{FULL}forget: [{{trainer: NPO, from: [a]}}]\n",
        r"forget\[0\].from: must be text",
    ),
    "number key": (f"name: s\n{FULL}1: 2\n", "study key"),
    "key within": ("name: s\nfull: {1: 2}\n", "full: 1 cannot be a key here"),
    "key with =": ("name: s\nfull: {'a=b': 2}\n", "full: 'a=b' cannot be a key here"),
    "name null": (f"name:\n{FULL}", "name: must be letters"),
    "name list": (f"name: [1]\n{FULL}", "name: must be letters"),
    "name quoted": (f'name: "q\'q"\n{FULL}', "name: must be letters"),
    "name shell": (f"name: 'x\"$(touch PWNED)\"'\n{FULL}", "name: must be letters"),
    "name of a run": (
        f"name: s\n{FULL}forget: [{{trainer: NPO, name: a/../b}}]\n",
        r"forget\[0\].name: must be letters",
    ),
    "two names": (f"name: a\nname: b\n{FULL}", "name is said twice"),
    "two lists": (
        f"name: a\n{FULL}forget: [{{trainer: NPO}}]\nforget: []\n",
        "forget is said twice",
    ),
    "kinds": (
        f"name: s\n{FULL}slurm: {{kinds: {{full: {{kinds: {{}}}}}}}}\n",
        "kinds: no such key",
    ),
    "two lines": (
        f'name: s\n{FULL}slurm: {{partition: "a\\ntouch x"}}\n',
        "partition: must be one line",
    ),
    "more": (
        f"name: s\n{FULL}slurm: {{more: {{'a b': 1}}}}\n",
        "more.a b: cannot be the name of an option",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_study_of_another_shape_is_refused_by_its_key(tmp_path: Path, case: str) -> None:
    content, said = SHAPES[case]
    (tmp_path / "s.yaml").write_text(content)
    with pytest.raises(UserError, match=said):
        read_study(str(tmp_path / "s.yaml"))


@pytest.mark.parametrize("word", ["slurm.kinds=5", "jobs=[", "local=3"])
def test_words_of_a_study_are_read_as_strictly(tmp_path: Path, word: str) -> None:
    (tmp_path / "s.yaml").write_text(f"name: s\n{FULL}")
    words = [word, "slurm.kinds.full.time=3"] if word.startswith("slurm") else [word]
    if word == "local=3":
        words.append("local.jobs=x")
    with pytest.raises(UserError):
        read_study(str(tmp_path / "s.yaml"), words)


@pytest.mark.parametrize("folder", ["saves/q'q", "saves/a\\b", "saves/a b\\", "saves/ü"])
def test_a_planned_runs_folder_is_the_one_that_it_writes(folder: str) -> None:
    run = PlannedRun("r", "full", "train", (f"paths.output_dir={spell_value(folder)}",))
    assert run.folder == folder


def test_what_a_script_says_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "it's $(touch PWNED) here"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / "s.yaml").write_text(
        f"name: s\n{FULL}slurm: {{partition: 'a \"$(touch PWNED)\"', python: 'p \"a $(b)\"'}}\n"
    )
    written = slurm_scripts.write_scripts(read_study("s.yaml"), Path("jobs"))
    text = (written / "full.sh").read_text()
    assert '#SBATCH --partition="a \\"$(touch PWNED)\\""\n' in text
    assert "\np 'a $(b)' -m unteach study run " in text
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "sbatch").write_text("#!/bin/sh\necho 1\n")
    (stub / "sbatch").chmod(0o755)
    ran = subprocess.run(
        ["bash", str(written / "queue_all.sh")],
        env={"PATH": f"{stub}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "submitted 1 runs; unteach study status s" in ran.stdout, ran.stderr
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("model.model_args.token=hf_abc", "model.model_args.token"),
        ("wandb.api_key=abc", "wandb.api_key"),
        ("slurm.setup=['export HF_TOKEN=abc']", "slurm.setup"),
    ],
)
def test_a_secret_is_refused_where_it_would_be_kept(tmp_path: Path, word: str, key: str) -> None:
    (tmp_path / "s.yaml").write_text(f"name: s\n{FULL}")
    with pytest.raises(UserError, match=rf"{key}: a study keeps its plan in files, .*HF_TOKEN"):
        read_study(str(tmp_path / "s.yaml"), [word])


def test_a_setup_may_read_a_secret_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"name: s\n{FULL}")
    word = "slurm.setup=['export HF_TOKEN=$(cat ~/.token)', 'export A_TOKEN=\"$B\"']"
    assert len(read_study(str(tmp_path / "s.yaml"), [word]).slurm.setup) == 2


def test_a_kept_plan_of_another_shape_is_named(tmp_path: Path) -> None:
    for content in ([], {"runs": 5}, {"runs": [{"name": "a"}]}):
        (tmp_path / saved_plan.FILE).write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"plan\.json: is no plan of a study"):
            saved_plan.read(tmp_path)


def test_a_shape_that_is_right_is_read() -> None:
    full = {"experiment": "finetune/authors/default", "model": "tiny"}
    assert [
        run.name for run in expand({"name": "s", "full": full, "eval": "tofu", "evaluate": []})
    ] == ["full"]
    assert read_slurm({"more": {"comment": "a b"}}) == Slurm(more={"comment": "a b"})
