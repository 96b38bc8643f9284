"""What holds a model while it forgets, on what its budget is measured, and what stands beside the
facts in its audits: files of one form, whatever the user's files are like.

Rows to keep, where they are given, hold it; a fifth of them is left out of training, and the budget
is measured on what the model answers to them. Documents ask nothing: all of them hold it, and the
budget is measured on text of the model's own. Without rows to keep its own text holds it, and other
text of its own is what the budget is measured on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unteach.audits.facts import Fact, read_facts
from unteach.audits.taught_rows import group_by_row
from unteach.config.schema import ModelConfig
from unteach.data.streams import Stream
from unteach.forgetting.known_rows import describe_labelled_row
from unteach.json_files import write_lines
from unteach.models import loading
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
    rows = group_by_row(read_facts(retain))
    write_lines(folder / KEPT, map(describe_labelled_row, rows))
    unseen, prompts = write_unseen(holdout, folder)
    asks = not rows[0][0].is_document
    num_measured = len(rows) // MEASURED_SHARE if asks and unseen is None else 0
    order = permutation(len(rows), seed, "budget")
    measured, trained = sorted(order[:num_measured]), sorted(order[num_measured:])
    write_lines(folder / RETAIN, [describe_labelled_row(rows[index]) for index in trained])
    if measured:
        prompts = _write_prompts([rows[index] for index in measured], folder)
    return Texts(folder / RETAIN, prompts, folder / KEPT, unseen)


def write_own_texts(model: ModelConfig, holdout: Stream | None, folder: Path, seed: int) -> Texts:
    """Have the model write texts of its own as rows to keep; it does so once."""
    if not (folder / RETAIN).exists():
        loaded = loading.load(model, training=False)
        rows = sample_rows(loaded, NUM_OWN, NUM_TOKENS, derive_seed(seed, "own rows"))
        write_lines(folder / RETAIN, rows)
    unseen, prompts = write_unseen(holdout, folder)
    return Texts(folder / RETAIN, prompts, None, unseen)


def write_unseen(holdout: Stream | None, folder: Path) -> tuple[Path | None, Path | None]:
    """Write the rows that no model was taught, and what they ask; None where there are none, and
    where they ask nothing."""
    if holdout is None:
        return None, None
    rows = group_by_row(read_facts(holdout))
    unseen = folder / UNSEEN
    write_lines(unseen, map(describe_labelled_row, rows))
    match rows[0][0].form:
        case "document":
            return unseen, None
        case "chat":
            return unseen, _write_prompts(rows, folder)
        case _:
            return unseen, unseen


def _write_prompts(rows: Sequence[list[Fact]], folder: Path) -> Path:
    """Write rows whose prompts the budget is measured on; of chats the last questions alone."""
    prompts = []
    for facts in rows:
        is_chat = facts[-1].form == "chat"
        prompts.append(
            {"question": facts[-1].question} if is_chat else describe_labelled_row(facts)
        )
    write_lines(folder / PROMPTS, prompts)
    return folder / PROMPTS
