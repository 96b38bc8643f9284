"""`unteach help KEY`: what a word is, whatever kind of word it is."""

from pathlib import Path

import pytest

from unteach.config.verb_options import Options
from unteach.editor.keys import KeyTables
from unteach.errors import UserError
from unteach.verbs.start import start


def explain(capsys: pytest.CaptureFixture[str], *words: str, options: Options | None = None) -> str:
    start("help", list(words), options)
    return capsys.readouterr().out


def test_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = explain(capsys, "trainer.args.learning_rate")
    for line in ("takes    number", "default  1e-5", "unlearn", "learning_rate=1e-5"):
        assert line in text
    assert text == explain(capsys, "learning_rate"), "the end of one key"


def test_a_key_that_differs_by_verb_is_said_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = explain(capsys, "budget")
    assert "0.02" in text and "verbs    forget, check forget" in text
    text = explain(capsys, "seed")
    assert "train" in text and "infer" in text


def test_a_key_with_names(capsys: pytest.CaptureFixture[str]) -> None:
    text = explain(capsys, "trainer.args.optim")
    assert "paged_lion_8bit" in text and "adamw_torch_fused" in text


def test_an_old_name_says_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = explain(capsys, "trainer.args.evaluation_strategy")
    assert "is called eval_strategy now" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NPO", ("arXiv:2404.05868", "trainer.method_args.", "beta= number [0.1]", "trainer=NPO")),
        ("finetune", ("unteach train model=MODEL data=my.csv trainer=finetune",)),
        ("forget_quality", ("suite tofu", "better: higher", "ks_test", "Kolmogorov")),
        ("tofu", ("arXiv:2401.06121", "* forget_quality", "eval=tofu")),
        ("rank", ("audit.only=[rank]",)),
        ("unlearn/tofu/default", ("unteach check unlearn experiment=unlearn/tofu/default",)),
        ("eval.mine.max_rows", ("whole number or null",)),
    ],
)
def test_a_name(name: str, said: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = explain(capsys, name)
    assert all(part in text for part in said), text
    assert "yaml-language-server" not in text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("trainer.args.learnign_rate", "trainer.args.learning_rate"),
        ("NPOO", "NPO"),
        ("forget_qualty", "forget_quality"),
        ("trian", "train"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {near}"):
        start("help", [name])


def test_an_unknown_name_that_is_near_nothing() -> None:
    with pytest.raises(UserError, match="unteach list"):
        start("help", ["xyzzy_plugh"])


def test_names_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_method.py").write_text(
        "from dataclasses import dataclass\n"
        "from unteach.methods.unlearn.npo import NPO\n"
        "from unteach.registry import method\n\n"
        '@method("ExplainedOnce", paper="none")\n@dataclass\n'
        'class ExplainedOnce(NPO):\n    """It forgets gently."""\n\n    gentleness: float = 2.0\n',
        encoding="utf-8",
    )
    text = explain(capsys, "ExplainedOnce", f"plugins=[{tmp_path}/my_method.py]")
    assert "It forgets gently." in text and "gentleness= number [2.0]" in text


def test_every_key_of_every_verb_can_be_told() -> None:
    tables = KeyTables()
    for verb, flat in tables.by_verb.items():
        for name in flat.properties:
            key = tables.find(verb, name)
            assert key is not None and key.takes


def write_suite(home: Path, text: str) -> Options:
    """Write a suite of one's own, and give the option that names its folder."""
    file = home / "eval" / "mine.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return Options(config_dirs=(str(home),))


def test_a_metric_without_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = write_suite(tmp_path, "define: {foo: {handler: x}}\n")
    text = explain(capsys, "foo", options=options)
    assert "names no `metric`" in text and "handler=x" in text


@pytest.mark.parametrize(
    ("content", "name", "wrong"),
    [
        ("define: {foo: {metric: ks_test}}\ndescribe: {foo: {meening: x}}", "foo", "meening"),
        ("define: {foo: {metric: ks_test}}\ndescribe: {foo: text}", "foo", "describe.foo"),
        ("define: {foo: {metric: ks_test}}\ndescribe: {foo: text}", "mine", "describe.foo"),
        ("- foo", "seed", "must be a mapping"),
        ("- foo", "xyzzy_plugh", "must be a mapping"),
        ("define: [foo]", "seed", "define: must be a mapping"),
        ("define: {foo: {metric: ks_test}}\ntasks: 3", "foo", "tasks: must be a list"),
    ],
)
def test_a_slip_in_a_suite_of_ones_own(content: str, name: str, wrong: str, tmp_path: Path) -> None:
    options = write_suite(tmp_path, content)
    with pytest.raises(UserError) as caught:
        start("help", [name], options)
    assert "mine.yaml" in str(caught.value) and wrong in str(caught.value)


def test_a_suite_that_stands_on_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = write_suite(tmp_path, "defaults: [mine, tofu]\n")
    assert "eval=mine" in explain(capsys, "mine", options=options)


def test_a_schema_names_the_suite_that_is_no_mapping(tmp_path: Path) -> None:
    options = write_suite(tmp_path, "- foo\n")
    with pytest.raises(UserError, match=r"mine\.yaml: must be a mapping"):
        start("schema", ["run"], options)
