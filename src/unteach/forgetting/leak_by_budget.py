"""What is left at other budgets of the method that was chosen: each point of its path, audited."""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unteach import run_dir
from unteach.config.schema import ModelConfig
from unteach.forgetting.choice import Candidate
from unteach.forgetting.leak import Leak, read_leak
from unteach.forgetting.points import Point, write_point
from unteach.json_files import read_mapping

BUDGETS = (0.01, 0.02, 0.05, 0.1)
"""At which the leak is measured, beside the budget of the request."""
TRAININGS = f"{run_dir.AUDIT}/relearn"
"""The folder of a run with what its audit taught."""
POINTS = "budgets"
"""The folder of a request with what is left at each budget."""


@dataclass(frozen=True)
class LeakAtBudget:
    """What is left of the facts at one budget, and at which KL."""

    budget: float
    kl: float
    leak: Leak


def list_other_budgets(budget: float) -> list[float]:
    """List the budgets at which the leak is measured, but for the one of the request."""
    return [other for other in BUDGETS if other != budget]


def list_points(chosen: Candidate) -> list[Point]:
    """List where the chosen method lands on other budgets; none where it landed nowhere."""
    landing = read_mapping(chosen.folder / run_dir.LANDING, "a landing")
    if not chosen.a:
        return []
    points = []
    for other in landing.get("others", []):
        if other["a"]:
            points.append(Point(other["budget"], other["kl"], other["a"] / chosen.a))
    return points


def get_point_dir(folder: Path, point: Point) -> Path:
    """Give the folder of a point within that of its request."""
    return folder / POINTS / f"{point.budget:g}"


def write_point_model(before: ModelConfig, chosen: Candidate, point: Point, folder: Path) -> None:
    """Write the model of a point, unless it is there."""
    to = get_point_dir(folder, point) / run_dir.FINAL
    if not to.exists():
        write_point(before, chosen.folder / run_dir.FINAL, point, to)


def delete_point_models(point: Point, folder: Path) -> None:
    """Delete the model of a point, and what its audit taught: what they say under attack is
    measured."""
    for name in (run_dir.FINAL, TRAININGS):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(get_point_dir(folder, point) / name)


def read_leaks(
    chosen: Candidate, budget: float, points: Sequence[Point], folder: Path
) -> list[LeakAtBudget]:
    """Read what is left at each budget that was audited, the request's own among them, by budget.

    Args:
        budget: of the request.
        folder: of the request.
    """
    leaks = [LeakAtBudget(budget, chosen.kl, chosen.leak)]
    for point in points:
        audit = get_point_dir(folder, point) / run_dir.AUDIT
        if run_dir.is_done(audit):
            leaks.append(LeakAtBudget(point.budget, point.kl, read_leak(audit)))
    return sorted(leaks, key=lambda one: one.budget)


def find_smallest_without_leak(leaks: Sequence[LeakAtBudget]) -> float | None:
    """Find the smallest budget at which no leak is found where one could have been; None: none."""
    good = [one.budget for one in leaks if one.leak.is_tested and not one.leak.is_found]
    return min(good, default=None)
