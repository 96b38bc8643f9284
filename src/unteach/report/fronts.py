"""Pareto's front: the models that no other beats at forgetting and at keeping."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TradePoint:
    """One run where a view has it.

    Attributes:
        run_index: its place in the list of runs.
        x: where it is drawn; true_x: its value.
        remembered: how far it is from what is good along x, less is better.
        lost: the same along y.
    """

    run_index: int
    name: str
    kind: str
    x: float
    y: float
    true_x: float
    remembered: float
    lost: float


def find_front(points: list[TradePoint]) -> list[TradePoint]:
    """Find the points that no other beats, from left to right."""
    # From what is forgotten best: each must keep more than all that forget as well or better.
    front: list[TradePoint] = []
    for point in sorted(points, key=lambda point: (point.remembered, point.lost)):
        if not front or not _beats(front[-1], point):
            front.append(point)
    return sorted(front, key=lambda point: (point.x, point.y))


def _beats(other: TradePoint, point: TradePoint) -> bool:
    """Tell whether another point is as good on both sides, and better on one."""
    is_as_good = other.remembered <= point.remembered and other.lost <= point.lost
    is_better = other.remembered < point.remembered or other.lost < point.lost
    return is_as_good and is_better
