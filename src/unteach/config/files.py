"""Rows of one's own: what `data=files` is told about them and their columns."""

import re
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, Literal

from unteach.errors import UserError

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow", ".txt")
"""Endings of files of rows."""
GZIP, ZSTANDARD = ".gz", ".zst"
COMPRESSED = (GZIP, ZSTANDARD)
"""Endings that may stand after these but PACKED_TABLES, which are compressed by themselves."""
PACKED_TABLES = (".parquet", ".arrow")
Source = str | dict[str, Any]
"""A file or folder, a hub id, either with a split (`owner/name:test`), or the arguments of
`datasets.load_dataset`."""


def get_format(file: str | PurePath) -> str:
    """Get the ending that says how the rows of a file are written: `.jsonl` of rows.jsonl.gz; ""
    of a name that is no file of rows."""
    path = PurePath(str(file).lower())
    is_compressed = path.suffix in COMPRESSED
    if is_compressed:
        path = PurePath(path.stem)
    if path.suffix not in TABLES or (is_compressed and path.suffix in PACKED_TABLES):
        return ""
    return path.suffix


def get_stem(file: PurePath) -> str:
    """Get the name of a file of rows without its endings."""
    return PurePath(file.stem).stem if file.suffix.lower() in COMPRESSED else file.stem


@dataclass(frozen=True)
class Files:
    """Rows of your own (`data=files`): for each stream a file (csv, tsv, jsonl, json, txt, also
    with .gz or .zst after it; parquet, arrow), a folder of such files or of `unteach tokenize`, a
    hub id (its split train) or `owner/name:split`, or load_dataset's arguments.

    Columns are found by the names of what they are for: input and output, prompt and completion (or
    generation), question and answer, instruction (with input, system, history) and output, messages
    or conversations (with system and tools), text, chosen and rejected, label, forget, alternate.
    """

    train_file: Source | None = None
    """a method that unlearns takes the rows with forget=1 of it, and retains the others; all,
    without such a column"""
    validation_file: Source | None = None
    forget_file: Source | None = None
    retain_file: Source | None = None
    holdout_file: Source | None = None
    """rows of the same kind that the model never sees: measured beside the others, and never
    trained on"""
    refusal_file: Source | None = None
    """prompts that the model refuses to answer (LUNAR); a column of them is enough"""
    landing_file: Source | None = None
    """prompts outside all other rows; trainer.land measures on the answers that the model writes to
    them; null: on what it writes by itself"""
    validation_fraction: float = 0.0
    """the share of train_file's rows that is held out, as a function of the seed"""
    max_rows: int | dict[str, int] | None = None
    """at most so many rows of each file, drawn by the seed; or a number for each stream"""
    columns: dict[str, str] = field(default_factory=dict)
    """what a column is for -> its name, where that is another: data.columns.input=Frage"""
    max_length: int | None = None
    """tokens of a row; null: as many as the model's context has, up to 2048"""
    too_long: Literal["truncate_right", "truncate_left", "drop", "split"] | None = None
    """what becomes of a longer row with an answer; null: truncate_right"""
    turns: Literal["all", "last"] | None = None
    """which turns of the assistant are learned where a row has several; null: all"""
    packing: Literal["chunked", "apart", "best_fit"] | None = None
    """how text is cut into rows; null: chunked"""
    pretrain_with_output: bool | None = None
    """whether pretraining learns the output column too; null: true"""
    txt: Literal["document", "line"] | None = None
    """what a .txt file holds; null: one document"""
    marked: Literal["forget", "retain"] | None = None
    """which rows of train_file are learned, by its column forget: with 1 (forget) or with 0
    (retain); null: all"""
    allow_overlap: bool = False
    """whether the same row may be forgotten and retained; it is trained on as both, and counted"""

    def __post_init__(self) -> None:
        for name, source in (
            (one.name, getattr(self, one.name))
            for one in fields(self)
            if one.name.endswith("_file")
        ):
            if isinstance(source, str) and not source.strip():
                raise UserError(f"{name}: names no file; null where there is none")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction must be at least 0 and less than 1, got "
                f"{self.validation_fraction:g}"
            )
        if self.validation_fraction and self.validation_file is not None:
            raise UserError(
                "validation_file and validation_fraction both say what to validate on; give one"
            )
        if self.validation_fraction and self.train_file is None:
            raise UserError("validation_fraction holds out rows of train_file, and there is none")
        if self.marked and self.train_file is None:
            raise UserError("marked chooses among the rows of train_file, and there is none")
        if self.max_length is not None and self.max_length < 2:
            raise UserError(f"max_length must be at least 2, got {self.max_length}")
        limits = self.max_rows if isinstance(self.max_rows, dict) else {"train": self.max_rows}
        for stream, most in limits.items():
            if (
                self.get_source(stream) is None
                and most is not None
                and isinstance(self.max_rows, dict)
            ):
                of_train = stream in ("forget", "retain") or (
                    stream == "validation" and self.validation_fraction
                )
                if not (of_train and self.train_file is not None):
                    raise UserError(f"max_rows.{stream}: there is no {stream}_file")
            if most is not None and most < 1:
                raise UserError(f"max_rows must be at least 1, got {most}")

    def get_source(self, stream: str) -> Source | None:
        """Return the file of a stream."""
        found: Source | None = getattr(self, f"{stream}_file", None)
        return found

    def get_max_rows(self, stream: str) -> int | None:
        """Return how many rows are read of a stream at most; None: all."""
        if isinstance(self.max_rows, dict):
            return self.max_rows.get(stream)
        return self.max_rows


def name_and_split(source: str) -> tuple[str, str | None]:
    """`name:split` as the two, where the split may be a slice of one or a sum of such
    (train[:10%]+test)."""
    found = re.fullmatch(r"([^:\[\]]+):(\w[\w.-]*(?:\[[^\]]*\])?(?:\+.+)?)", source)
    if found is None:
        return source, None
    return found[1], found[2]


FILE_KEYS = frozenset(one.name for one in fields(Files))
RENAMED_FILE_KEYS = {
    "eval_file": "validation_file",
    "test_file": "holdout_file, rows that are measured and never trained on",
    "train_validation_split": "validation_fraction, the share that is held out (1 less what it "
    "was)",
    "validation_test_split": "validation_fraction; rows that are only measured are "
    "data.holdout_file",
    "max_train_samples": "max_rows.train",
    "max_valid_samples": "max_rows.validation",
    "max_test_samples": "max_rows.validation",
    "max_input_length": "max_length",
    "input_column": "columns.input",
    "output_column": "columns.output",
    "chosen_column": "columns.chosen",
    "rejected_column": "columns.rejected",
    "ga_forget_column": "columns.forget",
}
"""What llm-utils and training-code call these keys -> what they are called here."""
