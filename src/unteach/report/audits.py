"""What an audit in a run's folder found, as columns beside what was measured politely."""

from pathlib import Path

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
COLUMNS = {column.metric: column for column in (RANK, WORST)}
"""The columns, by metric."""


def read_audit(folder: Path) -> dict[str, float]:
    """Read the values of the columns, by metric; none where no audit lies in the folder."""
    file = folder / run_dir.AUDIT / run_dir.AUDIT_SUMMARY
    if not file.exists():
        return {}
    summary = read_json(file, "the summary of an audit")
    values = {}
    rank = (summary.get("attacks") or {}).get("rank") or {}
    for metric, value in ((RANK.metric, rank.get("rate")), (WORST.metric, summary.get("worst"))):
        if isinstance(value, int | float):
            values[metric] = float(value)
    return values
