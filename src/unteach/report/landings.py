"""Where a run landed, as two columns beside what was measured: how far its model has gone from what
it was, and how much of what was learned that took."""

import math
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.json_files import read_json
from unteach.report.columns import Column

DRIFT = Column(
    "landing_kl",
    "KL from before",
    meaning="KL of what the model was to what it is, nats a token, on texts that it wrote before",
    decimals=4,
)
STRENGTH = Column(
    "landing_a",
    "landed at",
    meaning="How much of what the run learned was taken: 0 is the model before, 1 all of it",
)
FIELDS = {"kl": DRIFT, "a": STRENGTH}
"""The columns, by what landing.json calls their values."""
COLUMNS = {column.metric: column for column in FIELDS.values()}
"""The columns, by metric."""


def read_landing(folder: Path) -> dict[str, float]:
    """Read the values of the columns, by metric; none where the run did not land."""
    # An edit that lands by its own search says where among its numbers.
    for name in (run_dir.LANDING, run_dir.EDIT):
        if (folder / name).exists():
            return _select_values(read_json(folder / name, "where a run landed"))
    return {}


def _select_values(landing: dict[str, Any]) -> dict[str, float]:
    values = {}
    for name, column in FIELDS.items():
        value = landing.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            values[column.metric] = float(value)
    return values
