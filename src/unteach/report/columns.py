"""What metrics are called, whose rows they are about, and which way is good: as a suite describes
them, or as we know.

An evaluation writes its suite's descriptions into <SUITE>_METRICS.json; they win over what is built
in here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach.errors import UserError

HIGHER, LOWER, NEAR_ZERO = "higher", "lower", "near 0"
NEAR_RETAIN, NEAR_BEFORE = "near retain", "near before"
DIRECTIONS = (HIGHER, LOWER, NEAR_RETAIN, NEAR_BEFORE, NEAR_ZERO)
FORGET, RETAIN = "forget", "retain"
ROLES = ("train", FORGET, RETAIN, "holdout")


@dataclass(frozen=True)
class Column:
    """One metric.

    Attributes:
        better: which way is good, in a word or two; "" where nobody has said.
        meaning: what it measures, in a sentence.
        role: what its rows are to a run: one of ROLES, "" where nobody has said.
    """

    metric: str
    label: str
    better: str = ""
    meaning: str = ""
    decimals: int = 3
    role: str = ""


def _forget(metric: str, label: str, better: str, meaning: str, decimals: int = 3) -> Column:
    return Column(metric, label, better, meaning, decimals, FORGET)


def _retain(metric: str, label: str, meaning: str) -> Column:
    return Column(metric, label, HIGHER, meaning, role=RETAIN)


BUILT_IN = (
    _forget(
        "forget_Q_A_Prob",
        "forget prob",
        NEAR_RETAIN,
        "Probability of the true answers of the forget set, by token",
    ),
    _forget(
        "forget_Q_A_ROUGE",
        "forget ROUGE",
        NEAR_RETAIN,
        "Share of the true forget answers that the model says again",
    ),
    _forget(
        "forget_verbmem_ROUGE",
        "forget verbmem",
        NEAR_RETAIN,
        "How far a forget text is continued word by word",
    ),
    _forget(
        "forget_knowmem_ROUGE",
        "forget knowmem",
        NEAR_RETAIN,
        "How well questions about the forget texts are answered",
    ),
    _forget(
        "forget_truth_ratio",
        "truth ratio",
        NEAR_RETAIN,
        "How alike true and false forget answers look to the model",
    ),
    _forget(
        "forget_quality",
        "forget quality",
        HIGHER,
        "p-value: can the model be told from one that never saw the set? A p-value has no interval",
    ),
    _retain(
        "model_utility",
        "utility",
        "What is kept: probability, ROUGE and truth ratio outside the forget set",
    ),
    _retain(
        "retain_Q_A_Prob",
        "retain prob",
        "Probability of the true answers of the retain set, by token",
    ),
    _retain(
        "retain_knowmem_ROUGE",
        "retain knowmem",
        "How well questions about the retain texts are answered",
    ),
    _forget(
        "extraction_strength",
        "extraction strength",
        NEAR_RETAIN,
        "Share of an answer that its opening brings back whole",
    ),
    _forget(
        "forget_quality_2",
        "KS ln p",
        NEAR_ZERO,
        "ln p of the KS test of the truth ratios against the retain model's",
        2,
    ),
    _forget("forget_quality_1", "one-sided ln p", NEAR_ZERO, "The same of the one-sided test", 2),
    _forget(
        "forget_mean_tr",
        "forget TR",
        NEAR_RETAIN,
        "Mean truth ratio of the forget rows, phrased anew",
    ),
    _forget(
        "forget_mean_probability_gt",
        "forget prob",
        NEAR_RETAIN,
        "Probability of the true forget answers, phrased anew",
    ),
    _forget(
        "forget_rougeL_recall",
        "forget ROUGE",
        NEAR_RETAIN,
        "Share of the forget answers that the model says again",
    ),
    _forget(
        "train_set_forget_mean_probability_gt",
        "taught forget prob",
        NEAR_RETAIN,
        "Of the forget answers, as they were taught",
    ),
    _forget(
        "train_set_forget_rougeL_recall",
        "taught forget ROUGE",
        NEAR_RETAIN,
        "Share of these that the model says again",
    ),
    _retain(
        "train_set_retain_mean_probability_gt",
        "taught retain prob",
        "Of the retain answers, as they were taught",
    ),
    _retain(
        "retain_model_utility_3",
        "retain utility",
        "Truth ratio, ROUGE and probability of the retain rows",
    ),
    _retain(
        "entity_retain_model_utility_3",
        "kin utility",
        "The same of rows about an entity of a forgotten row",
    ),
    _retain(
        "non_entity_retain_model_utility_3", "others' utility", "The same of all other retain rows"
    ),
    _forget(
        "privleak",
        "privleak",
        NEAR_ZERO,
        "Membership inference against the retain model's, in percent",
        1,
    ),
)


def read_descriptions(found: dict[str, Any], what: str, file: Path) -> dict[str, Column]:
    """Read the columns that a <SUITE>_METRICS.json describes, by metric, in its order.

    Args:
        found: the file's content.
        what: whose file it is, for the error.
        file: where it is, for the error.

    Raises:
        UserError: an entry is no description.
    """
    return {
        metric: _read_description(metric, entry, f"{what}: {file}: {metric}")
        for metric, entry in found.items()
    }


def _read_description(metric: str, entry: object, where: str) -> Column:
    if not isinstance(entry, dict):
        raise UserError(
            f"{where}: holds {type(entry).__name__} where a description is needed; evaluate the "
            f"run again"
        )
    better, role = entry.get("better") or "", entry.get("role") or ""
    for key, value, allowed in (("better", better, DIRECTIONS), ("role", role, ROLES)):
        if value and value not in allowed:
            raise UserError(
                f"{where}: {key} is {value!r}; it must be one of {', '.join(allowed)}, or null"
            )
    decimals = entry.get("decimals")
    return Column(
        metric,
        str(entry.get("label") or metric),
        better,
        str(entry.get("meaning") or ""),
        decimals if isinstance(decimals, int) else 3,
        role,
    )
