"""Where a run landed, as two columns beside what was measured: how far its model has gone from what
it was, and how much of what was learned that took."""

import math
from pathlib import Path

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
    file = folder / run_dir.LANDING
    if not file.exists():
        return {}
    landing = read_json(file, "a run's landing")
    values = {}
    for name, column in FIELDS.items():
        value = landing.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            values[column.metric] = float(value)
    return values
