"""Whatever is written on a command line, composing it gives a Config or one UserError: never
another exception."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unteach.config import compose, groups
from unteach.config.schema import RunConfig
from unteach.config.tree import to_yaml
from unteach.errors import UserError

PRIMARY = {
    "unlearn": "unlearn",
    "finetune": "train",
    "pretrain": "train",
    "eval": "eval",
    "audit": "audit",
}
EXPERIMENTS = groups.list_options("experiment")
AUTO = ["model=auto", "model.model_args.pretrained_model_name_or_path=m"]
TINY = ["model=tiny"]

PLAIN = [
    "null",
    "true",
    "False",
    "0",
    "1",
    "-1",
    "2.5",
    "-0.5",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "99999999999999999999",
    "1e-320",
    "''",
    '""',
    "abc",
    "'a b'",
    "no",
    "epoch",
    "steps",
    "cosine",
    "adamw_torch",
    "None",
    "???",
    "'???'",
    "_self_",
    "forget05",
    "[]",
    "[1,2]",
    "[null]",
    "[[]]",
    "{}",
    "{a:1}",
    "{a:{b:[1]}}",
    "{1:2}",
    "[{handler:NPO}]",
    "é",
    "名前",
    "'\u202e'",
    "🙂",
    "/",
    ".",
    "..",
    "/dev/null",
    "a/b/c",
    "'{'",
    "\\n",
    "x=y",
    "null.yaml",
    "@x",
    "~",
    "!!python/name:os.system",
    "${",
    "$",
    "'\\''",
]
INTERPOLATED = [
    "${seed}",
    "${nothing}",
    "${nothing.at.all}",
    "${task_name}",
    "${.x}",
    "${..x}",
    "${...}",
    "${}",
    "${eval}",
    "${eval.tofu}",
    "${trainer}",
    "${trainer.args}",
    "${partner:retain,forget05}",
    "${partner:retain}",
    "${partner:a,b}",
    "${partner:retain,1}",
    "${nosuch:1}",
    "${oc.env:UNTEACH_NOT_SET}",
    "${oc.env:HOME}",
    "${oc.env:UNTEACH_NOT_SET,null}",
    "${oc.decode:'['}",
    "${${seed}}",
    "a${seed}b",
    "a${trainer}b",
    "${trainer.args.learning_rate}",
    "${hydra:run.dir}",
    "${model.model_args}",
    "${oc.create:{a:1}}",
    "${oc.select:nothing,5}",
    "${oc.dict.keys:seed}",
    "${now:%Y}",
]
BROKEN = [
    "",
    "=",
    "=1",
    "a",
    "a=",
    "~",
    "+",
    "++",
    "~~a",
    "a==1",
    "'",
    '"',
    "task_name='x",
    'task_name="x',
    "a=[1",
    "a={b:1",
    "a=}",
    "a.=1",
    ".a=1",
    "a..b=1",
    "a.b.=1",
    "experiment",
    "experiment=",
    "experiment=null",
    "experiment=[]",
    "experiment={a:1}",
    "experiment=../x",
    "experiment=/etc/passwd",
    "trainer=",
    "trainer=null",
    "trainer={handler:NPO}",
    "trainer=[NPO]",
    "trainer=1",
    "model=null",
    "model=[auto]",
    "model={}",
    "model=5",
    "data=null",
    "data=[]",
    "data={}",
    "data=unlearn",
    "data=nothing",
    "eval=[]",
    "eval=[tofu,tofu]",
    "eval=[tofu,nothing]",
    "eval={}",
    "eval=[null]",
    "eval=''",
    "eval=1",
    "collator=null",
    "paths=null",
    "paths=nothing",
    "data.forget=null",
    "data.forget=nothing",
    "data.forget=5",
    "data.forget=[TOFU_QA_forget]",
    "data.forget={a:1}",
    "data.forget.TOFU_QA_forget=null",
    "data.anchor=nothing",
    "data.anchor=null",
    "data.anchor=[1]",
    "data.new=TOFU_QA_forget",
    "data.=TOFU_QA_forget",
    "data.train=''",
    "hydra.run.dir=x",
    "hydra/launcher=x",
    "a/b=c",
    "a@b=c",
    "/model=auto",
    "model@x=auto",
    "+model=auto",
    "++seed=1",
    "+new=1",
    "+a.b.c=1",
    "~model",
    "~data",
    "~eval",
    "~paths",
    "~trainer",
    "~trainer.args",
    "~trainer.handler",
    "~data.forget",
    "~eval.tofu.define",
    "~collator",
    "~mode",
    "~task_name",
    "~seed",
    "~resume",
    "~plugins",
    "~layers",
    "~experiment",
    "~nothing",
    "~a.b.c",
    "~seed.x",
    "~eval=tofu",
    "~model.model_args",
    "seed=1,2",
    "seed=range(3)",
    "seed=choice(1,2)",
    "seed=glob(*)",
    "layers=null",
    "layers=5",
    "layers.base=5",
    "layers.common=[1]",
    "layers.tuned=1",
    "layers.checkpoints=3",
    "layers.common.args=1",
    "mode=5",
    "mode=null",
    "template=abc",
    "template=5",
    "template=[1]",
    "compat=true",
    "compat=abc",
    "compat=openunlearning",
    "plugins=x.py",
    "plugins=5",
    "plugins=[5]",
    "plugins=null",
    "plugins=[null]",
    "plugins={}",
    "plugins=[nothing.py]",
    "plugins=[/]",
    "plugins=['']",
    "plugins=[README.md]",
    "plugins=[[]]",
    "plugins=[é.py]",
    "resume=5",
    "resume=null",
    "resume=''",
    "resume=[a]",
    "trainer.args=null",
    "trainer.args=5",
    "trainer.args=[1]",
    "trainer.method_args=null",
    "trainer.method_args=5",
    "trainer.method_args=[1]",
    "trainer.handler=5",
    "trainer.handler=null",
    "trainer.handler=[a]",
    "trainer.handler=''",
    "model.model_args=5",
    "model.model_args=[1]",
    "model.template_args=5",
    "model.template_args=null",
    "model.template_args=[x]",
    "model.tokenizer_args=5",
    "model.model_handler=5",
    "model.pure_bf16=5",
    "eval.tofu=null",
    "eval.tofu=5",
    "eval.tofu=[1]",
    "eval.tofu.define=5",
    "eval.tofu.define.x=5",
    "eval.tofu.define.x=null",
    "eval.tofu.define.x={metric:5}",
    "eval.tofu.define.x={metric:null}",
    "eval.tofu.define.x={}",
    "eval.tofu.define.x={metric:[a]}",
    "eval.tofu.define.x={metric:rouge}",
    "eval.tofu.metrics=5",
    "eval.tofu.metrics=null",
    "eval.tofu.metrics=[5]",
    "eval.tofu.metrics=[[a]]",
    "eval.tofu.metrics={}",
    "eval.tofu.metrics=[null]",
    "eval.tofu.rows=5",
    "eval.tofu.rows.forget=5",
    "eval.tofu.rows.forget=null",
    "eval.tofu.rows={}",
    "eval.new.suite=tofu",
    "eval.x=5",
    "eval=5",
    "data.forget.TOFU_QA_forget.args=5",
    "data.forget.TOFU_QA_forget.args=null",
    "data.forget.TOFU_QA_forget.handler=5",
    "data.forget.TOFU_QA_forget.handler=null",
    "data.forget.TOFU_QA_forget.handler=[x]",
    "data.forget.TOFU_QA_forget.handler=Nothing",
    "data.forget.x.handler=QADataset",
    "collator.x=5",
    "collator={}",
    "collator.x.handler=a",
    "paths.output_dir=5",
    "paths.output_dir=null",
    "paths.output_dir=''",
    "paths.nothing=1",
    "paths=5",
    "trainer.args.seed=null",
    "trainer.args.seed=abc",
    "trainer.args.resume_from_checkpoint=5",
    "trainer.args.resume_from_checkpoint=[x]",
    "trainer.args.resume_from_checkpoint={}",
    "trainer.args.metric_for_best_model=5",
    "trainer.args.metric_for_best_model=[a]",
    "trainer.args.load_best_model_at_end=true",
    "trainer.args.early_stopping_patience=0",
    "trainer.args.5=5",
    "5=5",
    "5.5=5",
    "null=1",
    "true=1",
    "seed.x=1",
    "task_name.x.y=1",
    "trainer.handler.x=1",
    "model.model_args.dtype.x=1",
    "eval.tofu.metrics.x=1",
    "eval.tofu.metrics.0=forget_Q_A_Prob",
    "eval.tofu.default.0=x",
    "plugins.0=x.py",
    "forget_split=5",
    "forget_split=null",
    "forget_split=[]",
    "forget_split={}",
    "retain_split=null",
    "data_split=5",
    "retain_logs_path=5",
    "tofu_path=5",
    "question_key=5",
    "trainer.method_args.loss_names=5",
    "trainer.method_args.5=1",
    "config_name=x",
    "--x=1",
    "a b=1",
    "é=1",
    "a\x00b=1",
    "a=\x00",
    "a=\n",
]
"""Words that are wrong, or nearly so, in ways of their own."""


def base(experiment: str) -> tuple[str, ...]:
    own = TINY if "authors" in experiment or "people" in experiment else AUTO
    return (f"experiment={experiment}", "task_name=t", *own)


@functools.cache
def keys_of(experiment: str) -> list[str]:
    """Every dotted key of an experiment's resolved tree, leaves and mappings alike."""

    def walk(node: Any, path: str) -> Iterator[str]:
        for name, item in node.items():
            yield (dist := f"{path}.{name}" if path else str(name))
            if isinstance(item, dict):
                yield from walk(item, dist)

    return sorted(
        walk(compose.compose(PRIMARY[experiment.split("/")[0]], base(experiment)).tree, "")
    )


