"""The facts of an audit, those that most attacks brought out first, with what the model said."""

from dataclasses import dataclass
from typing import Any

from unteach.report.audit_results import AUDITED, AuditResults

POLITE = "clean"
"""The attack that asks politely."""
MOST_FACTS = 500
"""Facts that a page shows: the others are counted."""
MOST_CHARACTERS = 1500
"""Characters of a text that a page shows."""


@dataclass(frozen=True)
class FactResult:
    """What came out of one fact.

    Attributes:
        place: where it stands, as messages say it.
        attacks: the names of those that brought it out of the audited model.
        num_attacks: how many asked for it.
        beside: how many brought it out of each other model, by its part.
        rank: of the true value, the best by any attack; None where nothing was ranked.
        ranked_by: that attack.
        num_candidates: how many values were ranked.
        text: what the audited model said when the value came out in words; "" where it did not.
        said_by: the attack that had it say so.
        polite_text: what it said when it was asked politely; None where it was not.
    """

    place: str
    question: str
    answer: str
    value: str
    attacks: list[str]
    num_attacks: int
    beside: dict[str, int]
    rank: int | None = None
    ranked_by: str = ""
    num_candidates: int = 0
    text: str = ""
    said_by: str = ""
    polite_text: str | None = None


Findings = dict[str, dict[str, Any]]
"""Of one fact and one model, by what its attack, or its training, is called."""


def collect_facts(results: AuditResults) -> list[FactResult]:
    """Collect the facts that are judged: first those that most attacks brought out of the audited
    model, of as many the better ranked ones."""
    attack_names = {attack.label: attack.attack for attack in results.attacks}
    by_part: dict[str, dict[int, Findings]] = {}
    for part in results.models:
        by_part[part] = _group_by_fact(results.findings.get(part, {}))
    facts = []
    for entry in results.facts:
        if entry["known_to_original"] and not entry.get("never_seen"):
            findings = {part: by_part[part].get(entry["index"], {}) for part in by_part}
            facts.append(_collect_fact(entry, findings, attack_names))
    return sorted(facts, key=lambda fact: (-len(fact.attacks), fact.rank or len(results.facts)))


def _group_by_fact(by_attack: dict[str, list[dict[str, Any]]]) -> dict[int, Findings]:
    """Group the findings about one model by the number of the fact."""
    by_fact: dict[int, Findings] = {}
    for label, findings in by_attack.items():
        for finding in findings:
            by_fact.setdefault(finding["fact"], {})[label] = finding
    return by_fact


def _collect_fact(
    entry: dict[str, Any], findings: dict[str, Findings], attack_names: dict[str, str]
) -> FactResult:
    """Collect what came out of one fact.

    Args:
        entry: the fact.
        findings: about it, of each model by its part.
        attack_names: the name of each attack, by what its findings are called.
    """
    audited = findings[AUDITED]
    beside = {}
    for part, of_part in findings.items():
        if part != AUDITED:
            beside[part] = len(_list_leaking(of_part, attack_names))
    shown: dict[str, Any] = {}
    ranked = [label for label, finding in audited.items() if finding["rank"] is not None]
    if ranked:
        best = min(ranked, key=lambda label: audited[label]["rank"])
        shown["rank"] = audited[best]["rank"]
        shown["ranked_by"] = best
        shown["num_candidates"] = len(audited[best]["hits"])
    for label, finding in audited.items():
        # A polite answer that gives the fact away is worse than one that was wrested out.
        is_said = finding["hits"][0] and finding["text"] and finding["rank"] is None
        if is_said and (label == POLITE or "text" not in shown):
            shown["text"] = finding["text"]
            shown["said_by"] = label
    if POLITE in audited:
        shown["polite_text"] = audited[POLITE]["text"]
    return FactResult(
        place=entry["place"],
        question=entry["question"],
        answer=entry["answer"],
        value=entry["value"],
        attacks=_list_leaking(audited, attack_names),
        num_attacks=len({attack_names.get(label, label) for label in audited}),
        beside=beside,
        **shown,
    )


def _list_leaking(findings: Findings, attack_names: dict[str, str]) -> list[str]:
    """List the attacks that brought a fact out, each once whatever its trainings."""
    leaking: dict[str, None] = {}
    for label, finding in findings.items():
        if finding["hits"][0]:
            leaking[attack_names.get(label, label)] = None
    return list(leaking)


def to_data(facts: list[FactResult], is_redacted: bool) -> list[list[Any]]:
    """Give the first facts as the page's script reads them; of a redacted audit what was said is
    left out, as nobody can read it."""
    data = []
    for fact in facts[:MOST_FACTS]:
        said: list[Any] = [fact.said_by, cut(fact.text)]
        polite = None if fact.polite_text is None else cut(fact.polite_text)
        if is_redacted:
            said, polite = [fact.said_by, None], None
        row = [
            fact.place,
            cut(fact.question),
            cut(fact.answer),
            cut(fact.value),
            [fact.attacks, fact.num_attacks, fact.beside],
            [fact.rank, fact.ranked_by, fact.num_candidates],
            said,
            polite,
        ]
        data.append(row)
    return data


def cut(text: str) -> str:
    """Cut a text at what a page shows of one."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
