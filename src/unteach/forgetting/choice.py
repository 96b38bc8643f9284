"""The models that came of a request's methods, and which of them is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unteach import run_dir
from unteach.json_files import read_json, read_mapping

LANDING = "landing.json"
UTILITY = "retain_prob"


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
        clean: the share of facts that come out politely.
        worst: the share that any attack brings out.
        control: what the same attacks bring out of the first control that there is.
        leaks: whether the audit finds a leak.
        is_tested: whether it could have found one.
        utility: the mean probability of the answers to keep, a token; None without such rows.
        utility_before: the same of the model before.
        seconds: of its training.
        sentence: of its audit.
    """

    method: str
    folder: Path
    a: float
    kl: float
    num_evaluations: int
    is_met: bool
    clean: float
    worst: float
    control: float
    leaks: bool
    is_tested: bool
    utility: float | None
    utility_before: float | None
    seconds: float
    sentence: str

    @property
    def is_good(self) -> bool:
        """Whether it moved within the budget, and no attack finds a leak where one could be found:
        of what was held against nothing nothing can be said."""
        return self.a > 0 and self.is_tested and not self.leaks

    @property
    def kept(self) -> float | None:
        """The share of the utility that is left."""
        if self.utility is None or not self.utility_before:
            return None
        return self.utility / self.utility_before


def read_candidate(method: str, folder: Path) -> Candidate:
    """Read what the run of a method and its audit left."""
    landing = read_mapping(folder / LANDING, "a landing")
    audit = read_mapping(folder / run_dir.AUDIT / run_dir.AUDIT_SUMMARY, "the summary of an audit")
    controls = (audit["worst_retain"], audit["worst_unseen"], audit["worst_wrong"])
    before, after = read_utility(folder)
    last = run_dir.read_last_metrics(folder) or {}
    attacks = audit["attacks"]
    return Candidate(
        method=method,
        folder=folder,
        a=landing["a"],
        kl=landing["kl"],
        num_evaluations=len(landing["evaluations"]),
        is_met=landing["met"],
        clean=attacks["clean"]["rate"] if "clean" in attacks else 0.0,
        worst=audit["worst"],
        control=next(rate for rate in controls if rate is not None),
        leaks=audit["leaks"],
        is_tested=any(attack["p_value"] is not None for attack in attacks.values()),
        utility=after,
        utility_before=before,
        seconds=last.get("train_runtime", 0.0),
        sentence=audit["sentence"],
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
        kept = candidate.kept if candidate.kept is not None else 0.0
        return (candidate.a == 0, candidate.leaks, candidate.worst, -kept, candidate.kl)

    return min(candidates, key=rank)
