"""The models that came of a request's methods, and which of them is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unteach import run_dir
from unteach.forgetting.leak import Leak, read_leak
from unteach.json_files import read_json, read_mapping

EXACT = "exact"
"""What is said for a method where the model was taught anew without the rows."""
UTILITY = "retain_prob"
KEPT_WHOLE = 0.97
"""The share of the utility that a request is to leave at least."""


@dataclass(frozen=True)
class Candidate:
    """What one method came to.

    Attributes:
        method: its name.
        folder: of its run.
        a: how far from the weights before towards those it ended at; 0: it could not land.
        kl: KL(before || now), in nats a token.
        num_evaluations: of the KL, until it was landed.
        is_met: whether the KL is within 0.95 and 1 of the budget.
        leak: what its audit found.
        utility: the mean probability of the answers to keep, a token; None without such rows.
        utility_before: the same of the model before.
        seconds: of its training.
    """

    method: str
    folder: Path
    a: float
    kl: float
    num_evaluations: int
    is_met: bool
    leak: Leak
    utility: float | None
    utility_before: float | None
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether it moved within the budget, and no attack finds a leak where one could be found:
        of what was held against nothing nothing can be said."""
        return self.a > 0 and self.leak.is_tested and not self.leak.is_found

    @property
    def is_clear(self) -> bool:
        """Whether it is good, nothing comes out of it by any attack, and what is to be kept is."""
        kept = self.kept if self.kept is not None else 1.0
        return self.is_good and self.leak.worst == 0 and kept >= KEPT_WHOLE

    @property
    def is_exact(self) -> bool:
        """Whether it was taught anew without the rows, whatever comes out of it."""
        return self.method == EXACT

    @property
    def kept(self) -> float | None:
        """The share of the utility that is left."""
        if self.utility is None or not self.utility_before:
            return None
        return self.utility / self.utility_before


def read_candidate(method: str, folder: Path) -> Candidate:
    """Read what the run of a method and its audit left."""
    landing = read_mapping(folder / run_dir.LANDING, "a landing")
    before, after = read_utility(folder)
    last = run_dir.read_last_metrics(folder) or {}
    return Candidate(
        method=method,
        folder=folder,
        a=landing["a"],
        kl=landing["kl"],
        num_evaluations=len(landing["evaluations"]),
        is_met=landing["met"],
        leak=read_leak(folder / run_dir.AUDIT),
        utility=after,
        utility_before=before,
        seconds=last.get("train_runtime", 0.0),
    )


def read_exact(folder: Path, kl: float) -> Candidate:
    """Read what a run without the rows and its audit left. It was not held by a budget; what its
    suite measures of answers to keep has no value of the model before beside it."""
    last = run_dir.read_last_metrics(folder) or {}
    return Candidate(
        method=EXACT,
        folder=folder,
        a=1.0,
        kl=kl,
        num_evaluations=1,
        is_met=False,
        leak=read_leak(folder / run_dir.AUDIT),
        utility=None,
        utility_before=None,
        seconds=last.get("train_runtime", 0.0),
    )


def read_utility(folder: Path) -> tuple[float | None, float | None]:
    """Read the utility before and after a run, None where nothing was measured."""
    values = []
    for name in (folder / run_dir.EVALS_BEFORE, folder / run_dir.EVALS):
        file = name / "ROWS_SUMMARY.json"
        summary = read_json(file, "the summary of a suite") if file.exists() else {}
        value = summary.get(UTILITY)
        values.append(float(value) if isinstance(value, int | float) else None)
    return values[0], values[1]


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Choose the model of which least comes out in the worst case; of several alike the one that
    keeps most, then the one that moved least. One that moved is before one that could not land."""

    def rank(candidate: Candidate) -> tuple[bool, bool, float, float, float]:
        leak = candidate.leak
        kept = candidate.kept if candidate.kept is not None else 0.0
        return (candidate.a == 0, leak.is_found, leak.worst, -kept, candidate.kl)

    return min(candidates, key=rank)
