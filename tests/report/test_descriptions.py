"""A metric is described once, in its suite or on its class, and read there by all that shows it."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import unteach
from unteach.config.compose import compose
from unteach.config.hydra_groups import CONFIGS
from unteach.config.metric_descriptions import ExamplesDescription
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_files, suites
from unteach.evals.run import tell_values
from unteach.evals.suite_plan import SuitePlan, build_metric
from unteach.report import distributions, drawing, sections, table, tradeoff
from unteach.report.collect import RunResult, collect
from unteach.report.columns import Column, load_known_columns

SOURCE = Path(unteach.__file__).parent
READERS = ("report", "verbs", "training", "evals")
"""Rooms that show metrics, and know none by its name."""

ENTROPY = {
    "label": "answer entropy",
    "better": "higher",
    "meaning": "how unsure the model is of each token of the true answers",
    "decimals": 2,
}
"""What the example plugin says of its metric on its class."""


def list_metric_names() -> set[str]:
    names: set[str] = set()
    for file in (CONFIGS / "eval").glob("*.yaml"):
        names.update(yaml.safe_load(file.read_text()).get("define", ()))
    return names


def test_no_metric_is_known_by_its_name_where_it_is_shown() -> None:
    names = list_metric_names()
    assert {"forget_quality", "model_utility", "mia_loss", "forget_mean_tr"} <= names
    keyed = []
    for room in READERS:
        for file in (SOURCE / room).rglob("*.py"):
            if file.is_relative_to(SOURCE / "evals" / "metrics"):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and node.value in names:
                    keyed.append(f"{file.relative_to(SOURCE)}:{node.lineno}: {node.value}")
    assert keyed == []


@pytest.fixture
def plugin() -> str:
    example = Path(__file__).parents[2] / "examples/plugin/src/unteach_example/answer_entropy.py"
    return f"plugins=[{example}]"


def compose_tofu(*words: str) -> Any:
    overrides = ["task_name=t", "model=tiny", "tofu_path=authors", *words]
    return compose("eval", overrides).eval["tofu"]


def test_a_class_describes_and_the_suite_has_the_last_word(plugin: str) -> None:
    entropy = [plugin, "eval.tofu.define.entropy={metric: answer_entropy, answers: forget.answer}"]
    description = compose_tofu(*entropy).describe["entropy"]
    assert {name: getattr(description, name) for name in ENTROPY} == ENTROPY
    assert (description.role, description.headline) == (None, None)
    words = [*entropy, "eval.tofu.describe.entropy={better: near retain, role: forget}"]
    description = compose_tofu(*words).describe["entropy"]
    assert (description.label, description.role) == (ENTROPY["label"], "forget")
    assert (description.better, description.decimals) == ("near retain", ENTROPY["decimals"])


BAD = '''
from dataclasses import dataclass

from unteach.evals.metrics.probability import Probability
from unteach.registry import metric


@metric("bad_{name}", {said})
@dataclass
class Bad(Probability):
    """Described wrongly."""
'''


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('better="up"', r"@metric\('bad_0'\)\.better: must be one of higher, lower, near retain"),
        ("decimals='two'", r"@metric\('bad_1'\)\.decimals: must be a whole number, got 'two'"),
        ('beter="lower"', r"@metric\('bad_2'\)\.beter: no such key; did you mean better\?"),
    ],
)
def test_a_bad_description_on_a_class_is_one_error(
    tmp_path: Path, said: str, message: str, request: pytest.FixtureRequest
) -> None:
    name = str(request.node.callspec.indices["said"])
    (tmp_path / f"bad_{name}.py").write_text(BAD.format(said=said, name=name))
    plugin = f"plugins=[{tmp_path / f'bad_{name}.py'}]"
    define = f"eval.tofu.define.mine={{metric: bad_{name}, answers: forget.answer}}"
    with pytest.raises(UserError, match=message):
        compose_tofu(plugin, define)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "privleak={better: up}",
            r"describe\.privleak\.better: must be one of higher, lower, near",
        ),
        ("privleak={axis: {rank: a}}", r"describe\.privleak\.axis\.rank: must be a whole number"),
        (
            "privleak={examples: {show: roc}}",
            r"describe\.privleak\.examples\.show: must be one of answers, truth_ratios, membership",
        ),
    ],
)
def test_a_bad_description_in_a_suite_is_one_error(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_tofu(f"eval.tofu.describe.{words}")


def save(folder: Path, values: dict[str, float], described: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    results = {name: {"agg_value": value, "n": 4, "ci": None} for name, value in values.items()}
    (folder / "TOFU_EVAL.json").write_text(json.dumps(results))
    (folder / "TOFU_SUMMARY.json").write_text(json.dumps(values))
    (folder / "TOFU_METRICS.json").write_text(json.dumps(described))
    return folder


def test_a_plugins_metric_stands_like_ours_and_is_read_without_the_plugin(
    plugin: str, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the headline, on the axes, among the best, in the lines at a run's end; told by the
    results alone."""
    words = [
        plugin,
        "eval.tofu.define.entropy={metric: answer_entropy, answers: forget.answer}",
        "eval.tofu.define.twice={metric: mean_aggregate, of: [entropy, entropy]}",
        "eval.tofu.describe.entropy.role=forget",
        "eval.tofu.describe.twice={label: twice, role: retain, better: lower}",
        "eval.tofu.metrics=[entropy,twice,retain_Q_A_Prob]",
    ]
    config = {"tofu": compose_tofu(*words)}
    engine = HFEngine(tiny.model, tiny.tokenizer, 16)
    (tmp_path / "a").mkdir()
    suites.evaluate(
        config, engine, tiny.template, lambda what, total: lambda done: None, tmp_path / "a"
    )
    capsys.readouterr()
    tell_values(tmp_path / "a", ["tofu"], named=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("entropy =") and line.endswith("(higher)") for line in lines)

    shutil.copytree(tmp_path / "a", tmp_path / "b")
    summary = json.loads((tmp_path / "b/TOFU_SUMMARY.json").read_text())
    worse = {**summary, "entropy": summary["entropy"] / 2, "twice": summary["twice"] / 2}
    (tmp_path / "b/TOFU_SUMMARY.json").write_text(json.dumps(worse))
    runs = collect([(name, "forget", tmp_path / name) for name in ("a", "b")])
    made = table.make_table(runs)
    labels = {column.metric: column.label for column in made.columns}
    assert list(labels.values()) == ["retain prob", "answer entropy", "twice"]
    place = {metric: place for place, metric in enumerate(labels)}
    best = {
        metric: [row.run.name for row in made.rows if row.cells[place[metric]].best]
        for metric in labels
    }
    assert best == {"retain_Q_A_Prob": ["a", "b"], "twice": ["b"], "entropy": ["a"]}
    pairs = [(view.x.metric, view.y.metric) for view in tradeoff.list_views(runs)]
    assert pairs == [("entropy", "retain_Q_A_Prob"), ("entropy", "twice")]
    # Two decimals, as the class says.
    assert made.rows[0].cells[place["entropy"]].text == f"{summary['entropy']:.2f}"


