"""Runs attacks on one model: what several of them ask is asked once, in one pass of each kind."""

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from unteach import fingerprints
from unteach.audits.answer_tokens import count_shared_tokens
from unteach.audits.attacks.base import (
    Attack,
    AuditContext,
    InsideAttack,
    ScoreAttack,
    TrainingAttack,
    WeightAttack,
)
from unteach.audits.audited_model import AuditedModel
from unteach.audits.lessons import Teach
from unteach.audits.probes import (
    Finding,
    LogProbs,
    Outcome,
    Probe,
    RankProbe,
    SampleProbe,
    TextProbe,
    Texts,
)
from unteach.audits.taught_copy import Course, TaughtCopy
from unteach.engines.base import WHOLE_DISTRIBUTION, Engine, Ids, Score
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals.base import Progress
from unteach.models.loading import LoadedModel
from unteach.seeds import derive_seed

Item = TypeVar("Item", bound=Hashable)
Measuring = WeightAttack | TrainingAttack
"""Attacks that have others ask."""

POLITE = "clean"
"""The attack that asks politely."""

ASK_NOTHING = (WeightAttack, TrainingAttack, InsideAttack, ScoreAttack)
"""Attacks that have no probes of their own."""
LESSON = " at "
"""Stands between an attack's name and one of its trainings, where findings are called by both."""
SHORTEST_LIMIT = 48
"""Tokens that a generated answer may have at least: a model may say other words first."""
LONGEST_ANSWER = 64
"""Tokens of a generated answer at most."""
MORE_THAN_ANSWER = 10
"""Tokens that a generated answer may have beyond those of the longest true one."""

Findings = dict[int, Finding]
"""Of one attack, by the number of the fact."""


@dataclass(frozen=True)
class BatteryPlan:
    """Which attacks run, and what each asks.

    Attributes:
        attacks: by name.
        probes: of each, in order; none of those that have others ask.
        absent: of each attack that cannot be run, why.
    """

    attacks: Mapping[str, Attack]
    probes: Mapping[str, Sequence[Probe]]
    absent: Mapping[str, str]

    @property
    def num_asked(self) -> int:
        """How many probes the attacks have, each by itself."""
        return sum(map(len, self.probes.values()))

    @property
    def num_distinct(self) -> int:
        """How many of them differ, which is what the model is asked."""
        requests: set[object] = set()
        for probes in self.probes.values():
            requests.update(map(_identify_request, probes))
        return len(requests)


def plan_battery(
    attacks: Mapping[str, Attack], context: AuditContext, empty: LoadedModel
) -> BatteryPlan:
    """Have each attack say what it asks, or why it cannot be run.

    Args:
        empty: the audited model without its weights.
    """
    kept: dict[str, Attack] = {}
    probes: dict[str, list[Probe]] = {}
    absent: dict[str, str] = {}
    for name, attack in attacks.items():
        fault = _find_form_fault(attack, context)
        fault = fault or attack.find_fault(context) or attack.find_model_fault(empty)
        if fault:
            absent[name] = fault
            continue
        kept[name] = attack
        if not isinstance(attack, ASK_NOTHING):
            probes[name] = attack.write_probes(context)
    for name, attack in list(kept.items()):
        if isinstance(attack, Measuring):
            attack = kept[name] = _ask_documents(attack, context, probes)
            missing = [asking for asking in attack.measured if asking not in probes]
            if missing:
                absent[name] = f"it asks by {', '.join(missing)}, which is not among the attacks"
                del kept[name]
    return BatteryPlan(kept, probes, absent)


def _find_form_fault(attack: Attack, context: AuditContext) -> str:
    """Say that an attack cannot ask for documents; empty: it can, or the facts are none."""
    has_documents = any(fact.is_document for fact in context.facts)
    if has_documents and not attack.ASKS_DOCUMENTS:
        return "it asks questions, and a document is text that goes on"
    return ""


