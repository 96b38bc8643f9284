"""Values made of other values: means of them, and how far they are from those of other models."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unteach.evals import bootstrap
from unteach.evals.base import Before, Metric, Need, Result, Retain, Value
from unteach.registry import metric


def combined(parts: list[Value], of: Any) -> Value:
    """A function of values [..., parts] -> [...], on the aggregates and on the replicates of those
    that have some."""
    values = np.array([np.nan if part.agg is None else part.agg for part in parts], dtype=float)
    known = [part.replicates for part in parts if part.replicates is not None]
    replicates = None
    if known:
        rest = [np.full(known[0].shape, np.nan if part.agg is None else part.agg) for part in parts]
        drawn = [
            rest[i] if part.replicates is None else part.replicates for i, part in enumerate(parts)
        ]
        replicates = of(np.stack(drawn, axis=-1))
    return Value(float(of(values)), None, sum(part.n for part in parts), replicates)


@dataclass
class Mean(Metric):
    """A mean of other metrics' values; with `complement`, of 1 minus each."""

    of: list[str]
    complement: bool = False

    def needs(self) -> dict[str, Need]:
        return {part: Result(part) for part in self.of}

    def compute(self, name: str, **measured: Any) -> Value:
        return combined([measured[part] for part in self.of], self.mean)

    def mean(self, values: np.ndarray) -> Any:
        raise NotImplementedError


@metric("hm_aggregate")
@dataclass
class HarmonicMean(Mean):
    """The harmonic mean of other metrics' values, 0 as soon as one is 0; with `complement`, of 1
    minus each."""

    def mean(self, values: np.ndarray) -> Any:
        return bootstrap.harmonic_mean(1 - values if self.complement else values)


@metric("mean_aggregate")
@dataclass
class ArithmeticMean(Mean):
    """The arithmetic mean of other metrics' values; with `complement`, of 1 minus each."""

    def mean(self, values: np.ndarray) -> Any:
        return (1 - values if self.complement else values).mean(-1)


@metric("difference")
@dataclass
class Difference(Metric):
    """One metric's value minus another's."""

    of: str
    minus: str

    def needs(self) -> dict[str, Need]:
        return {"value": Result(self.of), "other": Result(self.minus)}

    def compute(self, name: str, value: Value, other: Value, **_: object) -> Value:
        return combined([value, other], lambda pair: pair[..., 0] - pair[..., 1])


@metric("delta_to_retain")
@dataclass
class DeltaToRetain(Metric):
    """A metric's value minus that of the retain model's log."""

    of: str

    def needs(self) -> dict[str, Need]:
        return {"value": Result(self.of), "log": Retain(self.of)}

    def compute(self, name: str, value: Value, log: dict[str, Any], **_: object) -> Value:
        return combined([value], lambda one: one[..., 0] - log["agg_value"])


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
        return needs | {f"{name}/retain": Retain(name) for name in self.attacks}

    def compute(self, name: str, **measured: Any) -> Value:
        retain = np.array(
            [measured[f"{attack}/retain"]["agg_value"] for attack in self.attacks], dtype=float
        )

        def of(areas: np.ndarray) -> Any:
            with np.errstate(divide="ignore", invalid="ignore"):
                near = 1 - np.abs(areas - retain) / retain
            return bootstrap.harmonic_mean(np.clip(np.nan_to_num(near, nan=1.0, neginf=0.0), 0, 1))

        return combined([measured[attack] for attack in self.attacks], of)


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
        return needs | {f"{name}/before": Before(name) for name in self.of}

    def compute(self, name: str, **measured: Any) -> Value:
        logged = np.array(
            [measured[f"{part}/before"]["agg_value"] for part in self.of], dtype=float
        )
        before = max(float(bootstrap.harmonic_mean(logged)), 1e-10)
        return combined(
            [measured[part] for part in self.of],
            lambda values: bootstrap.harmonic_mean(values) / before,
        )
