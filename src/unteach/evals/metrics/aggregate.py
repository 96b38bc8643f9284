"""Values made of other values: means of them, and how far they are from those of other models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unteach.evals import bootstrap
from unteach.evals.base import Before, Metric, Need, Result, Retain, Value
from unteach.registry import metric

Aggregate = Callable[[np.ndarray], np.ndarray]
"""A function of the values of some parts: [..., P] -> [...]."""


def combine(parts: list[Value], aggregate: Aggregate) -> Value:
    """Apply a function to the values of some parts, and to their replicates.

    Args:
        parts: P values; one that is absent is NaN.
        aggregate: gives the combined value.

    Returns:
        The value, whose replicates hold a part without replicates at its value; without any where
        no part has some.
    """
    values = np.array([_get_number(part) for part in parts], dtype=float)  # [P]
    known_replicates = [part.replicates for part in parts if part.replicates is not None]
    replicates = None
    if known_replicates:
        shape = known_replicates[0].shape
        columns = []
        for part in parts:
            if part.replicates is None:
                columns.append(np.full(shape, _get_number(part)))
            else:
                columns.append(part.replicates)
        replicates = aggregate(np.stack(columns, axis=-1))  # [R, P] -> [R]
    num_examples = sum(part.n for part in parts)
    return Value(float(aggregate(values)), None, num_examples, replicates)


def _get_number(part: Value) -> float:
    return np.nan if part.agg is None else part.agg


@dataclass
class Mean(Metric):
    """A mean of other metrics' values; with `complement`, of 1 minus each."""

    of: list[str]
    complement: bool = False

    def needs(self) -> dict[str, Need]:
        return {part: Result(part) for part in self.of}

    def compute(self, name: str, **measured: Any) -> Value:
        return combine([measured[part] for part in self.of], self._average)

    def _average(self, values: np.ndarray) -> np.ndarray:
        return self.mean(1 - values if self.complement else values)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Take the mean over the last axis: [..., P] -> [...]."""
        raise NotImplementedError


@metric("hm_aggregate")
@dataclass
class HarmonicMean(Mean):
    """The harmonic mean of other metrics' values, 0 as soon as one is 0; with `complement`, of 1
    minus each."""

    def mean(self, values: np.ndarray) -> np.ndarray:
        return bootstrap.harmonic_mean(values)


@metric("mean_aggregate")
@dataclass
class ArithmeticMean(Mean):
    """The arithmetic mean of other metrics' values; with `complement`, of 1 minus each."""

    def mean(self, values: np.ndarray) -> np.ndarray:
        return np.mean(values, axis=-1)


@metric("difference")
@dataclass
class Difference(Metric):
    """One metric's value minus another's."""

    of: str
    minus: str

    def needs(self) -> dict[str, Need]:
        return {"value": Result(self.of), "other": Result(self.minus)}

    def compute(self, name: str, value: Value, other: Value, **_: object) -> Value:
        return combine([value, other], lambda values: values[..., 0] - values[..., 1])


@metric("delta_to_retain")
@dataclass
class DeltaToRetain(Metric):
    """A metric's value minus that of the retain model's log."""

    of: str

    def needs(self) -> dict[str, Need]:
        return {"value": Result(self.of), "log": Retain(self.of)}

    def compute(self, name: str, value: Value, log: dict[str, Any], **_: object) -> Value:
        return combine([value], lambda values: values[..., 0] - log["agg_value"])


@metric("delta_to_before")
@dataclass
class DeltaToBefore(DeltaToRetain):
    """A metric's value minus that of the log of the model that unlearning started from."""

    def needs(self) -> dict[str, Need]:
        return {"value": Result(self.of), "log": Before(self.of)}


@metric("privacy")
@dataclass
class Privacy(Metric):
    """The harmonic mean over attacks of 1 - |AUC - AUC_retain| / AUC_retain, not below 0. Source:
    arXiv:2506.12618."""

    attacks: list[str]

    def needs(self) -> dict[str, Need]:
        needs: dict[str, Need] = {name: Result(name) for name in self.attacks}
        for name in self.attacks:
            needs[f"{name}/retain"] = Retain(name)
        return needs

    def compute(self, name: str, **measured: Any) -> Value:
        retain_areas = _read_logged(measured, self.attacks, "retain")  # [P]

        def average_closeness(areas: np.ndarray) -> np.ndarray:
            # 0 / 0, both areas being 0, is no difference at all.
            with np.errstate(divide="ignore", invalid="ignore"):
                closeness = 1 - np.abs(areas - retain_areas) / retain_areas
            closeness = np.nan_to_num(closeness, nan=1.0, neginf=0.0)
            return bootstrap.harmonic_mean(np.clip(closeness, 0, 1))

        return combine([measured[attack] for attack in self.attacks], average_closeness)


@metric("relative_utility")
@dataclass
class RelativeUtility(Metric):
    """The harmonic mean of some values, divided by that of the model that unlearning started from.

    Above 1 where the model is the better one: it is not cut off there, which would hide by how
    much.
    """

    of: list[str]

    def needs(self) -> dict[str, Need]:
        needs: dict[str, Need] = {name: Result(name) for name in self.of}
        for name in self.of:
            needs[f"{name}/before"] = Before(name)
        return needs

    def compute(self, name: str, **measured: Any) -> Value:
        values_before = _read_logged(measured, self.of, "before")
        utility_before = max(float(bootstrap.harmonic_mean(values_before)), 1e-10)
        return combine(
            [measured[part] for part in self.of],
            lambda values: bootstrap.harmonic_mean(values) / utility_before,
        )


def _read_logged(measured: dict[str, Any], names: list[str], log: str) -> np.ndarray:
    """Read the values of some metrics in another model's log, [P]."""
    entries = [measured[f"{name}/{log}"] for name in names]
    return np.array([entry["agg_value"] for entry in entries], dtype=float)
