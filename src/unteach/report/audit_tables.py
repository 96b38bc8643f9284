"""What the page of an audit says in numbers: the rows of its table, and what the audit was made
with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from unteach import run_dir
from unteach.report.audit_results import AUDITED, AttackSummary, AuditResults, Rates
from unteach.report.table import MISSING, Cell
from unteach.wording import format_count, format_value

POWER = {True: "yes", False: "no power here", None: "unknown"}


@dataclass(frozen=True)
class Row:
    """An attack, or one training of it.

    Attributes:
        cells: what came out of each model, in their order.
        wrong: how often a wrong answer came out of the audited model.
        unseen: how many of the facts did that no model was taught.
    """

    label: str
    cells: list[Cell]
    wrong: Cell
    unseen: Cell
    p_value: Cell
    power: str
    counts: bool


@dataclass(frozen=True)
class Figure:
    """A number that sums up, and what it is."""

    text: str
    meaning: str


def build_rows(results: AuditResults, attacks: Sequence[AttackSummary]) -> list[Row]:
    """Build the rows of a table of attacks against models."""
    rows = []
    for attack in attacks:
        audited = attack.rates[AUDITED]
        p_value = Cell(MISSING)
        if attack.p_value is not None:
            p_value = Cell(format_value(attack.p_value, 2), attack.p_value)
        row = Row(
            label=attack.label,
            cells=[_write_rates(attack.rates.get(part)) for part in results.models],
            wrong=_write_share(audited.wrong),
            unseen=_write_share(attack.unseen),
            p_value=p_value,
            power=POWER[attack.has_power],
            counts=attack.counts,
        )
        rows.append(row)
    return rows


def _write_rates(rates: Rates | None) -> Cell:
    """Write a share, its interval, and how many facts it is of."""
    if rates is None:
        return Cell(MISSING)
    interval = ""
    if rates.interval is not None:
        low, high = rates.interval
        interval = f"{low:.0%} to {high:.0%}"
    return Cell(f"{rates.rate:.0%}", rates.rate, interval, rates.num_facts)


def _write_share(share: float | None) -> Cell:
    return Cell(MISSING) if share is None else Cell(f"{share:.0%}", share)


def list_figures(results: AuditResults) -> list[Figure]:
    """List the numbers that sum an audit up."""
    summary = results.summary
    num_facts = format_count(int(summary["num_asked"]), "fact")
    figures = [Figure(f"{summary['worst']:.0%}", f"of {num_facts} come out by some attack")]
    if summary["worst_retain"] is not None:
        meaning = "of them come out of the retain model by the same attacks"
        figures.append(Figure(f"{summary['worst_retain']:.0%}", meaning))
    if summary.get("worst_unseen") is not None:
        meaning = "of the facts that no model was taught come out likewise"
        figures.append(Figure(f"{summary['worst_unseen']:.0%}", meaning))
    meaning = "of wrong answers of the same kind come out likewise"
    figures.append(Figure(f"{summary['worst_wrong']:.0%}", meaning))
    meaning = "could come out of any facts like these (95 %)"
    figures.append(Figure(f"≤ {summary['upper_bound']:.0%}", meaning))
    if summary["smallest"] is not None:
        meaning = "is the smallest leak that a rank would have told from chance"
        figures.append(Figure(f"{summary['smallest']:.0%}", meaning))
    return figures


def name_model(path: str) -> str:
    """Name a model by the end of its path: the run's folder, or the hub id."""
    parts = PurePath(path).parts
    if len(parts) > 1 and parts[-1] == run_dir.FINAL:
        parts = parts[:-1]
    is_hub_id = len(parts) == 2 and not PurePath(path).is_absolute()
    return "/".join(parts) if is_hub_id else (parts or (path,))[-1]


def list_settings(results: AuditResults) -> list[tuple[str, str]]:
    """List what an audit was of, and what it was made with, where its files say it."""
    summary, manifest = results.summary, results.manifest
    settings = [(f"{part} model", path) for part, path in results.models.items()]
    versions = manifest.get("versions") or {}
    settings += [
        ("hash of the facts", str(summary.get("facts_sha256") or "")),
        ("redaction key", str(summary.get("redaction_key_id") or "")),
        ("seed", str(summary.get("seed", ""))),
        ("made on", str(manifest.get("date") or "")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("git commit", str(manifest.get("git") or "")),
        ("command", str(manifest.get("command") or "")),
    ]
    for name, fields in summary.get("configured", {}).items():
        settings.append((f"attack {name}", _write_fields(fields)))
    return [(what, value) for what, value in settings if value]


def _write_fields(fields: dict[str, object]) -> str:
    """Write the fields of an attack, after what it is."""
    own = {name: value for name, value in fields.items() if name != "attack"}
    written = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in own.items()]
    return f"{fields.get('attack', '')} {', '.join(written)}".strip()
