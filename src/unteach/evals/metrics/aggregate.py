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
    numbers = []
    known_replicates = []
    num_examples = 0
    for part in parts:
        numbers.append(_get_number(part))
        num_examples += part.n
        if part.replicates is not None:
            known_replicates.append(part.replicates)
    values = np.array(numbers, dtype=float)  # [P]

    replicates = None
    if known_replicates:
        shape = known_replicates[0].shape
        columns = []
        for part in parts:
            if part.replicates is None:
                columns.append(np.full(shape, _get_number(part)))
            else:
                columns.append(part.replicates)
        stacked = np.stack(columns, axis=-1)  # [R, P]
        replicates = aggregate(stacked)  # [R]
    return Value(
        float(aggregate(values)),
        n=num_examples,
        replicates=replicates,
    )


def _get_number(part: Value) -> float:
    """Give a value's number, NaN where it is absent."""
    if part.agg is None:
        return np.nan
    return part.agg


@dataclass
class Mean(Metric):
    """A mean of other metrics' values; with `complement`, of 1 minus each."""

    of: list[str]
    complement: bool = False

    def needs(self) -> dict[str, Need]:
        return {part: Result(part) for part in self.of}

    def compute(self, name: str, **measured: Any) -> Value:
        parts = [measured[part] for part in self.of]
        return combine(parts, self._average)

    def _average(self, values: np.ndarray) -> np.ndarray:
        if self.complement:
            values = 1 - values
        return self.mean(values)

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
        return {
            "value": Result(self.of),
            "other": Result(self.minus),
        }

    def compute(
        self,
        name: str,
        value: Value,
        other: Value,
        **_: object,
    ) -> Value:
        def subtract(values: np.ndarray) -> np.ndarray:
            difference: np.ndarray = values[..., 0] - values[..., 1]
            return difference

        return combine([value, other], subtract)


@metric("delta_to_retain")
@dataclass
class DeltaToRetain(Metric):
    """A metric's value minus that of the retain model's log."""

    of: str

    def needs(self) -> dict[str, Need]:
        return {
            "value": Result(self.of),
            "log": Retain(self.of),
        }

    def compute(
        self,
        name: str,
        value: Value,
        log: dict[str, Any],
        **_: object,
    ) -> Value:
        def subtract_logged(values: np.ndarray) -> np.ndarray:
            difference: np.ndarray = values[..., 0] - log["agg_value"]
            return difference

        return combine([value], subtract_logged)


@metric("delta_to_before")
@dataclass
class DeltaToBefore(DeltaToRetain):
    """A metric's value minus that of the log of the model that unlearning started from."""

    def needs(self) -> dict[str, Need]:
        return {
            "value": Result(self.of),
            "log": Before(self.of),
        }


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
                distance = np.abs(areas - retain_areas)
                closeness = 1 - distance / retain_areas
            closeness = np.nan_to_num(closeness, nan=1.0, neginf=0.0)
            closeness = np.clip(closeness, 0, 1)
            return bootstrap.harmonic_mean(closeness)

        parts = [measured[attack] for attack in self.attacks]
        return combine(parts, average_closeness)


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
        utility_before = float(bootstrap.harmonic_mean(values_before))
        divisor = max(utility_before, 1e-10)

        def compute_relative(values: np.ndarray) -> np.ndarray:
            return bootstrap.harmonic_mean(values) / divisor

        parts = [measured[part] for part in self.of]
        return combine(parts, compute_relative)


def _read_logged(
    measured: dict[str, Any],
    names: list[str],
    log: str,
) -> np.ndarray:
    """Read the values of some metrics in another model's log, [P]."""
    logged = []
    for name in names:
        entry = measured[f"{name}/{log}"]
        logged.append(entry["agg_value"])
    return np.array(logged, dtype=float)
