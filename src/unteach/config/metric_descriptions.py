"""How a metric is described: once, beside its definition in a suite's YAML, or on its class.

A suite describes its metrics by name under `describe:`. A class describes all metrics made of it
through its decorator, `@metric("refusal_rate", label="refusals", better="higher")`; the suite's
words, field by field, are stronger. Tables, pages, pictures and the lines at the end of a run
read nothing else.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

Role = Literal["train", "forget", "retain", "holdout"]
"""What rows are to a run: learned, unlearned, to be kept, or never seen by the model."""
Better = Literal["higher", "lower", "near retain", "near before", "near 0"]
"""Which way is good: `near retain` is as near as can be to the retain model's value, `near before`
to the value that the model had before it was trained."""

DECIMALS = 3
"""Shown of a metric that does not say how many."""


@dataclass(frozen=True)
class AxisDescription:
    """A metric as an axis of a picture.

    label: its whole name; null, the metric's label. short: its name on a button and beside a point;
    null, the metric's label. rank: metrics with a rank come first among the axes, the lowest first.
    scale: `p_value` is logarithmic down to 1e-20, with a line at 0.05.
    """

    label: str | None = None
    short: str | None = None
    rank: int | None = None
    scale: Literal["linear", "p_value"] = "linear"


@dataclass(frozen=True)
class ExamplesDescription:
    """What a report shows of a metric's values for single examples.

    show: `answers`, each text that was generated, beside the truth; `truth_ratios`, how the values
    are spread, against the retain model's; `membership`, the ROC curve of an attack. title: what
    they are called; null, the metric's label. score: of `answers`, the value that stands beside an
    answer.
    """

    show: Literal["answers", "truth_ratios", "membership"]
    title: str | None = None
    score: Literal["rougeL_recall", "rougeL_f1", "rouge1_recall"] = "rougeL_recall"


@dataclass(frozen=True)
class MetricDescription:
    """What a metric is called, whose rows it is about, which way is good, and how it is shown.

    label: its name in a table's head; null, the metric's own. role: what its rows are to a run.
    meaning: what it measures, in a sentence. decimals: null, 3. headline: whether it stands in
    the table of a report; null, it does. interval: whether a bootstrap over its examples says
    anything of it; null, it does. axis, examples: how pictures and answers show it.
    """

    label: str | None = None
    role: Role | None = None
    better: Better | None = None
    meaning: str | None = None
    decimals: int | None = None
    headline: bool | None = None
    interval: bool | None = None
    axis: AxisDescription | None = None
    examples: ExamplesDescription | None = None


def merge_descriptions(weaker: MetricDescription, stronger: MetricDescription) -> MetricDescription:
    """Combine two descriptions of a metric, field by field."""
    merged: dict[str, Any] = {}
    for field in fields(MetricDescription):
        value = getattr(stronger, field.name)
        merged[field.name] = getattr(weaker, field.name) if value is None else value
    return MetricDescription(**merged)
