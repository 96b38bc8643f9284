"""What holds a model while it forgets, and on what its budget is measured.

Rows to keep, where they are given; a fifth of them is left out of training, and the budget is
measured on what the model answers to them. Without such rows the model's own text holds it, and
other text of its own is what the budget is measured on.
"""

from dataclasses import dataclass
from pathlib import Path

from unteach.audits.facts import read_texts
from unteach.data.streams import Stream
from unteach.json_files import write_lines
from unteach.models.loading import LoadedModel
from unteach.seeds import derive_seed, permutation
from unteach.training.own_rows import sample_rows

RETAIN, PROMPTS = "retain.jsonl", "prompts.jsonl"
MEASURED_SHARE = 5
"""One in so many rows to keep is measured on, and not trained on."""
NUM_OWN, NUM_TOKENS = 128, 64
"""Texts of the model's own, and their tokens."""


@dataclass(frozen=True)
class Texts:
    """What a request's runs read beside its rows.

    Attributes:
        retain: the file of what holds the model.
        prompts: the file of prompts that the budget is measured on; None: openings of no subject.
        own: whether the model wrote `retain` itself.
    """

    retain: str
    prompts: str | None
    own: bool = False


def split_retain_rows(stream: Stream, folder: Path, seed: int, holdout: str | None) -> Texts:
    """Split rows to keep into those that hold the model and those that the budget is measured on;
    with rows that no model was taught at hand, those are measured on."""
    rows = [{"question": question, "answer": answer} for question, answer in read_texts(stream)]
    if holdout is not None or len(rows) < MEASURED_SHARE:
        write_lines(folder / RETAIN, rows)
        return Texts(str(folder / RETAIN), holdout)
    order = permutation(len(rows), derive_seed(seed, "budget"), "budget")
    num_measured = max(1, len(rows) // MEASURED_SHARE)
    measured = [rows[index] for index in sorted(order[:num_measured])]
    kept = [rows[index] for index in sorted(order[num_measured:])]
    write_lines(folder / RETAIN, kept)
    write_lines(folder / PROMPTS, measured)
    return Texts(str(folder / RETAIN), str(folder / PROMPTS))


def write_own_texts(loaded: LoadedModel, folder: Path, seed: int, holdout: str | None) -> Texts:
    """Have the model write texts of its own as rows to keep."""
    rows = sample_rows(loaded, NUM_OWN, NUM_TOKENS, derive_seed(seed, "own rows"))
    write_lines(folder / RETAIN, rows)
    return Texts(str(folder / RETAIN), holdout, own=True)