def test_a_metric_of_own_rows_has_the_role_of_its_rows(
    plugin: str,
) -> None:
    words = ["task_name=t", "model=tiny", "eval=rows", plugin]
    words += ["eval.rows.define.entropy={metric: answer_entropy, answers: forget.answer}"]
    config = compose("eval", words).eval["rows"]
    plan = SuitePlan(config, FakeRows(), ["entropy"], {})  # type: ignore[arg-type]
    plan.metrics["entropy"] = build_metric(config, "entropy")
    described = suite_files.describe_metrics(plan)
    assert (described["entropy"]["role"], described["entropy"]["better"]) == ("forget", "higher")
    assert described["holdout_prob"]["better"] == "near before"


class FakeRows:
    own = ("forget",)

    def load_column(self, name: str) -> None:
        return None


def attack(shift: float) -> dict[str, Any]:
    halves = {
        half: {"value_by_index": {str(n): {"score": n + by} for n in range(4)}}
        for half, by in (("forget", 0.0), ("holdout", shift))
    }
    return {**halves, "agg_value": 0.5}


def test_an_attack_and_ratios_of_ones_own_are_drawn_like_ours() -> None:
    described = {
        "peek": Column("peek", "peek", examples=ExamplesDescription("membership", "my attack")),
        "odds": Column("odds", "odds", examples=ExamplesDescription("truth_ratios")),
    }
    ratios = {"agg_value": 1.0, "value_by_index": {"0": {"score": 0.5}, "1": {"score": 2.0}}}
    results = {"peek": attack(1.0), "odds": ratios}
    run = RunResult("a", "forget", Path("a"), {}, results, described=described)
    assert [one.title for one in distributions.collect_attacks([run])] == ["my attack"]
    made = sections.build_sections("OWN", [run], {"a": 0})
    assert [picture.title for picture in made.attacks] == ["my attack"]
    assert len(made.ratios) == 1
    assert "<svg" in drawing.draw_svg(made.attacks[0], drawing.HALF_PAGE, "one")


def test_logs_without_descriptions_are_known_by_the_names_of_their_metrics(tmp_path: Path) -> None:
    """OpenUnlearning's, as it writes them, and ours of before."""
    logs = {"wmdp_bio/acc": 0.3, "mmlu/acc": 0.5, "mmlu_stem/acc": 0.4}
    (tmp_path / "LMEval_EVAL.json").write_text(
        json.dumps({name: {"agg_value": value} for name, value in logs.items()})
    )
    runs = collect([("theirs", "forget", tmp_path)], "LMEval")
    heads = [(column.label, column.better) for column in table.make_table(runs).columns]
    assert heads == [("WMDP bio", "lower"), ("MMLU", "higher")]
    assert len(tradeoff.list_views(runs)) == 1
    known = load_known_columns()
    assert known["forget_quality"].has_p_value_scale and not known["forget_quality"].has_interval
    assert known["forget_quality_2"].decimals == 2 and not known["forget_quality_2"].has_interval
    assert known["mia_zlib"].examples is not None and not known["mia_zlib"].in_headline


def test_what_a_later_version_says_of_a_metric_is_passed_over(tmp_path: Path) -> None:
    described = {"mine": {"label": "mine", "better": "lower", "colour": "red"}}
    save(tmp_path / "run", {"mine": 0.5}, described)
    [run] = collect([("run", "", tmp_path / "run")])
    assert [column.label for column in table.make_table([run]).columns] == ["mine"]


def test_a_report_reads_no_torch(tmp_path: Path) -> None:
    save(tmp_path / "run", {"model_utility": 0.5, "forget_Q_A_Prob": 0.1}, {})
    code = (
        "import sys; from unteach.verbs.start import start; "
        f"start('report', [{str(tmp_path / 'run')!r}, {f'out={tmp_path}/out'!r}]); "
        "print('torch' in sys.modules, 'plotly' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
