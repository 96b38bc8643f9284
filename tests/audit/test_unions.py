"""Attacks that each bring out a little: together they are held against the controls too."""

import random
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from unteach.audits.attacks.base import AUDITED, RETAIN, AuditContext
from unteach.audits.attacks.clean import Clean
from unteach.audits.battery import Findings
from unteach.audits.candidates import Candidates
from unteach.audits.facts import Fact
from unteach.audits.judge_model import judge_model
from unteach.audits.probes import Finding
from unteach.audits.verdict import SIGNIFICANT, Verdict
from unteach.data.template import Template

NUM_FACTS, NUM_CANDIDATES, NUM_ATTACKS = 40, 16, 10
CHANCE = 0.05
ATTACKS = {f"attack {number}": Clean() for number in range(NUM_ATTACKS)}


@pytest.fixture(scope="module")
def template(tiny_folder: Path) -> Template:
    return Template(AutoTokenizer.from_pretrained(tiny_folder))


def build_context(template: Template, are_alike: bool, num_unseen: int) -> AuditContext:
    facts = []
    for index in range(NUM_FACTS + num_unseen):
        unseen = index >= NUM_FACTS
        facts.append(Fact(index, f"line {index}", "Who?", "Bo.", "Bo", never_seen=unseen))
    candidates = Candidates(("Bo",) * NUM_CANDIDATES, (), "kind", (1,) * NUM_CANDIDATES, are_alike)
    return AuditContext(facts, [candidates] * len(facts), [], template, seed=0)


def draw(rng: random.Random, facts: Iterable[int], leaking: Collection[int] = ()) -> Findings:
    """Draw which candidates come out of facts by chance; of some the true one does."""
    found = {}
    for index in facts:
        hits = [rng.random() < CHANCE for _ in range(NUM_CANDIDATES)]
        found[index] = Finding(index, (hits[0] or index in leaking, *hits[1:]))
    return found


def judge(template: Template, seed: int, num_leaks: int, control: str) -> Verdict:
    """Judge attacks that each bring out some facts, and no two of them the same."""
    rng = random.Random(seed)
    num_unseen = NUM_FACTS if control == "unseen" else 0
    context = build_context(template, control == "wrong", num_unseen)
    audited, everything = range(NUM_FACTS), range(NUM_FACTS + num_unseen)
    findings: dict[str, dict[str, Findings]] = {AUDITED: {}}
    if control == "retain":
        findings[RETAIN] = {name: draw(rng, audited) for name in ATTACKS}
    for number, name in enumerate(ATTACKS):
        leaking = range(num_leaks * number, num_leaks * (number + 1))
        findings[AUDITED][name] = draw(rng, everything, leaking)
    return judge_model(ATTACKS, context, findings, context.audited)


@pytest.mark.parametrize("control", ["wrong", "unseen", "retain"])
def test_many_little_leaks_are_one(template: Template, control: str) -> None:
    """Ten attacks that each bring out three facts of forty bring out most."""
    verdict = judge(template, 0, 3, control)
    assert verdict.leaks and not verdict.leaking_attacks
    assert verdict.p_value_worst is not None and verdict.p_value_worst < SIGNIFICANT
    assert verdict.sentence.startswith("leaks: no attack alone, but all together brought out")


@pytest.mark.parametrize("control", ["wrong", "unseen", "retain"])
def test_a_model_that_never_saw_the_facts_is_rarely_flagged(
    template: Template, control: str
) -> None:
    flagged = sum(judge(template, seed, 0, control).leaks for seed in range(60))
    assert flagged <= 5


def test_one_attack_is_no_union(template: Template) -> None:
    context = build_context(template, are_alike=True, num_unseen=0)
    findings = {AUDITED: {"attack 0": draw(random.Random(0), range(NUM_FACTS), range(20))}}
    verdict = judge_model(ATTACKS, context, findings, context.audited)
    assert verdict.leaking_attacks == ["attack 0"] and verdict.p_value_worst is None
