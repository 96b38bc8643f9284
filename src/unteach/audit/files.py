"""What an audit writes: every finding, and what they amount to."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from unteach import atomic
from unteach.audit.battery import Findings
from unteach.audit.session import AuditPlan, AuditResult
from unteach.audit.verdict import AttackResult

FINDINGS, SUMMARY = "AUDIT.json", "AUDIT_SUMMARY.json"


def write_audit(folder: Path, plan: AuditPlan, result: AuditResult) -> None:
    """Write the files of an audit, each whole or not at all; the summary last."""
    atomic.write_json(folder / FINDINGS, build_record(plan, result))
    atomic.write_json(folder / SUMMARY, build_summary(plan, result))


def build_record(plan: AuditPlan, result: AuditResult) -> dict[str, Any]:
    """Give every fact with what each attack brought out of each model."""
    unknown = {fact.index for fact in result.unknown}
    facts = []
    for fact, candidates in zip(plan.context.facts, plan.context.candidates, strict=True):
        facts.append(
            {
                **asdict(fact),
                "candidates": list(candidates.values),
                "candidates_by": candidates.source,
                "known_to_original": fact.index not in unknown,
            }
        )
    findings = {}
    for part, by_attack in result.findings.items():
        findings[part] = {name: _list_findings(found) for name, found in by_attack.items()}
    return {"facts": facts, "findings": findings}


def _list_findings(findings: Findings) -> list[dict[str, Any]]:
    return [asdict(finding) for _, finding in sorted(findings.items())]


def build_summary(plan: AuditPlan, result: AuditResult) -> dict[str, Any]:
    """Give the verdict, what was not tested and why, and which models stood beside the audited
    one."""
    verdict = result.verdict.to_json()
    for name, attack in result.verdict.attacks.items():
        verdict["attacks"][name] = {**verdict["attacks"][name], "rate": attack.rate}
    return {
        **verdict,
        "num_facts": len(plan.context.facts) - len(result.unknown),
        "unknown_facts": [fact.place for fact in result.unknown],
        "absent": dict(plan.battery.absent),
        "models": sorted(plan.models),
        "configured": {name: _describe(name, plan) for name in plan.battery.attacks},
    }


def _describe(name: str, plan: AuditPlan) -> dict[str, Any]:
    attack: Any = plan.battery.attacks[name]
    return {"attack": type(attack).__name__, **asdict(attack)}


def find_rate(result: AuditResult, name: str) -> float:
    """Find the share that a condition bounds: of the worst case, or of an attack; 0 of one that was
    not run."""
    attack: AttackResult | None = result.verdict.attacks.get(name)
    if attack is not None:
        return attack.rate
    return result.verdict.worst
