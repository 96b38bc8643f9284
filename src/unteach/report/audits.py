"""What an audit in a run's folder found, as columns beside what was measured politely."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.json_files import read_json
from unteach.report.columns import FORGET, Column

WORST = Column(
    "audit_worst",
    "after attack",
    better="near retain",
    meaning="Share of the forget facts that some attack of the audit brings out",
    role=FORGET,
)
RANK = Column(
    "audit_rank",
    "rank 1",
    better="near retain",
    meaning="Share of the forget facts whose true answer ranks first among answers of its kind",
    role=FORGET,
)
BESIDE = ("retain", "original")
"""The models that may stand beside an audited one, as the summary calls them."""
COLUMNS = {column.metric: column for column in (RANK, WORST)}
"""The columns, by metric."""


def read_audit(folder: Path) -> dict[str, float]:
    """Read the values of the columns, by metric; none where no audit lies in the folder."""
    summary = _read_summary(folder)
    return _select(summary, "rate", "worst")


def read_beside(folders: Iterable[Path]) -> dict[Path, dict[str, float]]:
    """Read what the audits of runs brought out of the models beside the audited ones, by the folder
    of such a model: the values of the same columns. Where audits differ, as not the same attacks
    count in each, the largest stands."""
    found: dict[Path, dict[str, float]] = {}
    for folder in folders:
        summary = _read_summary(folder)
        for part in BESIDE:
            path = (summary.get("models") or {}).get(part)
            if not path:
                continue
            model = Path(path)
            home = (model.parent if model.name == run_dir.FINAL else model).resolve()
            values = found.setdefault(home, {})
            for metric, value in _select(summary, part, f"worst_{part}").items():
                values[metric] = max(value, values.get(metric, 0.0))
    return found


def _read_summary(folder: Path) -> Mapping[str, Any]:
    """Read the summary of the audit in a run's folder; nothing where there is none."""
    file = folder / run_dir.AUDIT / run_dir.AUDIT_SUMMARY
    return read_json(file, "the summary of an audit") if file.exists() else {}


def _select(summary: Mapping[str, Any], rate: str, worst: str) -> dict[str, float]:
    """Select the values of the columns.

    Args:
        rate: what the summary calls the share that comes out of a model by one attack.
        worst: what it calls that by any.
    """
    rank = (summary.get("attacks") or {}).get("rank") or {}
    named = {RANK.metric: rank.get(rate), WORST.metric: summary.get(worst)}
    return {
        metric: float(value) for metric, value in named.items() if isinstance(value, int | float)
    }
