"""`data=files`: a dataset for each file of the user's own, read as the method needs it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from unteach import registry
from unteach.config import schema
from unteach.config.files import Files, Source
from unteach.config.schema import ComponentConfig, TemplateArgs
from unteach.config.suites import MEASURED_KINDS
from unteach.data.column_layouts import (
    LAYOUTS,
    ColumnLayout,
    explain_no_such_column,
    find_layout,
    list_text_layouts,
    name_column,
    note_unread,
)
from unteach.data.handlers.qa import QADataset
from unteach.data.io import tables, tokenized_paths
from unteach.data.row_errors import RowErrors
from unteach.data.row_selection import RowSelection, parse_flag
from unteach.data.rows import Rows
from unteach.data.stream_overlap import (
    are_comparable,
    find_overlap_in_files,
    find_shared_rows,
    has_only_tokens,
)
from unteach.data.tokenized import token_files
from unteach.errors import UserError, nearest
from unteach.wording import counted

Run = TypeVar("Run", bound=schema.RunConfig)
SETTINGS = {
    "max_length": "rows that are tokenised here; a tokenised file has its own",
    "too_long": "prompts with answers; text is cut into pieces",
    "turns": "conversations, and instructions with a history",
    "packing": "text that is learned whole",
    "pretrain_with_output": "trainer=pretrain on columns input and output",
    "txt": ".txt files",
}
"""Keys of `data` that not every kind of rows takes, and what they are for."""
ONLY_MEASURED = "these rows are only measured"
"""What is said of rows that a method does not train on."""
OF_TRAINING = ("forget", "alternate")
"""Columns that say what training makes of a row."""


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
    finder = Finder(config, config.data.files)
    found, measured = finder.streams()
    streams = {**config.data.streams, **found}
    anchor = config.data.anchor or next(iter(finder.wanted), "")
    if anchor not in streams and isinstance(config, schema.TrainConfig):
        raise UserError(
            f"data.anchor: {anchor!r} is not a stream of this run; its streams: "
            f"{', '.join(streams)}"
        )
    model = replace(
        config.model, template_args=finder.template(config.model.template_args, config.data.streams)
    )
    data = replace(
        config.data,
        streams=streams,
        anchor=anchor,
        measured=measured,
        notes=tuple(finder.notes),
    )
    return replace(config, model=model, data=data)


class Finder:
    """Finds how each file is read; `notes` is what it found, a sentence a stream."""

    def __init__(self, config: schema.RunConfig, files: Files):
        self.files, self.seed = files, config.seed
        self.method = config.trainer.method if isinstance(config, schema.TrainConfig) else None
        self.kind = getattr(self.method, "ROWS", "answers")
        self.measures = config.measures_own_rows() and self.kind in MEASURED_KINDS
        self.notes: list[str] = []
        self.tables: dict[str, tables.Table] = {}
        self.taken: set[str] = set()
        self.raw: dict[str, bool] = {}
        self.made_with: TemplateArgs | None = None
        self.reads_train_file = False
        self.wanted = self._wanted_streams()

    def _wanted_streams(self) -> list[str]:
        """The streams that the method trains on; where none says so, those that there are files
        of."""
        given = [
            stream for stream in ("train", "forget", "retain") if self.files.of(stream) is not None
        ]
        if isinstance(self.method, schema.TheirTrainer):
            return given or ["train"]
        if self.method is not None:
            return list(
                dict.fromkeys(schema.BESIDE.get(name, name) for name in self.method.streams())
            ) or ["train"]
        marked = [stream for stream in ("forget", "retain") if self._has_marked(stream)]
        return marked + [
            stream
            for stream in given
            if stream not in marked and not (marked and stream == "train")
        ]

    def streams(
        self,
    ) -> tuple[dict[str, dict[str, ComponentConfig]], dict[str, dict[str, ComponentConfig]]]:
        """A dataset for each stream that is trained on and for `validation`; and those only
        measured, by role."""
        files = self.files
        found: dict[str, dict[str, ComponentConfig]] = {}
        for stream in self.wanted:
            if (source := files.of(stream)) is not None:
                found[stream] = {"file": self.part(stream, source, self.choice(stream))}
                self.reads_train_file |= stream == "train"
            elif files.train_file is not None and stream in ("forget", "retain"):
                found[stream] = {"file": self.part(stream, files.train_file, self.flagged(stream))}
                self.reads_train_file = True
        if files.validation_file is not None:
            found["validation"] = {
                "file": self.part("validation", files.validation_file, self.choice("validation"))
            }
        elif files.validation_fraction and files.train_file is not None:
            if "train" not in self.wanted:
                raise UserError(
                    "data.validation_fraction: rows are held out of what is learned, and this "
                    "method unlearns rows of train_file; give data.validation_file, or "
                    "data.holdout_file"
                )
            held = replace(self.choice("train"), held=True, most=files.most("validation"))
            found["validation"] = {"file": self.part("validation", files.train_file, held)}
        measured = self._measured_alone(found) if self.measures else {}
        self._refuse_unused({**found, **measured})
        if files.marked and ("train" not in found or self.kind == "signed"):
            raise UserError(
                f"data.marked={files.marked}: chooses among rows that are learned, and this method "
                "reads the column forget by itself; leave it out"
            )
        if self.reads_train_file and "train" not in self.wanted:
            self._refuse_unused_marks({**found, **measured})
        self._refuse_overlap(found, measured)
        if "retain" in measured and (hint := self._hint_of_alpha()):
            self.notes.append(f"data.retain: {ONLY_MEASURED}; {hint}")
        return found, measured

    def _hint_of_alpha(self) -> str:
        """What makes a method train on rows to retain, where it has a retain term that is off."""
        if getattr(self.method, "alpha", None) != 0:
            return ""
        return "trainer.method_args.alpha=1 makes the method train on them too"

    def _measured_alone(self, found: dict[str, Any]) -> dict[str, dict[str, ComponentConfig]]:
        """Rows that are measured and not trained on: to be retained by a method that looks at none,
        or never seen."""
        files = self.files
        measured: dict[str, dict[str, ComponentConfig]] = {}
        if "forget" in self.wanted and "retain" not in found:
            if files.retain_file is not None:
                measured["retain"] = {
                    "file": self.part("retain", files.retain_file, self.choice("retain"))
                }
            elif (
                files.forget_file is None
                and files.train_file is not None
                and self._has_marked("retain")
            ):
                measured["retain"] = {
                    "file": self.part("retain", files.train_file, self.flagged("retain"))
                }
        if files.holdout_file is not None:
            measured["holdout"] = {
                "file": self.part("holdout", files.holdout_file, self.choice("holdout"))
            }
        return measured

    def _has_marked(self, stream: str) -> bool:
        """Whether train_file has a column `forget`, and rows in it for this stream."""
        return bool(self._marked(stream))

    def _marked(self, stream: str) -> list[int]:
        """Which rows of train_file its column `forget` gives to a stream."""
        column = self._find_flag_column()
        if column is None or self.files.train_file is None:
            return []
        table = self.table(self.files.train_file)
        flags = [parse_flag(row.get(column), column, place) for place, row in table]
        return [
            number for number, is_marked in enumerate(flags) if is_marked is (stream == "forget")
        ]

    def _find_flag_column(self) -> str | None:
        """The column of train_file that says which rows to forget, or None; one that is called
        nearly so is refused."""
        source, named = self.files.train_file, self.files.columns.get("forget")
        if source is None or tokenized_paths.is_tokenized(source):
            return None
        table, column = self.table(source), named or "forget"
        if column in table.columns:
            return column
        if named is not None:
            raise UserError(explain_no_such_column("forget", named, table.where, table.columns))
        # Taken for no such column, its rows would all be forgotten, those with 0 too.
        alike = [name for name in table.columns if name.strip().lower() == "forget"]
        if alike:
            raise UserError(
                f"{table.where}: has no column forget, and one called {alike[0]!r}: "
                f"{name_column('forget', alike[0])} reads it as that; rename it if it is something "
                "else"
            )
        return None

    def _refuse_overlap(
        self,
        found: dict[str, dict[str, ComponentConfig]],
        measured: dict[str, dict[str, ComponentConfig]],
    ) -> None:
        """A row cannot be both to go and to stay, or both trained on and never seen, unless the
        user says so."""
        parts = {stream: one["file"] for stream, one in {**found, **measured}.items()}
        overlaps = [find_overlap_in_files(parts)]
        for stream in ("train", "forget", "retain"):
            if "holdout" in parts and stream in parts:
                overlaps.append(
                    find_shared_rows(parts["holdout"], parts[stream], f"both holdout and {stream}")
                )
        self._note_not_compared(parts)
        if self.files.allow_overlap and all(overlap is None for overlap in overlaps):
            raise UserError(
                "data.allow_overlap: nothing here takes it; it is for rows to forget and rows to "
                "retain"
            )
        shared = [overlap for overlap in overlaps if overlap]
        if shared and not self.files.allow_overlap:
            use = "trains on" if self.method is not None and not measured else "takes"
            mend = (
                f"take them out of one of the two, or set data.allow_overlap=true, which {use} "
                f"them in both"
            )
            raise UserError(f"{'; '.join(shared)}; {mend}")
        self.notes += shared
        for stream in self.wanted if self.files.validation_file is not None else ():
            if stream in found:
                note = find_shared_rows(
                    parts["validation"], parts[stream], f"both validation and {stream}"
                )
                self.notes += [note] if note else []

    def _note_not_compared(self, parts: dict[str, ComponentConfig]) -> None:
        """Say which streams may share rows unseen, as one has its words and the other only its
        tokens."""
        pairs = [("forget", "retain")]
        pairs += [(apart, stream) for apart in ("holdout", "validation") for stream in self.wanted]
        for first, second in pairs:
            if (
                first in parts
                and second in parts
                and not are_comparable(parts[first], parts[second])
            ):
                tokens = first if has_only_tokens(parts[first]) else second
                self.notes.append(
                    f"data.{first} and data.{second} cannot be compared, as data.{tokens} has "
                    "tokens and no words: a row that stands in both is not noticed"
                )

    def _refuse_unused(self, found: dict[str, Any]) -> None:
        """No key is accepted and ignored."""
        for stream in ("train", "forget", "retain"):
            is_read = stream in found or (stream == "train" and self.reads_train_file)
            if self.files.of(stream) is not None and not is_read:
                trained = ", ".join(self.wanted)
                # The suite rows asks for what is retained only beside rows to forget.
                would = (
                    stream == "retain" and "forget" in self.wanted and self.kind in MEASURED_KINDS
                )
                measured = (
                    ", and no suite measures it (eval=rows would)"
                    if would and not self.measures
                    else ""
                )
                if stream == "retain" and (hint := self._hint_of_alpha()):
                    measured += f"; {hint}"
                raise UserError(
                    f"data.{stream}_file: this method does not train on it; it trains on "
                    f"{trained}{measured}"
                )
        if self.files.holdout_file is not None and "holdout" not in found:
            why = f"rows of {self.kind} have no answers that it could ask for"
            if self.method is not None and not any(
                self.files.of(stream) for stream in ("train", "forget", "retain")
            ):
                beside = (
                    "data=FILE"
                    if "train" in self.wanted
                    else "forget=FILE retain=FILE, or data=FILE"
                )
                why = f"no file of rows to train on is named beside it: {beside}"
            elif self.kind in MEASURED_KINDS:
                why = "this run has no such suite (leave eval out, or set eval=rows)"
            raise UserError(
                f"data.holdout_file: these rows are measured by the suite rows, and {why}"
            )
        limits = self.files.max_rows if isinstance(self.files.max_rows, dict) else {}
        for stream in limits:
            if limits[stream] is not None and stream not in found:
                raise UserError(
                    f"data.max_rows.{stream}: this run reads no rows as {stream}; it reads them as "
                    f"{', '.join(found)}"
                )
        for name, meant in SETTINGS.items():
            if getattr(self.files, name) is not None and name not in self.taken:
                raise UserError(f"data.{name}: nothing here takes it; it is for {meant}")

    def _refuse_unused_marks(self, found: dict[str, Any]) -> None:
        """Refuse rows of train_file whose stream has a file of its own; say which ones no stream
        takes."""
        assert self.files.train_file is not None
        column = self.files.columns.get("forget", "forget")
        for stream in ("forget", "retain"):
            is_taken = stream in found and self.files.of(stream) is None
            numbers = [] if is_taken else self._marked(stream)
            if not numbers:
                continue
            table = self.table(self.files.train_file)
            lines = RowErrors(table.where, Rows(table)).list_places(numbers)
            rows = (
                f"{counted(len(numbers), 'row')} with {int(stream == 'forget')} in the column "
                f"{column}"
            )
            where = f"{table.where}: {rows} ({lines})"
            if self.files.of(stream) is not None:
                raise UserError(
                    f"{where} would be used for nothing, as data.{stream}_file says what to "
                    f"{stream}: move these rows to that file, or leave data.{stream}_file out"
                )
            self.notes.append(f"{where}: nothing trains on them or measures them")

    def choice(self, stream: str) -> RowSelection:
        held_out = self.files.validation_fraction if stream == "train" else 0.0
        choice = RowSelection(
            self.seed, held_out, most=self.files.most(stream), by_line=self.files.txt == "line"
        )
        if stream != "train" or self.files.marked is None:
            return choice
        column = self._find_flag_column()
        if column is None:
            raise UserError(
                f"data.marked={self.files.marked}: {self.files.train_file} has no column forget (1 "
                "for what is to be forgotten, 0 for what stays); name a file with these rows "
                "alone, or say what the column is called: data.columns.forget=NAME"
            )
        return replace(choice, flag=column, flagged=self.files.marked == "forget")

    def flagged(self, stream: str) -> RowSelection:
        """Rows of train_file for `forget` and `retain`, as its column `forget` says; without it,
        all to forget."""
        source, column = self.files.train_file, self._find_flag_column()
        assert source is not None
        if column is not None:
            return replace(self.choice(stream), flag=column, flagged=stream == "forget")
        if "retain" in self.wanted:
            guess = (
                None
                if tokenized_paths.is_tokenized(source)
                else nearest("forget", self.table(source).columns)
            )
            hint = f"; did you mean {name_column('forget', guess)}?" if guess else ""
            raise UserError(
                f"data.{stream}: this method trains on rows to forget and on rows to retain: name "
                f"both, forget=FILE retain=FILE, or give {source} a column forget (1, and 0 for "
                f"what is retained){hint}"
            )
        return self.choice(stream)

    def table(self, source: Source) -> tables.Table:
        """A source with the columns of all its rows, so that none that turns up late is left unread
        in silence."""
        key = str(source)
        if key not in self.tables:
            self.tables[key] = tables.open_table(
                source, by_line=self.files.txt == "line", whole=True
            )
        return self.tables[key]

    def part(self, stream: str, source: Source, choice: RowSelection) -> ComponentConfig:
        """The dataset that reads a source for a stream."""
        hf_args = {**(source if isinstance(source, dict) else {"path": source}), "choice": choice}
        if isinstance(source, str) and tokenized_paths.is_tokenized(source):
            return self._of_tokens(stream, Path(source), hf_args)
        table = self.table(source)
        mapped = {
            role: name
            for role, name in self.files.columns.items()
            if role != "forget" or choice.flag is None
        }
        forms = self._forms(stream, table)
        if stream == "holdout":  # such rows need no column that only rows of training have
            known = {role for form in forms for role in form.roles}
            mapped = {
                role: name
                for role, name in mapped.items()
                if role in known or role not in OF_TRAINING
            }
        form = find_layout(table.where, table.columns, forms, mapped)
        columns = ", ".join(form.list_columns(mapped))
        way = ""
        if form.raw is not None:  # conversations have no words to take as they are
            self.raw[stream] = form.raw and not any(
                isinstance(cell, list) for cell in next(iter(table))[1].values()
            )
            way = " (as they are)" if self.raw[stream] else " (through the template)"
        self.notes.append(f"data.{stream}: {table.where}, by its columns {columns}{way}")
        read = [*form.list_columns(mapped), *([choice.flag] if choice.flag else [])]
        self.notes += [f"data.{stream}: {note}" for note in note_unread(table, read)]
        self.taken |= {"txt"} if any(file.suffix == ".txt" for file in table.files) else set()
        self.taken |= (
            {"pretrain_with_output"} if self.kind == "text" and "text" not in form.roles else set()
        )
        has_turns = form.handler == "ChatDataset" or (
            form.handler == "QADataset" and "history" in form.roles
        )
        settings = self._settings(registry.dataset.get(form.handler), has_turns)
        return _part(form.handler, {**form.build_arguments(mapped), **settings, "hf_args": hf_args})

    def _forms(self, stream: str, table: tables.Table) -> tuple[ColumnLayout, ...]:
        """The ways in which the rows of a stream may be written for this method."""
        if stream == "holdout" and self.kind == "signed":
            return LAYOUTS["answers"]
        method = self.method
        if (
            stream == "forget"
            and method
            and "alternate" in method.streams()
            and method.ask("", "") is None
        ):
            given = self.files.columns.get("alternate", "alternate") in table.columns
            return LAYOUTS["alternates" if given else "refusals"]
        return (
            list_text_layouts(self.files.pretrain_with_output)
            if self.kind == "text"
            else LAYOUTS[self.kind]
        )

    def _settings(self, cls: type, has_turns: bool = False) -> dict[str, Any]:
        """Those keys of `data` that a handler has a field for; `turns` where a row may have
        several."""
        fields = getattr(cls, "__dataclass_fields__", {})
        names = ("max_length", "too_long", "packing", *(["turns"] if has_turns else []))
        given = {name: getattr(self.files, name) for name in names}
        taken = {
            name: value for name, value in given.items() if value is not None and name in fields
        }
        self.taken |= set(taken)
        if taken.get("packing") == "best_fit" and isinstance(self.method, schema.TheirTrainer):
            raise UserError(
                "data.packing=best_fit: a plugin's Trainer does not keep the documents of a row "
                "apart"
            )
        return taken

    def _of_tokens(self, stream: str, path: Path, hf_args: dict[str, Any]) -> ComponentConfig:
        """A dataset of tokens, which must be of the kind that the method trains on."""
        told = token_files.read_manifest(path) if path.is_dir() else {}
        of_text = told.get("kind") == "text" or (not told and token_files.is_text_file(path))
        if self.kind not in ("answers", "text") or (self.kind == "text" and not of_text):
            held = "text" if of_text else "prompts with answers"
            raise UserError(
                f"data.{stream}: {path} holds the tokens of {held}, which this method is not "
                f"trained on"
            )
        kept = told.get("rows", {}).get("kept")
        self.notes.append(
            f"data.{stream}: {path}, tokens of "
            f"{counted(kept, 'row') if kept is not None else 'rows'}"
        )
        if of_text:
            settings = self._settings(registry.dataset.get("PretrainingDataset"))
            settings = {"max_length": told["max_length"], **settings} if told else settings
            return _part("PretrainingDataset", {**settings, "hf_args": hf_args})
        if told:
            self.made_with = TemplateArgs(
                **{k: v for k, v in told["template"].items() if k != "chat_template"}
            )
        return _part("TokenizedDataset", {"hf_args": hf_args})

    def template(
        self, given: TemplateArgs, named: dict[str, dict[str, ComponentConfig]]
    ) -> TemplateArgs:
        """The run's template: what the user named, what the tokens were made with, or what the
        columns say."""
        if given.kind != "auto":
            return given
        if self.made_with is not None:
            return self.made_with
        asks = [
            stream
            for stream, parts in named.items()
            if any(issubclass(p.cls, QADataset) for p in parts.values())
        ]
        asked = {**dict.fromkeys(asks, False), **self.raw}
        if len(set(asked.values())) > 1:
            told = ", ".join(
                f"data.{s} {'as it is' if raw else 'through the template'}"
                for s, raw in asked.items()
            )
            raise UserError(
                f"the words of the streams are taken in two ways ({told}): set template=raw, chat "
                f"or qa"
            )
        return replace(given, kind="raw") if any(asked.values()) else given


def _part(handler: str, arguments: dict[str, Any]) -> ComponentConfig:
    part = ComponentConfig(handler, arguments)
    part.cls = registry.dataset.get(handler)
    return part
