"""A dataset for a file of the user's own: the one whose columns it has, or that of its tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unteach import registry
from unteach.config import schema
from unteach.config.files import Files, Source, get_format
from unteach.config.schema import PROMPT_STREAMS, DatasetConfig, TemplateArgs
from unteach.data.column_layouts import (
    LAYOUTS,
    ColumnLayout,
    find_layout,
    list_text_layouts,
    note_unread,
)
from unteach.data.handlers.qa import QADataset
from unteach.data.io.tables import Table, open_table
from unteach.data.io.tokenized_paths import is_tokenized
from unteach.data.row_selection import RowSelection
from unteach.data.streams import ALTERNATE, RETAIN_ALTERNATE
from unteach.data.tokenized import token_files
from unteach.errors import UserError
from unteach.wording import format_count

TRAINING_ROLES = ("forget", "alternate")
"""Columns that say what training makes of a row."""
STREAMS_WITH_ALTERNATES = {"forget": ALTERNATE, "retain": RETAIN_ALTERNATE}
"""The stream of other answers that may stand beside a stream's rows."""
DATASET_SETTINGS = ("max_length", "too_long", "packing")
"""Keys of `data` that go to a dataset which has a field of that name."""


class FileDatasets:
    """Builds the datasets that read files, and remembers what it found in them.

    Args:
        files: what the user says of the files.
        method: the method that trains on them; None where rows are only measured.
        kind: the method's ROWS, a key of LAYOUTS.
        read_beside: columns that something reads beside the datasets.
    """

    def __init__(self, files: Files, method: Any, kind: str, read_beside: Sequence[str] = ()):
        self.files = files
        self.method = method
        self.kind = kind
        self.read_beside = list(read_beside)
        self.notes: list[str] = []
        """how each file is read"""
        self.used_settings: set[str] = set()
        """keys of `data` that some dataset takes"""
        self._tables: dict[str, Table] = {}
        self._is_raw: dict[str, bool] = {}
        self._made_with: TemplateArgs | None = None

    def open_table(self, source: Source) -> Table:
        """Open a source with the columns of all its rows, so that none that turns up late is left
        unread in silence."""
        key = str(source)
        if key not in self._tables:
            by_line = self.files.txt == "line"
            self._tables[key] = open_table(source, by_line=by_line, whole=True)
        return self._tables[key]

    def build(
        self,
        stream: str,
        source: Source,
        selection: RowSelection,
    ) -> DatasetConfig:
        """Build the dataset that reads a source for a stream.

        Args:
            stream: the stream's name.
            source: where its rows are.
            selection: which of them it takes.

        Raises:
            UserError: the source has not the columns, or the tokens, that the method reads.
        """
        hf_args: dict[str, Any] = {"path": source}
        if isinstance(source, dict):
            hf_args = dict(source)
        hf_args["choice"] = selection
        if isinstance(source, str) and is_tokenized(source):
            return self._build_of_tokens(stream, Path(source), hf_args)

        # The layout that the columns have says which dataset reads them.
        table = self.open_table(source)
        layouts = self._list_layouts(stream, table)
        mapped = self._map_columns(stream, table, layouts, selection)
        layout = find_layout(table.where, table.columns, layouts, mapped)
        columns = layout.list_columns(mapped)
        self._note_reading(stream, table, layout, columns)
        flag_columns = [selection.flag] if selection.flag else []
        for note in note_unread(table, columns + flag_columns + self.read_beside):
            self.notes.append(f"data.{stream}: {note}")

        # Keys of `data` that these rows take.
        if any(get_format(file) == ".txt" for file in table.files):
            self.used_settings.add("txt")
        if self.kind == "text" and "text" not in layout.roles:
            self.used_settings.add("pretrain_with_output")
        has_history = layout.handler == "QADataset" and "history" in layout.roles
        has_turns = layout.handler == "ChatDataset" or has_history
        arguments = layout.build_arguments(mapped)
        arguments.update(self._collect_settings(layout.handler, has_turns))
        return DatasetConfig.find(layout.handler, {**arguments, "hf_args": hf_args})

    def _map_columns(
        self,
        stream: str,
        table: Table,
        layouts: tuple[ColumnLayout, ...],
        selection: RowSelection,
    ) -> dict[str, str]:
        """Map roles to the columns that the user names for them, where this stream has the role."""
        roles: set[str] = set()
        for layout in layouts:
            roles.update(layout.roles)
        mapped = {}
        for role, column in self.files.columns.items():
            if role == "forget" and selection.flag is not None:
                continue  # the selection reads it
            # Rows never seen need no column that only rows of training have.
            if stream == "holdout" and role in TRAINING_ROLES and role not in roles:
                continue
            # So do prompts, which are not answered; other streams may have them in another column.
            if stream in PROMPT_STREAMS and (role not in roles or column not in table.columns):
                continue
            if role == "alternate" and self._names_other_rows(stream, table):
                continue
            mapped[role] = column
        return mapped

    def _names_other_rows(self, stream: str, table: Table) -> bool:
        """Whether the column that is named for other answers is one of another stream's rows, and
        none of these."""
        column = self.files.columns.get("alternate")
        if column is None or (self._needs_alternates(stream) and column in table.columns):
            return False
        for other in STREAMS_WITH_ALTERNATES:
            source = self.files.get_source(other) or self.files.train_file
            if other == stream or source is None or not self._needs_alternates(other):
                continue
            if not is_tokenized(source) and column in self.open_table(source).columns:
                return True
        return False

    def _list_layouts(self, stream: str, table: Table) -> tuple[ColumnLayout, ...]:
        """List the ways in which the rows of a stream may be written for this method."""
        if stream == "holdout" and self.kind == "signed":
            return LAYOUTS["answers"]
        if stream in PROMPT_STREAMS:
            return LAYOUTS["prompts"]
        if self._needs_alternates(stream):
            is_named = "alternate" in self.files.columns
            if "alternate" in table.columns or (
                is_named and not self._names_other_rows(stream, table)
            ):
                return LAYOUTS["alternates"]
            if not self.method.MISMATCHES:
                return LAYOUTS["refusals"]
        if self.kind == "text":
            return list_text_layouts(self.files.pretrain_with_output)
        return LAYOUTS[self.kind]

    def _needs_alternates(self, stream: str) -> bool:
        """Whether the method takes other answers from the rows of a stream, and invents none."""
        beside = STREAMS_WITH_ALTERNATES.get(stream)
        if not self.method or beside not in self.method.streams():
            return False
        return self.method.ask("", "") is None

    def _note_reading(
        self,
        stream: str,
        table: Table,
        layout: ColumnLayout,
        columns: list[str],
    ) -> None:
        """Note by which columns a stream is read, and whether its words are taken as they are."""
        way = ""
        if layout.raw is not None:
            _, first_row = next(iter(table))
            # Conversations have no words to take as they are.
            has_lists = any(isinstance(cell, list) for cell in first_row.values())
            is_raw = layout.raw and not has_lists
            self._is_raw[stream] = is_raw
            way = " (as they are)" if is_raw else " (through the template)"
        names = ", ".join(columns)
        self.notes.append(f"data.{stream}: {table.where}, by its columns {names}{way}")

    def _collect_settings(self, handler: str, has_turns: bool = False) -> dict[str, Any]:
        """Collect the keys of `data` that a dataset has a field for.

        Args:
            handler: the dataset.
            has_turns: whether a row may have several turns, so that `turns` is one of them.
        """
        fields = getattr(registry.dataset.get(handler), "__dataclass_fields__", {})
        settings = {}
        for name in (*DATASET_SETTINGS, "turns") if has_turns else DATASET_SETTINGS:
            value = getattr(self.files, name)
            if value is not None and name in fields:
                settings[name] = value
        self.used_settings.update(settings)
        is_best_fit = settings.get("packing") == "best_fit"
        if is_best_fit and isinstance(self.method, schema.TheirTrainer):
            raise UserError(
                "data.packing=best_fit: a plugin's Trainer does not keep the documents of a row "
                "apart"
            )
        return settings

    def _build_of_tokens(
        self,
        stream: str,
        path: Path,
        hf_args: dict[str, Any],
    ) -> DatasetConfig:
        """Build a dataset of tokens.

        Args:
            stream: the stream's name.
            path: a tokenised folder, or a file of training-code.
            hf_args: the dataset's source.

        Raises:
            UserError: they are of another kind than the method trains on.
        """
        if path.is_dir():
            manifest = token_files.read_manifest(path)
            is_text = manifest.get("kind") == "text"
        else:
            manifest = {}
            is_text = token_files.is_text_file(path)
        if self.kind not in ("answers", "text") or (self.kind == "text" and not is_text):
            content = "text" if is_text else "prompts with answers"
            raise UserError(
                f"data.{stream}: {path} holds the tokens of {content}, which this method is not "
                f"trained on"
            )
        num_rows = manifest.get("rows", {}).get("kept")
        rows = "rows" if num_rows is None else format_count(num_rows, "row")
        self.notes.append(f"data.{stream}: {path}, tokens of {rows}")

        if is_text:
            settings = self._collect_settings("PretrainingDataset")
            if manifest:
                settings.setdefault("max_length", manifest["max_length"])
            return DatasetConfig.find("PretrainingDataset", {**settings, "hf_args": hf_args})
        if manifest:
            made_with = dict(manifest["template"])
            made_with.pop("chat_template", None)
            self._made_with = TemplateArgs(**made_with)
        return DatasetConfig.find("TokenizedDataset", {"hf_args": hf_args})

    def choose_template(
        self,
        args: TemplateArgs,
        other_streams: Mapping[str, Mapping[str, DatasetConfig]],
    ) -> TemplateArgs:
        """Choose the run's template.

        Args:
            args: the user's; they hold where they name a kind.
            other_streams: streams of the run that read no files; their questions go through the
                template.

        Returns:
            What the user named, what the tokens were made with, or what the columns say.
        """
        if args.kind != "auto":
            return args
        if self._made_with is not None:
            return self._made_with
        is_raw: dict[str, bool] = {}
        for stream, parts in other_streams.items():
            if any(issubclass(part.cls, QADataset) for part in parts.values()):
                is_raw[stream] = False
        is_raw.update(self._is_raw)
        if len(set(is_raw.values())) > 1:
            ways = []
            for stream, is_stream_raw in is_raw.items():
                way = "as it is" if is_stream_raw else "through the template"
                ways.append(f"data.{stream} {way}")
            raise UserError(
                f"the words of the streams are taken in two ways ({', '.join(ways)}): set "
                "template=raw, chat or qa"
            )
        return replace(args, kind="raw") if any(is_raw.values()) else args
