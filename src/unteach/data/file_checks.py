"""What the user says of files must fit together: no key is ignored, no row is on two sides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unteach.config.files import Files
from unteach.config.schema import LANDING, NO_LANDING, PROMPT_STREAMS, DatasetConfig
from unteach.config.suites import MEASURED_KINDS
from unteach.data.stream_overlap import (
    are_comparable,
    find_overlap_in_files,
    find_shared_rows,
    has_only_tokens,
)
from unteach.errors import UserError

SETTINGS = {
    "max_length": "rows that are tokenised here; a tokenised file has its own",
    "too_long": "prompts with answers; text is cut into pieces",
    "turns": "conversations, and instructions with a history",
    "packing": "text that is learned whole",
    "pretrain_with_output": "trainer=pretrain on columns input and output",
    "txt": ".txt files",
}
"""Keys of `data` that not every kind of rows takes, and what they are for."""
SOURCE_STREAMS = ("train", "forget", "retain")
"""Streams that rows are trained on, each with a file of its own."""


@dataclass
class FileStreams:
    """The streams of a run that read the user's files.

    Args:
        files: what the user says of the files.
        method: the method that trains on them; None where rows are only measured.
        kind: the method's ROWS.
        measures_rows: whether a suite of the run measures such rows by their role.
        wanted: the streams that the method trains on.
        trained: the datasets of these, and of `validation`.
        measured: the datasets that are only measured, by role.
        reads_train_file: whether one of them reads rows of train_file.
    """

    files: Files
    method: Any
    kind: str
    measures_rows: bool
    wanted: list[str]
    trained: dict[str, DatasetConfig] = field(default_factory=dict)
    measured: dict[str, DatasetConfig] = field(default_factory=dict)
    reads_train_file: bool = False

    @property
    def parts(self) -> dict[str, DatasetConfig]:
        """All datasets by stream, trained on or only measured."""
        return {**self.trained, **self.measured}

    def explain_alpha(self) -> str:
        """Say what makes the method train on rows to retain, where its retain term is off."""
        if getattr(self.method, "alpha", None) != 0:
            return ""
        return "trainer.method_args.alpha=1 makes the method train on them too"


def refuse_unused(streams: FileStreams, used_settings: set[str]) -> None:
    """Refuse a key of `data` that the run would ignore."""
    files = streams.files
    for stream in (*SOURCE_STREAMS, *PROMPT_STREAMS):
        is_read = stream in streams.parts
        if stream == "train":
            is_read |= streams.reads_train_file
        if files.get_source(stream) is not None and not is_read:
            raise UserError(_explain_unread_file(streams, stream))
    if files.holdout_file is not None and "holdout" not in streams.parts:
        raise UserError(_explain_unread_holdout(streams))
    if isinstance(files.max_rows, dict):
        for stream, limit in files.max_rows.items():
            if limit is not None and stream not in streams.parts:
                raise UserError(
                    f"data.max_rows.{stream}: this run reads no rows as {stream}; it reads them as "
                    f"{', '.join(streams.parts)}"
                )
    for name, purpose in SETTINGS.items():
        if getattr(files, name) is not None and name not in used_settings:
            raise UserError(f"data.{name}: nothing here takes it; it is for {purpose}")
    if files.marked and ("train" not in streams.trained or streams.kind == "signed"):
        raise UserError(
            f"data.marked={files.marked}: chooses among rows that are learned, and this method "
            "reads the column forget by itself; leave it out"
        )


def _explain_unread_file(streams: FileStreams, stream: str) -> str:
    """Say that a stream's file is not read, and what would read it."""
    if stream == LANDING:
        return f"data.{stream}_file: {NO_LANDING}"
    reason = ""
    if stream == "retain":
        # The suite rows asks for what is retained only beside rows to forget.
        is_measurable = "forget" in streams.wanted and streams.kind in MEASURED_KINDS
        if is_measurable and not streams.measures_rows:
            reason += ", and no suite measures it (eval=rows would)"
        if hint := streams.explain_alpha():
            reason += f"; {hint}"
    return (
        f"data.{stream}_file: this method does not train on it; it trains on "
        f"{', '.join(streams.wanted)}{reason}"
    )


def _explain_unread_holdout(streams: FileStreams) -> str:
    """Say why no suite measures the rows that are never seen."""
    has_files = any(streams.files.get_source(stream) for stream in SOURCE_STREAMS)
    if streams.method is not None and not has_files:
        usage = "forget=FILE retain=FILE, or data=FILE"
        if "train" in streams.wanted:
            usage = "data=FILE"
        reason = f"no file of rows to train on is named beside it: {usage}"
    elif streams.kind in MEASURED_KINDS:
        reason = "this run has no such suite (leave eval out, or set eval=rows)"
    else:
        reason = f"rows of {streams.kind} have no answers that it could ask for"
    return f"data.holdout_file: these rows are measured by the suite rows, and {reason}"


def refuse_overlap(streams: FileStreams) -> list[str]:
    """Refuse a row that is to go and to stay, or trained on and never seen.

    Returns:
        Notes: rows that are shared where the user allows it, or by `validation`, and streams that
        cannot be compared.
    """
    parts = streams.parts
    notes = _note_not_compared(parts, streams.wanted)

    overlaps = [find_overlap_in_files(parts)]
    for stream in SOURCE_STREAMS:
        if "holdout" in parts and stream in parts:
            role = f"both holdout and {stream}"
            overlaps.append(find_shared_rows(parts["holdout"], parts[stream], role))
    allows = streams.files.allow_overlap
    if allows and all(overlap is None for overlap in overlaps):
        raise UserError(
            "data.allow_overlap: nothing here takes it; it is for rows to forget and rows to retain"
        )
    shared = [overlap for overlap in overlaps if overlap]
    if shared and not allows:
        verb = "trains on" if streams.method is not None and not streams.measured else "takes"
        raise UserError(
            f"{'; '.join(shared)}; take them out of one of the two, or set "
            f"data.allow_overlap=true, which {verb} them in both"
        )
    notes += shared

    if streams.files.validation_file is not None:
        for stream in streams.wanted:
            if stream not in streams.trained:
                continue
            role = f"both validation and {stream}"
            if note := find_shared_rows(parts["validation"], parts[stream], role):
                notes.append(note)
    return notes


def _note_not_compared(parts: Mapping[str, DatasetConfig], wanted: list[str]) -> list[str]:
    """Note which streams may share rows unseen, as one has its words and the other only tokens."""
    pairs = [("forget", "retain")]
    for apart in ("holdout", "validation"):
        pairs += [(apart, stream) for stream in wanted]
    notes = []
    for first, second in pairs:
        if first not in parts or second not in parts:
            continue
        if not are_comparable(parts[first], parts[second]):
            of_tokens = first if has_only_tokens(parts[first]) else second
            notes.append(
                f"data.{first} and data.{second} cannot be compared, as data.{of_tokens} has "
                "tokens and no words: a row that stands in both is not noticed"
            )
    return notes
