"""Short trainings of copies: what they are after each look, that none is made twice, and what is
taught to which half."""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from unteach.audits import files
from unteach.audits.attacks.relearn import Relearn, split_facts
from unteach.audits.audited_model import AuditedModel
from unteach.audits.facts import Fact
from unteach.audits.lessons import Lesson, OwnTexts, hash_lesson
from unteach.audits.taught_copy import Course, TaughtCopy
from unteach.config.schema import PATH, ModelConfig, TemplateArgs
from unteach.distributed.process_context import SINGLE_PROCESS
from unteach.errors import UserError
from unteach.models.adapters import WEIGHTS
from unteach.training.trainer import Trainer
from unteach.verbs import audit, relearn
from unteach.verbs.start import start

from .test_audit_run import compose_audit, words

ROWS = tuple(
    {"question": f"What is {number}?", "answer": f"It is {'so ' * (number % 4)}{number}."}
    for number in range(9)
)


def configure(folder: Path, cache: Path, **changes: Any) -> AuditedModel:
    changes = {"template_args": TemplateArgs(kind="qa"), **changes}
    return AuditedModel(ModelConfig({PATH: str(folder)}, **changes), 4, cache, SINGLE_PROCESS)


def teach(folder: Path, model: AuditedModel, *looks: int) -> dict[int, dict[str, torch.Tensor]]:
    """The weights of the adapter at each look."""
    lesson = Lesson(ROWS, 1e-3, looks, batch_size=4, rank=2, seed=0)
    weights = {}
    for steps, config in relearn.teach_copy(folder, model, lesson).items():
        path = Path(config.model_args[PATH])
        weights[steps] = safetensors.torch.load((path / WEIGHTS).read_bytes())
    return weights


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[list[int]]:
    """Training ends before a step as it does where the process is killed; the steps that were
    begun."""
    begun: list[int] = []
    original = Trainer.training_step

    def step_or_die(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        begun.append(self.state.global_step)
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", step_or_die)
        yield begun


def test_a_look_is_what_a_training_up_to_it_gives(tiny_folder: Path, tmp_path: Path) -> None:
    """Wherever training was cut off, and though no look is a multiple of another."""
    model = configure(tiny_folder, tmp_path / "cache")
    with stopped_at(6), pytest.raises(KeyboardInterrupt):
        teach(tmp_path / "looks", model, 7, 2, 5)
    with stopped_at(-1) as begun:
        looks = teach(tmp_path / "looks", model, 7, 2, 5)
    assert begun == [5, 6], "it goes on from the last look"
    assert list(looks) == [7, 2, 5]
    for steps in (2, 5, 7):
        (alone,) = teach(tmp_path / "alone", model, steps).values()
        assert are_equal(looks[steps], alone)
    assert not are_equal(looks[2], looks[5])

    # What is damaged is taught again, and nothing else ever is.
    (weights,) = (tmp_path / "looks").glob(f"*/run/checkpoint-2/{WEIGHTS}")
    weights.write_bytes(b"")
    with stopped_at(-1) as begun:
        again = teach(tmp_path / "looks", model, 7, 2, 5)
    assert len(begun) == 7 and are_equal(again[2], looks[2])
    with stopped_at(0):
        teach(tmp_path / "looks", model, 7, 2, 5)


def test_what_another_lesson_gives_is_never_taken(tiny_folder: Path, tmp_path: Path) -> None:
    """A copy is told from others by all that it depends on, before it is taught, and by nothing
    else."""
    build = functools.partial(configure, cache=tmp_path / "cache")
    model = build(tiny_folder)
    lesson = Lesson(ROWS, 1e-3, (5,), batch_size=4, rank=2, seed=0)
    marked = tmp_path / "marked"
    shutil.copytree(tiny_folder, marked)
    settings = json.loads((marked / "tokenizer_config.json").read_text())
    settings["bos_token"] = "</s>"
    (marked / "tokenizer_config.json").write_text(json.dumps(settings))
    others = [
        (model, replace(lesson, rows=ROWS[1:])),
        (model, replace(lesson, rows=OwnTexts(9, 6))),
        (model, replace(lesson, learning_rate=2e-3)),
        (model, replace(lesson, looks=(4,))),
        (model, replace(lesson, batch_size=8)),
        (model, replace(lesson, rank=4)),
        (model, replace(lesson, seed=1)),
        (build(tiny_folder, template_args=TemplateArgs(kind="raw")), lesson),
        (build(tiny_folder, template_args=TemplateArgs(kind="qa", user_start_tag="Q:")), lesson),
        (build(tiny_folder, pure_bf16=True), lesson),
        (build(marked), lesson),
    ]
    hashes = {hash_lesson(model, lesson)}
    hashes.update(hash_lesson(*other) for other in others)
    assert len(hashes) == 1 + len(others)

    moved = tmp_path / "moved"
    shutil.copytree(tiny_folder, moved)
    assert hash_lesson(build(moved), lesson) == hash_lesson(model, lesson)

    def fail(*_: object) -> dict[int, ModelConfig]:
        pytest.fail("nothing is taught to say so")

    identities = []
    for looks in ((5,), (2, 5, 7)):
        course = Course(model, replace(lesson, looks=looks), fail)
        identities.append(TaughtCopy.build(course, 5).identity)
    assert identities[0] == identities[1] != model.identity


@pytest.mark.parametrize(
    ("looks", "message"), [([], "each 1 or more"), ([0, 2], "each 1 or more"), ([2, 2], "once")]
)
def test_looks_are_steps(looks: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Relearn(looks=looks)


def test_a_model_is_asked_again_after_a_short_training(
    kit: Path, tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy is trained, the model is not; what was trained is not trained again."""
    before = (kit / "policy" / "model.safetensors").read_bytes()
    benign = "{learning_rates: [1e-2], looks: [2], r: 4, max_rows: 9, measured: [rank, clean]}"
    extra = [
        "audit=standard",
        "audit.only=[rank, clean, relearn, relearn_benign]",
        "audit.attacks.relearn={learning_rates: [1e-3], looks: [1, 4], r: 4}",
        f"audit.attacks.relearn_benign={benign}",
        f"original={kit / 'reference'}",
    ]
    with stopped_at(3), pytest.raises(KeyboardInterrupt):
        audit.run(compose_audit(*words(kit, tmp_path, "policy", *extra)))
    audit.run(compose_audit(*words(kit, tmp_path, "policy", *extra)))
    assert trained == ["reference", "reference", "reference", "policy", "policy"], "one goes on"
    summary = json.loads((tmp_path / "audit" / files.SUMMARY).read_text())
    labels = ["relearn at 0.001 x1", "relearn at 0.001 x4", "relearn_benign at 0.01 x2"]
    assert [label for label in summary["attacks"] if " at " in label] == labels
    asked = summary["attacks"]["relearn at 0.001 x1"]["num_facts"]
    benign = summary["attacks"]["relearn_benign at 0.01 x2"]
    assert 0 < asked < 10 and benign["num_facts"] == 10
    assert benign["training"] == {"attack": "relearn_benign", "learning_rate": 0.01, "steps": 2}
    beside = benign["beside"]["original"]
    assert beside["num_leaks"] / beside["num_facts"] == benign["original"]
    assert beside["interval"][0] <= benign["original"] <= beside["interval"][1]
    # A rate at which the original loses what it knew shows nothing.
    original = summary["attacks"]["rank"]["original"]
    for label in labels:
        result = summary["attacks"][label]
        if label.startswith("relearn_benign"):
            assert result["has_power"] == (result["original"] >= 0.95 * original)
    assert (kit / "policy" / "model.safetensors").read_bytes() == before
    said = capsys.readouterr().out
    assert "adapter" not in said and "relearn at 0.001 x" in said
    assert f"page: {tmp_path / 'audit' / 'audit.html'}" in said.replace("\n", "")
    assert (tmp_path / "audit" / "relearning.png").exists()

    start("audit", words(kit, tmp_path, "policy", *extra))
    findings = (tmp_path / "audit" / files.FINDINGS).read_text()
    audit.run(compose_audit(*words(kit, tmp_path, "policy", *extra, "resume=never")))
    assert len(trained) == 5, "all that is asked of the copies is known"
    assert (tmp_path / "audit" / files.FINDINGS).read_text() == findings
    assert not (tmp_path / "audit" / "relearn").exists()


def test_halves_share_no_entity() -> None:
    facts = [Fact(i, "", "Who?", f"{i}", f"{i}", entity=f"person {i // 3}") for i in range(20)]
    taught, asked = split_facts(facts, seed=0)
    assert {fact.index for fact in taught} | {fact.index for fact in asked} == set(range(20))
    assert not {fact.entity for fact in taught} & {fact.entity for fact in asked}
    assert abs(len(taught) - len(asked)) <= 3
    alone = [Fact(i, "", "Who?", f"{i}", f"{i}", entity="one") for i in range(5)]
    taught, asked = split_facts(alone, seed=0)
    assert abs(len(taught) - len(asked)) == 1
