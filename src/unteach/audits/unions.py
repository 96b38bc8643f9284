"""What any of several attacks brings out."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from unteach.audits.battery import Findings
from unteach.audits.judging import join_findings


def join_attacks(
    names: Sequence[str], findings: Mapping[str, Findings], facts: Iterable[int]
) -> Findings:
    """Join attacks into one that brings out what any of them does, of the facts that any asked for.

    Args:
        names: of the attacks.
        findings: of one model, by attack.
        facts: their numbers.
    """
    joined = {}
    for index in facts:
        found = [findings[name][index] for name in names if index in findings.get(name, {})]
        if found:
            joined[index] = join_findings(found)
    return joined


def compute_share(joined: Findings) -> float:
    """Compute the share of facts that come out; 0 of none."""
    return fmean(finding.leaks for finding in joined.values()) if joined else 0.0


def compute_wrong_share(joined: Findings) -> float:
    """Compute the share of wrong candidates that come out, the mean over facts; 0 of none."""
    shares = []
    for finding in joined.values():
        wrong = finding.hits[1:]
        shares.append(sum(wrong) / max(len(wrong), 1))
    return fmean(shares) if shares else 0.0
