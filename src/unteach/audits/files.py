"""What an audit writes: every finding, and what they amount to."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from unteach import atomic, fingerprints, run_dir
from unteach.audits.attacks.base import AUDITED, TrainingAttack
from unteach.audits.battery import LESSON, Findings, find_attack
from unteach.audits.evidence import Evidence
from unteach.audits.held_back import find_held_back
from unteach.audits.leak_at_k import compute_leak_at_k
from unteach.audits.leak_rates import compute_rates
from unteach.audits.probes import Finding
from unteach.audits.redaction import Redactor
from unteach.audits.scores import summarize_scores
from unteach.audits.session import AuditPlan, AuditResult
from unteach.config.audits import WORST, FailIf
from unteach.config.schema import PATH
from unteach.errors import UserError

FINDINGS, SUMMARY = run_dir.AUDIT_FINDINGS, run_dir.AUDIT_SUMMARY
TEXTS = (
    "question",
    "answer",
    "value",
    "entity",
    "paraphrases",
    "earlier",
    "document",
    "candidates",
    "text",
)
"""What of a fact or a finding is redacted."""


def write_audit(
    folder: Path,
    plan: AuditPlan,
    result: AuditResult,
    condition: FailIf | None,
    evidence: Evidence,
    redactor: Redactor | None,
) -> None:
    """Write the files of an audit, each whole or not at all; the summary last.

    Args:
        condition: what must not hold; None: nothing.
        evidence: writes the statement about the summary, where it can.
        redactor: redacts what is of the rows; None: nothing is.
    """
    atomic.write_json(folder / FINDINGS, build_record(plan, result, redactor))
    summary = build_summary(plan, result)
    summary["fail_if"] = None
    if condition is not None:
        rate = find_rate(result, condition.name)
        summary["fail_if"] = {**asdict(condition), "rate": rate, "is_met": condition.is_met(rate)}
    if redactor is not None:
        summary["redaction_key_id"] = redactor.key_id
        summary["facts_sha256"] = redactor.redact_text(summary["facts_sha256"])
    if not evidence.reason:
        evidence.write(folder, summary)
    atomic.write_json(folder / SUMMARY, summary)


def build_record(
    plan: AuditPlan, result: AuditResult, redactor: Redactor | None = None
) -> dict[str, Any]:
    """Give every fact with what each attack brought out of each model."""
    unknown = {fact.index for fact in result.unknown}
    facts = []
    for fact, candidates in zip(plan.context.facts, plan.context.candidates, strict=True):
        entry = {
            **asdict(fact),
            "candidates": list(candidates.values),
            "candidates_by": candidates.source,
            "known_to_original": fact.index not in unknown,
        }
        facts.append(_redact(entry, redactor))
    findings: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for part, by_attack in result.findings.items():
        findings[part] = {}
        for name, found in by_attack.items():
            entries = [_redact(asdict(finding), redactor) for _, finding in sorted(found.items())]
            findings[part][name] = entries
    scores = {
        name: {str(index): score for index, score in found.items()}
        for name, found in result.scores.items()
    }
    return {"facts": facts, "findings": findings, "scores": scores}


def _redact(entry: dict[str, Any], redactor: Redactor | None) -> dict[str, Any]:
    """Redact the texts of a fact or a finding."""
    if redactor is None:
        return entry
    redacted = {name: redactor.redact(value) for name, value in entry.items() if name in TEXTS}
    return {**entry, **redacted}


def build_summary(plan: AuditPlan, result: AuditResult) -> dict[str, Any]:
    """Give the verdict, what was not tested and why, and which models stood beside the audited
    one."""
    verdict = result.verdict.to_json()
    unknown = {fact.index for fact in result.unknown}
    known = {fact.index: fact for fact in plan.context.audited if fact.index not in unknown}
    trainings = _list_trainings(plan)
    for name, attack in result.verdict.attacks.items():
        entry = verdict["attacks"][name]
        entry["rate"] = attack.rate
        if name in trainings:
            entry["training"] = trainings[name]
        beside = {}
        for part, by_attack in result.findings.items():
            findings = by_attack.get(name, {})
            found = {index: findings[index] for index in findings if index in known}
            if part == AUDITED:
                entry |= _describe_samples(found)
            elif found:
                rates = asdict(compute_rates(name, found, known))
                beside[part] = {**rates, **_describe_samples(found)}
        if beside:
            entry["beside"] = beside
    judged = list(known.values())
    scores = {
        name: asdict(summarize_scores(name, found, judged)) for name, found in result.scores.items()
    }
    return {
        **verdict,
        "scores": scores,
        "num_facts": len(judged),
        "num_never_seen": len(plan.context.never_seen),
        "unknown_facts": [fact.place for fact in result.unknown],
        "absent": dict(plan.battery.absent),
        "held_back": asdict(find_held_back(plan, result)),
        "models": {part: str(model.model_args.get(PATH)) for part, model in plan.models.items()},
        "backend": plan.backend,
        "unanswered": {part: len(reasons) for part, reasons in result.unanswered.items()},
        "seed": plan.context.seed,
        "facts_sha256": fingerprints.hash_value(
            [(fact.question, fact.answer, *fact.earlier) for fact in plan.context.audited]
        ),
        "configured": {name: _describe(name, plan) for name in plan.battery.attacks},
    }


def _list_trainings(plan: AuditPlan) -> dict[str, dict[str, Any]]:
    """List what each look at a training of an attack was, by what its findings are called."""
    trainings = {}
    for name, attack in plan.battery.attacks.items():
        if isinstance(attack, TrainingAttack):
            for lesson in attack.write_lessons(plan.context):
                for steps in lesson.looks:
                    trainings[f"{name}{LESSON}{lesson.label_look(steps)}"] = {
                        "attack": name,
                        "learning_rate": lesson.learning_rate,
                        "steps": steps,
                    }
    return trainings


def _describe_samples(findings: Findings) -> dict[str, Any]:
    """Give the curve of an attack that draws samples; nothing of any other."""
    curve = compute_leak_curve(list(findings.values()))
    return {"leak_at_k": curve} if curve else {}


def compute_leak_curve(findings: Sequence[Finding]) -> dict[str, dict[str, float]]:
    """Compute leak@k for k = 1, 2, 4, … up to the samples of a fact: the mean over facts, of the
    true values and of wrong ones. Empty for an attack that draws no samples."""
    sampled = [finding for finding in findings if finding.counts]
    if not sampled:
        return {}
    num_samples = max(finding.num_samples for finding in sampled)
    curve = {}
    for k in takewhile(lambda k: k <= num_samples, (2**power for power in count())):
        true, wrong = [], []
        for finding in sampled:
            leaks = [compute_leak_at_k(finding.num_samples, hits, k) for hits in finding.counts]
            true.append(leaks[0])
            wrong += leaks[1:]
        curve[str(k)] = {"true": fmean(true), "wrong": fmean(wrong) if wrong else 0.0}
    return curve


def _describe(name: str, plan: AuditPlan) -> dict[str, Any]:
    attack: Any = plan.battery.attacks[name]
    described = {"attack": type(attack).__name__, **asdict(attack)}
    if isinstance(attack, TrainingAttack):
        described["taught"] = attack.describe_taught(plan.context)
    return described


def find_rate(result: AuditResult, name: str) -> float:
    """Find the share that a condition bounds: of an attack, of its trainings the worst; or of the
    worst case, what is more than its control.

    Raises:
        UserError: the attack was not run.
    """
    if name == WORST:
        return result.verdict.excess
    rates = [
        attack.rate
        for label, attack in result.verdict.attacks.items()
        if find_attack(label) == name
    ]
    if not rates:
        raise UserError(f"audit.fail_if: {name} was not run; `unteach check audit` says why")
    return max(rates)
