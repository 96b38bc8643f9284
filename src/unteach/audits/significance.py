"""How surprising the findings of one attack are of a model that never saw the facts: by the wrong
answers beside the true ones, and by a control model or control facts."""

from collections.abc import Callable

from unteach.audits import certainty
from unteach.audits.attacks.base import AuditContext
from unteach.audits.battery import Findings
from unteach.audits.probes import Finding


def compute_p_value(
    findings: Findings, retain: Findings, unseen: Findings, context: AuditContext
) -> float | None:
    """Compute how surprising so many leaks are: among candidates that are alike, and against the
    control. The larger counts; None where there is neither.

    Args:
        findings: of the facts that are audited.
        retain: of the same facts, of the retain model; empty without one.
        unseen: of facts that no model was taught; empty without such.
        context: has the candidates.
    """
    hits, weights = [], []
    for index, finding in findings.items():
        candidates = context.candidates[index]
        if candidates.are_alike:
            hits.append(finding.hits)
            weights.append(candidates.weights)
    by_candidates = certainty.compute_exchange_p_value(hits, weights) if hits else None
    return _take_larger(by_candidates, _compare(findings, retain, unseen, lambda one: one.leaks))


def compute_last_p_value(findings: Findings, retain: Findings, unseen: Findings) -> float | None:
    """Compute how surprising it is that so many true values are the least likely of their
    candidates: by chance, and against the control, as what is rare is unlikely for a model that
    never saw the fact too. The larger counts; None where nothing was ranked."""
    ranked = {index: one for index, one in findings.items() if one.rank is not None}
    if not ranked:
        return None
    by_chance = certainty.compute_last_p_value(list(ranked.values()))
    return _take_larger(by_chance, _compare(ranked, retain, unseen, lambda one: one.is_last))


def _compare(
    own: Findings, retain: Findings, unseen: Findings, is_so: Callable[[Finding], bool]
) -> float | None:
    """Compare how many findings are so with those of the retain model, or where there is none with
    those of facts that no model was taught; None without either."""
    pairs = [(is_so(own[index]), is_so(retain[index])) for index in own if index in retain]
    if pairs:
        return certainty.compute_paired_p_value(pairs)
    if unseen:
        own_hits = [is_so(finding) for finding in own.values()]
        return certainty.compute_unseen_p_value(own_hits, [is_so(one) for one in unseen.values()])
    return None


def _take_larger(first: float | None, second: float | None) -> float | None:
    """Take the larger of two p-values, of which either may be None."""
    return max((p_value for p_value in (first, second) if p_value is not None), default=None)
