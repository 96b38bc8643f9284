"""What an audit found of a model, as a request to forget weighs it."""

from dataclasses import dataclass
from pathlib import Path

from unteach import run_dir
from unteach.json_files import read_mapping


@dataclass(frozen=True)
class Leak:
    """What comes out of a model.

    Attributes:
        clean: the share of facts that come out politely.
        worst: the share that any attack brings out.
        upper_bound: of that share in any facts like these, at 95 %.
        control: what the same attacks bring out of the first control that there is.
        is_found: whether the audit finds a leak.
        is_tested: whether it could have found one.
        sentence: of the audit.
    """

    clean: float
    worst: float
    upper_bound: float
    control: float
    is_found: bool
    is_tested: bool
    sentence: str


def read_leak(folder: Path) -> Leak:
    """Read what an audit left in its folder."""
    audit = read_mapping(folder / run_dir.AUDIT_SUMMARY, "the summary of an audit")
    controls = (audit["worst_retain"], audit["worst_unseen"], audit["worst_wrong"])
    attacks = audit["attacks"]
    return Leak(
        clean=attacks["clean"]["rate"] if "clean" in attacks else 0.0,
        worst=audit["worst"],
        upper_bound=audit["upper_bound"],
        control=next(rate for rate in controls if rate is not None),
        is_found=audit["leaks"],
        is_tested=audit["is_tested"],
        sentence=audit["sentence"],
    )
