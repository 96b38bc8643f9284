"""An audit as its files have it: what each attack brought out of each model."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.errors import UserError
from unteach.json_files import read_mapping

AUDITED, RETAIN, ORIGINAL = "audited", "retain", "original"
"""The models of an audit, by their part in it."""
SHOWN_FIRST = (AUDITED, RETAIN, ORIGINAL)
DAMAGED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading raises where files are of another shape than an audit writes."""


@dataclass(frozen=True)
class Rates:
    """What one attack brought out of one model; None is what an older audit did not write.

    Attributes:
        rate: the share of the facts that it asked for.
        interval: of it, 95 %.
        wrong: how often a wrong answer of the same kind came out.
        leak_at_k: of an attack that draws samples, by k: of the true values, and of wrong ones.
    """

    rate: float
    num_leaks: int | None = None
    num_facts: int | None = None
    interval: tuple[float, float] | None = None
    wrong: float | None = None
    leak_at_k: Mapping[int, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackSummary:
    """What one attack, or one training of an attack, found.

    Attributes:
        label: what its findings are called.
        attack: its name, without the training.
        rates: by the part of the model.
        unseen: the share of facts that no model was taught; None where there are none.
        p_value: None where there is nothing to hold it against.
        has_power: None where nobody can say.
        counts: whether it is a part of the verdict: it has power, or finds a leak all the same.
        learning_rate, steps: of a training.
    """

    label: str
    attack: str
    rates: dict[str, Rates]
    p_value: float | None
    has_power: bool | None
    counts: bool
    unseen: float | None = None
    learning_rate: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class AuditResults:
    """An audit.

    Attributes:
        summary: AUDIT_SUMMARY.json as it is.
        models: the path of each, by its part, in the order in which they are shown.
        attacks: in the order in which they were made.
        facts: as AUDIT.json has them.
        findings: likewise, of each model and each attack.
        manifest: versions and command; empty where the folder has none.
        subjects: the files of the audited model, as statement.json has them; none without one.
    """

    summary: dict[str, Any]
    models: dict[str, str]
    attacks: list[AttackSummary]
    facts: list[dict[str, Any]]
    findings: dict[str, dict[str, list[dict[str, Any]]]]
    manifest: dict[str, Any]
    subjects: list[dict[str, Any]]

    @property
    def is_redacted(self) -> bool:
        return "redaction_key_id" in self.summary

    def list_leaks(self, part: str, label: str) -> dict[int, bool]:
        """List whether each fact that is judged came out of a model by an attack, by its number."""
        judged = {fact["index"] for fact in self.facts if fact["known_to_original"]}
        leaks = {}
        for finding in self.findings.get(part, {}).get(label, []):
            if finding["fact"] in judged:
                leaks[finding["fact"]] = bool(finding["hits"][0])
        return leaks


def read_audit_results(folder: Path) -> AuditResults:
    """Read what an audit wrote into its folder.

    Raises:
        UserError: it is not there, or damaged.
    """
    summary = read_mapping(folder / run_dir.AUDIT_SUMMARY, "the summary of an audit")
    record = read_mapping(folder / run_dir.AUDIT_FINDINGS, "the findings of an audit")
    manifest: dict[str, Any] = {}
    if (folder / run_dir.MANIFEST).exists():
        manifest = read_mapping(folder / run_dir.MANIFEST, "the manifest of an audit")
    try:
        attacks = [_read_attack(label, summary) for label in summary["attacks"]]
        return AuditResults(
            summary=summary,
            models=_order_models(summary["models"]),
            attacks=attacks,
            facts=record["facts"],
            findings=record["findings"],
            manifest=manifest,
            subjects=_read_subjects(folder, summary),
        )
    except DAMAGED as error:
        raise UserError(
            f"{folder}: its files are not those of an audit, or damaged ({error!r}); make the "
            "audit again (resume=never)"
        ) from None


def _order_models(models: dict[str, str]) -> dict[str, str]:
    """Put the audited model first, and what it is held against after it."""
    parts = [part for part in SHOWN_FIRST if part in models]
    parts += [part for part in models if part not in parts]
    return {part: models[part] for part in parts}


def _read_attack(label: str, summary: dict[str, Any]) -> AttackSummary:
    """Read what one attack found."""
    entry = summary["attacks"][label]
    rates = {AUDITED: _read_rates(entry)}
    for part in (RETAIN, ORIGINAL):
        if entry.get(part) is not None:
            rates[part] = Rates(float(entry[part]))
    for part, beside in entry.get("beside", {}).items():
        rates[part] = _read_rates(beside)
    training = entry.get("training", {})
    return AttackSummary(
        label=label,
        attack=training.get("attack", label),
        rates=rates,
        p_value=entry["p_value"],
        has_power=entry["has_power"],
        counts=entry["has_power"] is not False or label in summary["leaking_attacks"],
        unseen=entry.get("unseen"),
        learning_rate=training.get("learning_rate"),
        steps=training.get("steps"),
    )


def _read_rates(entry: dict[str, Any]) -> Rates:
    low, high = entry["interval"]
    curve = {}
    for k, shares in entry.get("leak_at_k", {}).items():
        curve[int(k)] = (float(shares["true"]), float(shares["wrong"]))
    return Rates(
        rate=entry["num_leaks"] / max(entry["num_facts"], 1),
        num_leaks=entry["num_leaks"],
        num_facts=entry["num_facts"],
        interval=(low, high),
        wrong=entry["wrong"],
        leak_at_k=curve,
    )


def _read_subjects(folder: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Read which files a statement about this summary is of; one about another says nothing."""
    path = folder / run_dir.AUDIT_STATEMENT
    if not path.exists():
        return []
    envelope = read_mapping(path, "the statement of an audit")
    try:
        statement = json.loads(base64.b64decode(envelope["payload"]))
    except (binascii.Error, *DAMAGED):
        return []
    if statement.get("predicate") != summary:
        return []
    subjects: list[dict[str, Any]] = statement["subject"]
    return subjects
