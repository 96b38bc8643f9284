"""The command line as a user runs it: fast help, fast and clear mistakes, no torch before it is
needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from unteach.cli import main

UNTEACH = [sys.executable, "-m", "unteach"]
TOFU = "experiment=unlearn/tofu/default"
AUTO = ("model=auto", "model.model_args.pretrained_model_name_or_path=m")


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UNTEACH, *words], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


MISTAKES = {
    "verb": (("lst", "methods"), "did you mean list?"),
    "experiment": (
        ("train", "experiment=finetune/tofu/defalt", "task_name=x"),
        "did you mean finetune/tofu/default?",
    ),
    "method": (("unlearn", "trainer=NPOO", "task_name=x"), "did you mean NPO?"),
    "keys": (
        (
            "unlearn",
            TOFU,
            *AUTO,
            "trainer=NPO",
            "trainer.args.lerning_rate=1",
            "trainer.method_args.betta=1",
            "task_name=x",
        ),
        "2 mistakes",
    ),
    "type": (
        ("unlearn", TOFU, *AUTO, "trainer.args.num_train_epochs=abc", "task_name=x"),
        "must be float, got 'abc'",
    ),
    "value": (
        ("unlearn", "trainer=NPO", "trainer.method_args.beta=-1", "task_name=x"),
        "beta must be above 0",
    ),
    "required": (("unlearn", TOFU), "task_name: is required"),
    "metric": (
        ("eval", "eval.tofu.metrics=[forget_Q_A_Prb]", "task_name=x"),
        "did you mean forget_Q_A_Prob?",
    ),
    "partner": (("unlearn", "forget_split=forget_7", "task_name=x"), "no known partner"),
    "checkpoint": (
        ("unlearn", TOFU, "model=Llama-2-7b-hf", "task_name=x"),
        "set model.model_args.pretrained",
    ),
    "sweep": (("unlearn", "seed=0,1", "task_name=x"), "study"),
    "two seeds": (("unlearn", "seed=1", "trainer.args.seed=2", "task_name=x"), "one value"),
    "syntax": (("unlearn", "task_name=x", "a=[1"), "cannot read 'a=[1'"),
    "option": (("train", "--confg-name=x"), "did you mean --config-name?"),
    "config name": (("train", "--config-name=unlern", "task_name=x"), "did you mean unlearn?"),
    "superseded": (
        ("unlearn", "trainer.args.group_by_length=true", "task_name=x"),
        "not used here",
    ),
    "study": (("study", "run", "study=dmo"), "did you mean demo?"),
    "list": (("list", "metods"), "did you mean methods?"),
    "resume": (("unlearn", TOFU, *AUTO, "resume=sometimes", "task_name=x"), "resume=sometimes"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_message(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = MISTAKES[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    told = capsys.readouterr().err
    assert ended.value.code == 2, told
    assert said in told
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir()), "a refused command writes nothing"


@pytest.mark.parametrize("case", ["verb", "keys", "study"])
def test_a_mistake_ends_the_process_with_2(case: str, tmp_path: Path) -> None:
    words, said = MISTAKES[case]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "a refused command writes nothing"


def test_a_checked_command_never_imports_torch() -> None:
    code = (
        "import sys; from unteach.config.compose import compose; from unteach.verbs import "
        "listing\n"
        "compose('unlearn', ['experiment=unlearn/tofu/default', 'task_name=t'])\n"
        "[listing.list_entries(kind) for kind in listing.KINDS]\n"
        "import unteach.cli, unteach.verbs.start_composed, unteach.verbs.start_run, unteach.verbs.study\n"
        "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'matplotlib', 'plotly'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_libraries_say_for_being_installed_is_not_heard() -> None:
    """DeepSpeed sets its logger up anew on import, which must not bring its voice back; all else it
    says is heard."""
    code = (
        "import importlib.util; from unteach.config.environment import prepare_environment; prepare_environment(); "
        "prepare_environment()\n"
        "import logging; told = logging.getLogger('DeepSpeed'); "
        "told.addHandler(logging.StreamHandler())\n"
        "told.warning('Setting accelerator to CPU. If you have GPU'); told.warning('overflow')\n"
        "[__import__(name) for name in ('bitsandbytes', 'deepspeed') if "
        "importlib.util.find_spec(name)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "overflow\n")


def test_help_imports_next_to_nothing() -> None:
    code = (
        "import sys, unteach.cli; unteach.cli.main(['--help']); assert not {'hydra', 'yaml'} & "
        "set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(
        verb in done.stdout for verb in ("train", "unlearn", "eval", "study", "demo", "list")
    )


@pytest.mark.parametrize(
    "kind", ["methods", "metrics", "datasets", "models", "suites", "experiments"]
)
def test_list(kind: str) -> None:
    done = run("list", kind)
    assert done.returncode == 0
    entries = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert entries
    assert all(line.endswith("]") for line in entries), (
        "every entry is one line that ends with its origin"
    )