@st.composite
def misspelled(draw: Any, word: str) -> str:
    where = draw(st.integers(0, max(0, len(word) - 1)))
    put = draw(st.sampled_from(["", "x", ".", "é", "_", word[where : where + 1] * 2, "A"]))
    return word[:where] + put + word[where + 1 :]


@st.composite
def mutated(draw: Any, experiment: str) -> list[str]:
    """The experiment's words with one to three things wrong, or only strange, about them."""
    words = list(base(experiment))
    quoted = st.text(max_size=8).map(
        lambda text: "'" + text.replace("'", "").replace("\\", "") + "'"
    )
    odd = st.sampled_from([*PLAIN, *INTERPOLATED])
    value = odd | odd | quoted | st.integers().map(str) | st.floats().map(str) | st.text(max_size=8)
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(keys_of(experiment)))
        kind = draw(
            st.sampled_from(
                [*["value"] * 5, *["removed", "broken", "key"] * 2, "word", "twice", "junk"]
            )
        )
        if kind == "value":
            words.append(f"{key}={draw(value)}")
        elif kind == "key":
            words.append(f"{draw(misspelled(key))}={draw(value)}")
        elif kind == "word":
            changed = draw(st.integers(0, len(words) - 1))
            words[changed] = draw(misspelled(words[changed]))
        elif kind == "removed":
            words.append(f"~{key}")
        elif kind == "broken":
            words.append(draw(st.sampled_from(BROKEN)))
        elif kind == "twice":
            words += [f"{key}={draw(value)}", f"{key}={draw(value)}"]
        else:
            words.append(draw(st.text(max_size=12)))
    return words