def _ask_documents(
    attack: Measuring, context: AuditContext, probes: Mapping[str, Sequence[Probe]]
) -> Measuring:
    """Have documents asked for as they are where none of an attack's own askers can: those without
    values are not ranked."""
    has_documents = any(fact.is_document for fact in context.facts)
    asking = [name for name in attack.measured if name in probes]
    if not has_documents or POLITE not in probes or len(asking) == len(attack.measured):
        return attack
    changed = copy.copy(attack)
    changed.measured = asking or [POLITE]
    return changed


def run_battery(
    plan: BatteryPlan,
    context: AuditContext,
    model: AuditedModel,
    progress: Progress,
    teach: Teach,
) -> dict[str, Findings]:
    """Run all attacks of a plan on a model; its weights are at the end what they were.

    Args:
        progress: shows each pass.
        teach: trains copies of the model.

    Returns:
        The findings by attack; of one that trains, by attack and training.
    """
    everything = [probe for probes in plan.probes.values() for probe in probes]
    with model.open_engine() as engine:
        unchanged = answer_probes(everything, context, engine, progress)
    findings: dict[str, Findings] = {}
    for name, probes in plan.probes.items():
        answered = [(probe, unchanged[probe]) for probe in probes]
        findings[name] = plan.attacks[name].judge(context, answered)

    for name, attack in plan.attacks.items():
        if not isinstance(attack, InsideAttack) or attack.find_model_fault(model.empty):
            continue
        show = functools.partial(show_pass, progress, name)
        with name_attack_in_errors(name), model.open_engine() as engine:
            assert isinstance(engine, HFEngine), "only a model in this process is read inside"
            findings[name] = attack.look_inside(context, engine, show)

    for name, attack in plan.attacks.items():
        if not isinstance(attack, WeightAttack):
            continue
        asked = [probe for asking in attack.measured for probe in plan.probes[asking]]
        outcomes: Mapping[Probe, Outcome] = unchanged
        if not attack.find_model_fault(model.empty):
            with model.open_engine(_label_change(attack), attack.change) as engine:
                outcomes = answer_probes(asked, context, engine, progress, f"{name}: ")
        elif not attack.TAKES_AWAY:
            continue
        answered = [(probe, outcomes[probe]) for probe in asked]
        findings[name] = attack.judge(context, answered)

    # Copies that are trained come last, when the model itself is not needed any more.
    model.release()
    for name, attack in plan.attacks.items():
        if isinstance(attack, TrainingAttack) and not attack.find_model_fault(model.empty):
            findings |= _run_lessons(name, attack, plan, context, model, progress, teach)
    return findings


def _label_change(attack: WeightAttack) -> str:
    """Label weights that an attack changed: by its fields, and by the file that it is written in,
    so that an edited one finds no old numbers. What that file imports is not looked at."""
    file = getattr(sys.modules.get(type(attack).__module__), "__file__", None)
    digest = fingerprints.hash_files(Path(file)) if file else ""
    return f"{attack} {digest}"


