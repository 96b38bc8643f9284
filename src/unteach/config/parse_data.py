"""Parse the sections `data` and `collator` of a composed tree: registered classes and their
arguments."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from unteach.config.files import FILE_KEYS, RENAMED_FILE_KEYS, Files
from unteach.config.reader import Reader
from unteach.config.schema import STREAMS, CollatorConfig, DataConfig, DatasetConfig
from unteach.errors import UserError, find_nearest
from unteach.wording import quote_value

Component = TypeVar("Component", DatasetConfig, CollatorConfig)


@dataclass(frozen=True)
class _Component:
    """What a configuration says of a dataset or a collator."""

    handler: str
    args: dict[str, Any] = field(default_factory=dict)


def _parse_component(
    reader: Reader, kind: type[Component], value: object, path: str
) -> Component | None:
    """Parse a handler of one kind and its arguments."""
    told: _Component | None = reader.record(_Component, value, path)
    if told is None:
        return None
    try:
        component = kind.find(told.handler, told.args)
        reader.arguments(component.cls, component.args, f"{path}.args")
    except UserError as error:
        reader.wrong(f"{path}.handler", str(error))
        return None
    return component


def parse_data(reader: Reader, value: dict[str, Any]) -> DataConfig | None:
    """Parse the section `data`: datasets by stream, or the user's own files."""
    file_keys = {name: item for name, item in value.items() if name in FILE_KEYS}
    files: Files | None = None
    if file_keys:
        files = reader.record(Files, file_keys, "data")
        if files is None:
            return None
    streams = {}
    for stream, datasets in value.items():
        if stream == "anchor" or stream in file_keys or datasets is None:
            continue
        components = _parse_stream(reader, stream, datasets, files)
        if components is not None:
            streams[stream] = components
    anchor = reader.value(str | None, value.get("anchor"), "data.anchor")
    if files is not None:  # whose streams are not known yet
        return DataConfig(streams, anchor or "", files)
    anchor = anchor or next(iter(streams), "train")
    if streams and anchor not in streams and not reader.problems:
        names = ", ".join(streams)
        reader.wrong(
            "data.anchor",
            f"{anchor!r} is not a stream of this run; its streams: {names}",
        )
    return DataConfig(streams, anchor)


def _parse_stream(
    reader: Reader,
    stream: str,
    datasets: object,
    files: Files | None,
) -> dict[str, DatasetConfig] | None:
    """Parse the datasets of one stream; None where they are none."""
    if stream in RENAMED_FILE_KEYS:
        current = RENAMED_FILE_KEYS[stream]
        reader.wrong(f"data.{stream}", f"is called data.{current} now")
        return None
    if files is not None and files.get_source(stream) is not None:
        reader.wrong(
            f"data.{stream}",
            f"both a dataset and data.{stream}_file are given; give one (data=files)",
        )
        return None
    if not isinstance(datasets, dict):
        known = (*FILE_KEYS, *STREAMS, "anchor")
        guess = find_nearest(str(stream), known)
        hint = f"; did you mean data.{guess}?" if guess and guess != stream else ""
        reader.wrong(
            f"data.{stream}",
            f"must be a dataset's name or a mapping of datasets, got {quote_value(datasets)}{hint}",
        )
        return None
    components = {}
    for name, dataset in datasets.items():
        path = f"data.{stream}.{name}"
        component = _parse_component(reader, DatasetConfig, dataset, path)
        if component is not None:
            components[name] = component
    return components


def parse_collator(reader: Reader, value: dict[str, Any]) -> CollatorConfig | None:
    """Parse the section `collator`, which holds one."""
    if len(value) > 1:
        names = ", ".join(value)
        reader.wrong("collator", f"one collator, got {names}")
    name, collator = next(iter(value.items()))
    return _parse_component(reader, CollatorConfig, collator, f"collator.{name}")