def obeys_the_law(config_name: str, words: list[str], config_dirs: tuple[str, ...] = ()) -> str:
    """Composes; what was said where it was refused."""
    try:
        config = compose.compose(config_name, words, config_dirs)
    except UserError as error:
        said = str(error)
        assert said.strip()
        assert "Traceback" not in said
        return said
    assert isinstance(config, RunConfig)
    assert yaml.safe_load(to_yaml(config.tree)) == config.tree, (
        "the run's folder would be refused the next time"
    )
    return ""


FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
drawn = given(experiment=st.sampled_from(EXPERIMENTS), data=st.data())


def fuzz(experiment: str, data: Any) -> None:
    obeys_the_law(PRIMARY[experiment.split("/")[0]], data.draw(mutated(experiment)))


class TestAnyCommandLine:
    @settings(FUZZ, max_examples=40)
    @drawn
    def test_is_composed_or_refused(self, experiment: str, data: Any) -> None:
        fuzz(experiment, data)

    @pytest.mark.long
    @settings(FUZZ, max_examples=500)
    @drawn
    def test_five_hundred_are(self, experiment: str, data: Any) -> None:
        fuzz(experiment, data)

    def test_with_one_broken_word(self) -> None:
        for word in BROKEN[::6]:
            obeys_the_law("unlearn", [*base("unlearn/tofu/default"), word])


def test_refusing_needs_no_torch() -> None:
    code = (
        "import sys; from tests.config.test_fuzz import BROKEN, base, obeys_the_law\n"
        "for word in BROKEN[::64]: obeys_the_law('unlearn', [*base('unlearn/tofu/default'), "
        "word])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