@contextlib.contextmanager
def name_attack_in_errors(name: str) -> Iterator[None]:
    """Have what stops an attack say how the others go on without it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error} (audit.attacks.{name}=null leaves it out)") from None


def show_pass(progress: Progress, name: str, what: str, total: int) -> Callable[[int], None]:
    """Show a pass with the name of the attack, or the part of the model, that makes it."""
    return progress(f"{name}: {what}", total)


def _run_lessons(
    name: str,
    attack: TrainingAttack,
    plan: BatteryPlan,
    context: AuditContext,
    model: AuditedModel,
    progress: Progress,
    teach: Teach,
) -> dict[str, Findings]:
    """Give the lessons of an attack, one after the other, and ask at each of their looks. A lesson
    of which the cache has all that is asked is not given."""
    asked_facts = {fact.index for fact in attack.list_asked(context)}
    asked = []
    for asking in attack.measured:
        asked += [probe for probe in plan.probes[asking] if probe.fact in asked_facts]
    findings = {}
    for lesson in attack.write_lessons(context):
        course = Course(model, lesson, teach)
        for steps in lesson.looks:
            label = f"{name}{LESSON}{lesson.label_look(steps)}"
            copy = TaughtCopy.build(course, steps)
            with copy.open_engine() as engine:
                outcomes = answer_probes(asked, context, engine, progress, f"{label}: ")
            answered = [(probe, outcomes[probe]) for probe in asked]
            findings[label] = attack.judge(context, answered)
    return findings


def find_attack(label: str) -> str:
    """Find the name of the attack that findings are of: of one that trains, without its
    training."""
    return label.partition(LESSON)[0]


def answer_probes(
    probes: Sequence[Probe],
    context: AuditContext,
    engine: Engine,
    progress: Progress,
    label: str = "",
) -> dict[Probe, Outcome]:
    """Have a model answer probes: what it is asked twice it answers once.

    Args:
        label: what is shown before the name of a pass.
    """
    outcomes: dict[Probe, Outcome] = {}
    limit = limit_answers(context)

    # The likeliest continuation of each prompt.
    prompts = _list_distinct(probe.prompt for probe in probes if isinstance(probe, TextProbe))
    if prompts:
        advance = progress(f"{label}generating", len(prompts))
        generated = engine.generate(prompts, limit, advance)
        said = {
            prompt: context.template.decode(ids).strip()
            for prompt, ids in zip(prompts, generated, strict=True)
        }
        for probe in probes:
            if isinstance(probe, TextProbe):
                outcomes[probe] = Texts((said[probe.prompt],))

    # Samples.
    sampled = [probe for probe in probes if isinstance(probe, SampleProbe)]
    if sampled:
        drawn = _draw_samples(sampled, context, engine, limit, progress, label)
        outcomes.update(drawn)

    # The candidates of each prompt.
    ranked = [probe for probe in probes if isinstance(probe, RankProbe)]
    pairs = _list_distinct(
        (probe.prompt, continuation) for probe in ranked for continuation in probe.continuations
    )
    if pairs:
        advance = progress(f"{label}scoring", len(pairs))
        scores = dict(zip(pairs, engine.score(pairs, advance), strict=True))
        for probe in ranked:
            of_probe = [scores[probe.prompt, ids] for ids in probe.continuations]
            outcomes[probe] = _sum_scores(of_probe, count_shared_tokens(probe.continuations))
    return outcomes


def _draw_samples(
    probes: Sequence[SampleProbe],
    context: AuditContext,
    engine: Engine,
    limit: int,
    progress: Progress,
    label: str,
) -> dict[Probe, Outcome]:
    prompts = _list_distinct(probe.prompt for probe in probes)
    most = max(probe.count for probe in probes)
    advance = progress(f"{label}sampling", len(prompts))
    seed = derive_seed(context.seed, "samples")
    drawn = engine.sample(prompts, most, limit, seed, advance, **WHOLE_DISTRIBUTION)
    texts: dict[Ids, list[str]] = {}
    for prompt, samples in zip(prompts, drawn, strict=True):
        texts[prompt] = [context.template.decode(ids).strip() for ids in samples]
    return {probe: Texts(tuple(texts[probe.prompt][: probe.count])) for probe in probes}


def limit_answers(context: AuditContext) -> int:
    """How many tokens a generated answer may have."""
    encode = context.template.encode_words
    longest = max(len(encode(fact.answer)) for fact in context.facts)
    return max(SHORTEST_LIMIT, min(longest, LONGEST_ANSWER) + MORE_THAN_ANSWER)


def _sum_scores(scores: Sequence[Score], num_shared: int) -> LogProbs:
    sums = tuple(float(np.sum(score.logprob, dtype=np.float64)) for score in scores)
    means = tuple(float(score.logprob[num_shared:].mean()) for score in scores)
    return LogProbs(sums, means)


def _list_distinct(items: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(items))


def _identify_request(probe: Probe) -> object:
    """What a model is asked by a probe, without the fact that it is about."""
    match probe:
        case TextProbe():
            return probe.prompt
        case SampleProbe():
            return probe.prompt, probe.count
        case RankProbe():
            return probe.prompt, probe.continuations
