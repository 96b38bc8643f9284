"""`data=files`: which rows of the user's own files each stream of the run reads."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from unteach.config import schema
from unteach.config.audits import FACT_COLUMNS
from unteach.config.files import Files
from unteach.config.schema import DatasetConfig
from unteach.config.suites import MEASURED_KINDS
from unteach.data.column_layouts import explain_no_such_column, name_column
from unteach.data.file_checks import SOURCE_STREAMS, FileStreams, refuse_overlap, refuse_unused
from unteach.data.file_datasets import FileDatasets
from unteach.data.io import tokenized_paths
from unteach.data.row_errors import RowErrors
from unteach.data.row_selection import RowSelection, parse_flag
from unteach.data.rows import Rows
from unteach.errors import UserError, find_nearest
from unteach.wording import format_count

Run = TypeVar("Run", bound=schema.RunConfig)
ONLY_MEASURED = "these rows are only measured"
"""What is said of rows that a method does not train on."""


def resolve_files(config: Run) -> Run:
    """Give the configuration with a dataset for each of the user's own files, in `data.streams`.

    The last stage of a configuration, before torch is imported; `data.notes` says how the files are
    read. Words that are taken as they are make the run's template `raw`, unless the user named one;
    a tokenised file brings the template that it was made with.

    Raises:
        UserError: where the files do not hold what the method trains on.
    """
    if config.data is None or config.data.files is None:
        return config
    finder = StreamFinder(config, config.data.files)
    found = finder.find_streams()
    streams = {**config.data.streams, **_wrap(found.trained)}
    anchor = config.data.anchor or next(iter(found.wanted), "")
    if anchor not in streams and isinstance(config, schema.TrainConfig):
        names = ", ".join(streams)
        raise UserError(
            f"data.anchor: {anchor!r} is not a stream of this run; its streams: {names}"
        )
    template_args = finder.datasets.choose_template(
        config.model.template_args,
        config.data.streams,
    )
    model = replace(config.model, template_args=template_args)
    measured = _wrap(found.measured)
    data = replace(
        config.data,
        streams=streams,
        anchor=anchor,
        measured=measured,
        notes=tuple(finder.notes),
    )
    return replace(config, model=model, data=data)


def _wrap(parts: dict[str, DatasetConfig]) -> dict[str, dict[str, DatasetConfig]]:
    """Give each stream its dataset under a name, as a configuration has them."""
    return {stream: {"file": part} for stream, part in parts.items()}


class StreamFinder:
    """Finds which rows of the files each stream reads; `notes` says how, a sentence a stream."""

    def __init__(self, config: schema.RunConfig, files: Files):
        method = config.trainer.method if isinstance(config, schema.TrainConfig) else None
        kind = getattr(method, "ROWS", "answers")
        self.lands = isinstance(config, schema.TrainConfig) and config.trainer.does_land
        self.files = files
        self.seed = config.seed
        self.token_cache = Path(config.paths.cache_dir) / "tokens"
        self.method = method
        read_beside = FACT_COLUMNS if isinstance(config, schema.AuditConfig) else ()
        self.datasets = FileDatasets(files, method, kind, read_beside)
        self.notes = self.datasets.notes
        self.streams = FileStreams(
            files=files,
            method=method,
            kind=kind,
            measures_rows=config.measures_own_rows() and kind in MEASURED_KINDS,
            wanted=self._list_wanted(),
        )

    def _list_wanted(self) -> list[str]:
        """List the streams that the method trains on; where none says so, those that there are
        files of."""
        with_file = [
            stream for stream in SOURCE_STREAMS if self.files.get_source(stream) is not None
        ]
        if isinstance(self.method, schema.TheirTrainer):
            return with_file or ["train"]
        if self.method is not None:
            names = [schema.BESIDE.get(name, name) for name in self.method.streams()]
            return list(dict.fromkeys(names)) or ["train"]
        # Rows that are only measured may be marked in train_file.
        marked = [stream for stream in ("forget", "retain") if self._list_marked(stream)]
        if not marked:
            return with_file
        not_marked = [stream for stream in with_file if stream not in ("train", *marked)]
        return marked + not_marked

    def find_streams(self) -> FileStreams:
        """Find the datasets that are trained on, for `validation`, and only measured.

        Raises:
            UserError: something that the user says would be ignored, or a row is on two sides.
        """
        streams = self.streams
        self._add_trained()
        self._add_validation()
        if self.lands and self.files.landing_file is not None:
            streams.trained[schema.LANDING] = self._build(schema.LANDING)
        if streams.measures_rows:
            self._add_measured()
        refuse_unused(streams, self.datasets.used_settings)
        if streams.reads_train_file and "train" not in streams.wanted:
            self._refuse_unused_marks()
        self.notes += refuse_overlap(streams)
        hint = streams.explain_alpha()
        if "retain" in streams.measured and hint:
            self.notes.append(f"data.retain: {ONLY_MEASURED}; {hint}")
        return streams

    def _add_trained(self) -> None:
        """Add the streams that the method trains on, each from its file or from train_file."""
        for stream in self.streams.wanted:
            if self.files.get_source(stream) is not None:
                self.streams.trained[stream] = self._build(stream)
                self.streams.reads_train_file |= stream == "train"
            elif self.files.train_file is not None and stream in ("forget", "retain"):
                self.streams.trained[stream] = self._build_marked(stream)
                self.streams.reads_train_file = True

    def _add_validation(self) -> None:
        """Add the rows to validate on: a file of their own, or a share of train_file."""
        files = self.files
        if files.validation_file is not None:
            self.streams.trained["validation"] = self._build("validation")
        elif files.validation_fraction and files.train_file is not None:
            if "train" not in self.streams.wanted:
                raise UserError(
                    "data.validation_fraction: rows are held out of what is learned, and this "
                    "method unlearns rows of train_file; give data.validation_file, or "
                    "data.holdout_file"
                )
            held_out = replace(
                self._select("train"),
                held=True,
                most=files.get_max_rows("validation"),
            )
            part = self.datasets.build("validation", files.train_file, held_out)
            self.streams.trained["validation"] = part

    def _add_measured(self) -> None:
        """Add rows that are measured and not trained on: to be retained by a method that looks at
        none, or never seen."""
        files = self.files
        measured = self.streams.measured
        if "forget" in self.streams.wanted and "retain" not in self.streams.trained:
            if files.retain_file is not None:
                measured["retain"] = self._build("retain")
            elif files.forget_file is None and self._list_marked("retain"):
                measured["retain"] = self._build_marked("retain")
        if files.holdout_file is not None:
            measured["holdout"] = self._build("holdout")

    def _build(self, stream: str) -> DatasetConfig:
        """Build the dataset of a stream from its own file."""
        source = self.files.get_source(stream)
        assert source is not None
        return self.datasets.build(stream, source, self._select(stream))

    def _build_marked(self, stream: str) -> DatasetConfig:
        """Build the dataset of `forget` or `retain` from its rows of train_file."""
        assert self.files.train_file is not None
        selection = self._select_marked(stream)
        return self.datasets.build(stream, self.files.train_file, selection)

    def _select(self, stream: str) -> RowSelection:
        """Select the rows of a stream in its own file."""
        files = self.files
        selection = RowSelection(
            self.seed,
            held_out=files.validation_fraction if stream == "train" else 0.0,
            most=files.get_max_rows(stream),
            by_line=files.txt == "line",
            token_cache=str(self.token_cache),
        )
        if stream != "train" or files.marked is None:
            return selection
        column = self._find_flag_column()
        if column is None:
            raise UserError(
                f"data.marked={files.marked}: {files.train_file} has no column forget (1 "
                "for what is to be forgotten, 0 for what stays); name a file with these rows "
                "alone, or say what the column is called: data.columns.forget=NAME"
            )
        return replace(selection, flag=column, flagged=files.marked == "forget")

    def _select_marked(self, stream: str) -> RowSelection:
        """Select the rows of train_file that its column `forget` gives to a stream; without it,
        all are to forget."""
        source = self.files.train_file
        assert source is not None
        column = self._find_flag_column()
        if column is not None:
            return replace(
                self._select(stream),
                flag=column,
                flagged=stream == "forget",
            )
        if "retain" not in self.streams.wanted:
            return self._select(stream)
        guess = None
        if not tokenized_paths.is_tokenized(source):
            table = self.datasets.open_table(source)
            guess = find_nearest("forget", table.columns)
        hint = f"; did you mean {name_column('forget', guess)}?" if guess else ""
        raise UserError(
            f"data.{stream}: this method trains on rows to forget and on rows to retain: name "
            f"both, forget=FILE retain=FILE, or give {source} a column forget (1, and 0 for "
            f"what is retained){hint}"
        )

    def _find_flag_column(self) -> str | None:
        """Find the column of train_file that says which rows to forget.

        None where there is none; one that is called nearly so is refused.
        """
        source = self.files.train_file
        if source is None or tokenized_paths.is_tokenized(source):
            return None
        named_column = self.files.columns.get("forget")
        table = self.datasets.open_table(source)
        column = named_column or "forget"
        if column in table.columns:
            return column
        if named_column is not None:
            raise UserError(
                explain_no_such_column(
                    "forget",
                    named_column,
                    table.where,
                    table.columns,
                )
            )
        # Taken for no such column, its rows would all be forgotten, those with 0 too.
        alike = [name for name in table.columns if name.strip().lower() == "forget"]
        if alike:
            word = name_column("forget", alike[0])
            raise UserError(
                f"{table.where}: has no column forget, and one called {alike[0]!r}: "
                f"{word} reads it as that; rename it if it is something else"
            )
        return None

    def _list_marked(self, stream: str) -> list[int]:
        """List the rows of train_file that its column `forget` gives to a stream."""
        column = self._find_flag_column()
        if column is None or self.files.train_file is None:
            return []
        marked = []
        table = self.datasets.open_table(self.files.train_file)
        for row_index, (place, row) in enumerate(table):
            is_forgotten = parse_flag(row.get(column), column, place)
            if is_forgotten is (stream == "forget"):
                marked.append(row_index)
        return marked

    def _refuse_unused_marks(self) -> None:
        """Refuse rows of train_file whose stream has a file of its own; note which ones no stream
        takes."""
        assert self.files.train_file is not None
        column = self.files.columns.get("forget", "forget")
        for stream in ("forget", "retain"):
            has_file = self.files.get_source(stream) is not None
            is_read = stream in self.streams.parts and not has_file
            marked = [] if is_read else self._list_marked(stream)
            if not marked:
                continue
            table = self.datasets.open_table(self.files.train_file)
            places = RowErrors(table.where, Rows(table)).list_places(marked)
            flag = int(stream == "forget")
            where = (
                f"{table.where}: {format_count(len(marked), 'row')} with {flag} in the column "
                f"{column} "
                f"({places})"
            )
            if has_file:
                raise UserError(
                    f"{where} would be used for nothing, as data.{stream}_file says what to "
                    f"{stream}: move these rows to that file, or leave data.{stream}_file out"
                )
            self.notes.append(f"{where}: nothing trains on them or measures them")
