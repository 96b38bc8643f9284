"""What metrics are called, whose rows they are about, which way is good: as their results say.

An evaluation writes what its suite and the classes of its metrics say of them beside the values,
into <SUITE>_METRICS.json. What logs without that file hold is known by its name, from
configs/logs/openunlearning.yaml.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from unteach import registry
from unteach.config.hydra_groups import CONFIGS
from unteach.config.metric_descriptions import (
    DECIMALS,
    AxisDescription,
    Better,
    ExamplesDescription,
    MetricDescription,
)
from unteach.config.reader import ConfigErrors, Reader
from unteach.strict_yaml import read_yaml

HIGHER, LOWER, NEAR_RETAIN, NEAR_BEFORE, NEAR_ZERO = get_args(Better)
FORGET, RETAIN = "forget", "retain"
PLAIN_AXIS = AxisDescription()
KNOWN_LOGS = CONFIGS / "logs" / "openunlearning.yaml"


@dataclass(frozen=True)
class Column:
    """One metric, as a report shows it.

    Attributes:
        better: which way is good, in a word or two; "" where nobody has said.
        meaning: what it measures, in a sentence.
        role: what its rows are to a run; "" where nobody has said.
        in_headline: whether it stands in the table of a report.
        has_interval: whether a bootstrap over its examples says anything of it.
        axis: the metric as an axis of a picture.
        examples: what is shown of its values for single examples, if anything.
    """

    metric: str
    label: str
    better: str = ""
    meaning: str = ""
    decimals: int = DECIMALS
    role: str = ""
    in_headline: bool = True
    has_interval: bool = True
    axis: AxisDescription = PLAIN_AXIS
    examples: ExamplesDescription | None = None

    @property
    def is_explained(self) -> bool:
        return bool(self.meaning or self.better)

    @property
    def has_p_value_scale(self) -> bool:
        return self.axis.scale == "p_value"


def build_column(metric: str, description: MetricDescription) -> Column:
    """Fill in what a description leaves open; a metric without a label is not in the headline."""
    headline = description.headline
    return Column(
        metric=metric,
        label=description.label or metric,
        better=description.better or "",
        meaning=description.meaning or "",
        decimals=DECIMALS if description.decimals is None else description.decimals,
        role=description.role or "",
        in_headline=bool(description.label) if headline is None else headline,
        has_interval=description.interval is not False,
        axis=description.axis or PLAIN_AXIS,
        examples=description.examples,
    )


def read_descriptions(
    descriptions: Mapping[str, Any],
    what: str,
    file: Path,
) -> dict[str, Column]:
    """Read the columns that a <SUITE>_METRICS.json describes, by metric, in its order.

    Args:
        descriptions: the file's content.
        what: whose file it is, for the error.
        file: where it is, for the error.

    Raises:
        UserError: an entry is no description.
    """
    reader = Reader()
    allowed = {field.name for field in fields(MetricDescription)}
    columns = {}
    for metric, entry in descriptions.items():
        # Later versions may say more of a metric than this one knows.
        known = entry
        if isinstance(entry, dict):
            known = {key: value for key, value in entry.items() if key in allowed}
        description = reader.record(
            MetricDescription,
            known,
            f"{what}: {file}: {metric}",
        )
        if description is not None:
            columns[metric] = build_column(metric, description)
    if reader.problems:
        raise ConfigErrors(reader.problems)
    return columns


@functools.cache
def load_known_columns() -> dict[str, Column]:
    """Load the columns of metrics whose logs do not describe them, in the table's order."""
    logs = read_yaml(KNOWN_LOGS)
    by_suites: dict[str, Any] = {}
    by_classes: dict[str, Any] = {}
    for name in logs["suites"]:
        suite = read_yaml(CONFIGS / "eval" / f"{name}.yaml")
        for metric, entry in suite["describe"].items():
            by_suites.setdefault(metric, entry)
        for metric, definition in suite["define"].items():
            by_classes[metric] = registry.metric.find_entry(definition["metric"]).facts
    described: dict[str, Any] = dict(logs["describe"])
    for metric, entry in by_suites.items():
        # A suite is stronger than a class.
        described[metric] = {**by_classes.get(metric, {}), **entry}
    for metric, facts in by_classes.items():
        if facts:
            described.setdefault(metric, facts)
    return read_descriptions(described, "unteach", KNOWN_LOGS)


def find_column(metric: str, described: Mapping[str, Column]) -> Column:
    """Find a metric's column: as described, as it is known by its name, or its bare name."""
    column = described.get(metric) or load_known_columns().get(metric)
    return column or Column(metric, metric, in_headline=False)
