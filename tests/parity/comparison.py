"""What the comparison with a file of reference values is made of."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Numbers = float | list[Any] | torch.Tensor


@dataclass(frozen=True)
class Compared:
    """One value of unteach's beside that of the file.

    Attributes:
        difference: relative, in L2 of vectors; of an audit's values the greatest absolute one.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def is_equal(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class NotOffered:
    """A value of the file that unteach does not compute, and why."""

    name: str
    reason: str


Outcomes = Iterator[Compared | NotOffered]


@dataclass(frozen=True)
class Reference:
    """A file of reference values, read, and the folder of models and rows that they were computed
    on."""

    values: dict[str, Any]
    kit: Path

    @property
    def policy(self) -> Path:
        return self.kit / "policy"

    @property
    def reference(self) -> Path:
        return self.kit / "reference"

    def rows(self, name: str, count: int | None = None) -> list[dict[str, Any]]:
        """The rows of a data set that the values are of, or the first `count` of them."""
        first, last = self.values["rows"]
        return self.read(name)[first:last][:count]

    def read(self, name: str) -> list[dict[str, Any]]:
        """All rows of a data set of the kit."""
        lines = (self.kit / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def find_difference(ours: Numbers, theirs: Numbers) -> float:
    """The relative difference of two numbers, or in L2 of two nested lists of numbers."""
    mine, other = flatten(ours), flatten(theirs)
    if mine.shape != other.shape:
        return math.inf
    scale = float(other.norm())
    difference = float((mine - other).norm())
    if math.isnan(difference):
        return math.inf
    return difference / scale if scale else difference


def flatten(numbers: Numbers) -> torch.Tensor:
    """Numbers of any nesting as one vector in fp64."""
    if isinstance(numbers, torch.Tensor):
        return numbers.detach().double().flatten()
    if isinstance(numbers, list):
        parts = [flatten(part) for part in numbers]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
    return torch.tensor([float(numbers)], dtype=torch.float64)
