"""What holds a model while it forgets, on what its budget is measured, and what stands beside the
facts in its audits: files of one form, whatever the user's files are like.

Rows to keep, where they are given, hold it; a fifth of them is left out of training, and the budget
is measured on what the model answers to them. Without such rows the model's own text holds it, and
other text of its own is what the budget is measured on.
"""

from dataclasses import dataclass
from pathlib import Path

from unteach.audits.facts import read_facts
from unteach.data.streams import Stream
from unteach.forgetting.known_rows import describe_fact
from unteach.json_files import write_lines
from unteach.models.loading import LoadedModel
from unteach.seeds import derive_seed, permutation
from unteach.training.own_rows import sample_rows

RETAIN, PROMPTS, KEPT, UNSEEN = "retain.jsonl", "prompts.jsonl", "kept.jsonl", "unseen.jsonl"
MEASURED_SHARE = 5
"""One in so many rows to keep is measured on, and not trained on."""
NUM_OWN, NUM_TOKENS = 128, 64
"""Texts of the model's own, and their tokens."""


@dataclass(frozen=True)
class Texts:
    """The files that a request's runs read beside its rows.

    Attributes:
        retain: what holds the model; None where nothing has to.
        prompts: what the budget is measured on; None: openings of no subject.
        kept: all rows to keep, for the audits; None where the model's own text holds it.
        unseen: rows that no model was taught; None without such.
    """

    retain: Path | None
    prompts: Path | None
    kept: Path | None
    unseen: Path | None


def write_retain_rows(retain: Stream, holdout: Stream | None, folder: Path, seed: int) -> Texts:
    """Write rows to keep: those that hold the model, and those that the budget is measured on; with
    rows that no model was taught at hand, those are measured on."""
    rows = [describe_fact(fact) for fact in read_facts(retain)]
    write_lines(folder / KEPT, rows)
    unseen = write_unseen(holdout, folder)
    num_measured = 0 if unseen is not None else len(rows) // MEASURED_SHARE
    order = permutation(len(rows), seed, "budget")
    measured, trained = sorted(order[:num_measured]), sorted(order[num_measured:])
    write_lines(folder / RETAIN, [rows[index] for index in trained])
    prompts = unseen
    if measured:
        prompts = folder / PROMPTS
        write_lines(prompts, [rows[index] for index in measured])
    return Texts(folder / RETAIN, prompts, folder / KEPT, unseen)


def write_own_texts(loaded: LoadedModel, holdout: Stream | None, folder: Path, seed: int) -> Texts:
    """Have the model write texts of its own as rows to keep; it does so once."""
    if not (folder / RETAIN).exists():
        rows = sample_rows(loaded, NUM_OWN, NUM_TOKENS, derive_seed(seed, "own rows"))
        write_lines(folder / RETAIN, rows)
    unseen = write_unseen(holdout, folder)
    return Texts(folder / RETAIN, unseen, None, unseen)


def write_unseen(holdout: Stream | None, folder: Path) -> Path | None:
    """Write the rows that no model was taught; None where there are none."""
    if holdout is None:
        return None
    write_lines(folder / UNSEEN, [describe_fact(fact) for fact in read_facts(holdout)])
    return folder / UNSEEN
