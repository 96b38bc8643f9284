"""How surprising the findings of one attack are of a model that never saw the facts: by the wrong
answers beside the true ones, and by a control model or control facts."""

from collections.abc import Callable, Mapping

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
    by_control = _compare(findings, retain, unseen, context.groups, lambda one: one.leaks)
    return _take_larger(by_candidates, by_control)


def compute_last_p_value(
    findings: Findings, retain: Findings, unseen: Findings, groups: Mapping[int, str]
) -> float | None:
    """Compute how surprising it is that so many true values are the least likely of their
    candidates: by chance, and against the control, as what is rare is unlikely for a model that
    never saw the fact too. The larger counts; None where nothing was ranked.

    Args:
        groups: of each fact what it is forgotten together with.
    """
    ranked = {index: one for index, one in findings.items() if one.rank is not None}
    if not ranked:
        return None
    by_chance = certainty.compute_last_p_value(list(ranked.values()))
    by_control = _compare(ranked, retain, unseen, groups, lambda one: one.is_last)
    return _take_larger(by_chance, by_control)


def _compare(
    own: Findings,
    retain: Findings,
    unseen: Findings,
    groups: Mapping[int, str],
    is_so: Callable[[Finding], bool],
) -> float | None:
    """Compare how many findings are so with those of the retain model, or where there is none with
    those of facts that no model was taught; None without either."""
    pairs = [(is_so(own[index]), is_so(retain[index])) for index in own if index in retain]
    if pairs:
        paired = [groups[index] for index in own if index in retain]
        return certainty.compute_paired_p_value(pairs, paired)
    if unseen:
        return certainty.compute_unseen_p_value(
            [is_so(finding) for finding in own.values()],
            [is_so(finding) for finding in unseen.values()],
            [groups[index] for index in own],
            [groups[index] for index in unseen],
        )
    return None


def _take_larger(first: float | None, second: float | None) -> float | None:
    """Take the larger of two p-values, of which either may be None."""
    return max((p_value for p_value in (first, second) if p_value is not None), default=None)
