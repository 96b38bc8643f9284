"""Every key of every verb: what it takes, its default, what it means. Read from the schemas."""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from unteach.config import verb_keys
from unteach.config.command import VERBS as RUN_VERBS
from unteach.config.compose_verb import ASK_KEYS
from unteach.config.forget import ALL_WORDS, ForgetConfig
from unteach.config.tokenize import TokenizeConfig
from unteach.config.verb_configs import ExportConfig, list_keys
from unteach.data.synthetic.worlds import WORLDS
from unteach.editor import run_keys
from unteach.editor.flatten import FlatKeys, flatten, resolve
from unteach.editor.sections import Sections
from unteach.editor.shapes import REFERENCE, Definitions, Schema, choice, scalar
from unteach.studies.settings import Local, Slurm

WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "object": "mapping",
    "array": "list",
    "null": "null",
}
MOST_VALUES = 12
"""Values that are written out where a key's type is said."""
REQUIRED = ("task_name",)
CHECKED = ("train", "unlearn", "eval", "audit")
STUDY_WORDS = ("study", "demo")


@dataclass(frozen=True)
class Key:
    """One key of a verb.

    Attributes:
        takes: its type, in plain words.
        default: as YAML has it; None where nothing says it.
        meaning: "" where nothing says it.
        values: words that it takes.
        is_open: whether it takes others too.
        is_old: whether it is an old name, or has no effect any more.
    """

    name: str
    takes: str
    default: str | None
    meaning: str
    values: tuple[str, ...] = ()
    is_open: bool = True
    is_old: bool = False


class KeyTables:
    """The keys of each verb.

    Args:
        homes: folders of more configuration files.
    """

    def __init__(self, homes: Sequence[str] = ()):
        self.definitions = Definitions()
        self.sections = Sections(self.definitions, homes)
        keys = run_keys.describe_run(self.sections)
        self.run = flatten({**keys.nested, **keys.short}, self.definitions)
        inference = run_keys.describe_inference(self.sections)
        self.inference = flatten(inference, self.definitions)

    @functools.cached_property
    def by_verb(self) -> dict[str, FlatKeys]:
        """The keys of each verb, and of `study` those of its file's sections too."""
        tables = {}
        for verb in RUN_VERBS:
            tables[verb] = self._select(self.run, run_keys.select_keys(self.run.properties, verb))
        tables["infer"] = self.inference
        tables[verb_keys.CHECK_INFER] = self.inference
        asked = [key for key in self.inference.properties if key.split(".")[0] in ASK_KEYS]
        tables["ask"] = self._select(self.inference, asked)
        for verb, cls in verb_keys.CONFIGS.items():
            tables[verb] = self._describe_flat_verb(verb, cls)
        checked = {"gpu": {**scalar("string"), "description": "of a GPU that is not here: 80GB"}}
        tables["check"] = FlatKeys({**self.run.properties, **checked}, self.run.patterns)
        local = self.definitions.refer_class(Local, "local")
        slurm = self.definitions.refer_class(Slurm, "slurm")
        jobs = {**scalar("integer"), "description": "runs at a time: local.jobs"}
        study = choice(self.sections.list_names("study"), is_open=True)
        own = {"study": study, "jobs": jobs, "local": local, "slurm": slurm}
        executed = flatten(own, self.definitions).properties
        for verb in STUDY_WORDS:
            properties = {**executed, **self.run.properties}
            if verb == "demo":
                del properties["study"]
            tables[verb] = FlatKeys(properties, self.run.patterns)
        tables["world"] = self._describe_world()
        return tables

    def _select(self, flat: FlatKeys, names: Sequence[str]) -> FlatKeys:
        """Select keys, with the patterns of the sections that they are of."""
        sections = {name.split(".")[0] for name in names}
        patterns = {}
        for pattern, schema in flat.patterns.items():
            # As "^data\.…": of keys of the section `data`.
            section = pattern.removeprefix("^").partition("\\")[0]
            if section in sections:
                patterns[pattern] = schema
        return FlatKeys({name: flat.properties[name] for name in names}, patterns)

    def _describe_flat_verb(self, verb: str, cls: type) -> FlatKeys:
        """Describe the keys of a verb that composes no configuration."""
        fields = self.definitions.list_fields(cls)
        properties = {}
        for key, field in list_keys(cls).items():
            properties[key] = dict(fields[field])
        if cls is ExportConfig:
            properties["as"] |= choice(ExportConfig.FORMS)
        if "suite" in properties:
            suites = choice(self.sections.list_names("eval"), is_open=True)
            properties["suite"] = {**suites, "description": "the suite that is shown"}
        flat = flatten(properties, self.definitions)
        if cls is ForgetConfig:
            levels = choice(self.sections.list_names("audit"), is_open=True)
            level = {"description": "of the audits", "default": "quick"}
            flat.properties["level"] = {**levels, **level}
            slurm = self.definitions.refer_class(Slurm, "slurm")
            flat.properties |= flatten({"slurm": slurm}, self.definitions).properties
            passed = [key for key in self.run.properties if key.split(".")[0] in ALL_WORDS]
            others = self._select(self.run, passed)
            flat.properties = {**others.properties, **flat.properties}
            flat.patterns = {**others.patterns, **flat.patterns}
        if cls is TokenizeConfig:
            for word, meant in (("model", "tokenizer_path"), ("data", "input_file")):
                flat.properties[word] = {**properties[meant], "description": f"`{meant}`"}
        return flat

    def _describe_world(self) -> FlatKeys:
        """Describe the keys of `unteach world`: the fields of each kind of world."""
        properties: dict[str, Schema] = {
            "to": {**scalar("string"), "description": "the folder to write"},
            "kind": {**choice(WORLDS), "default": "authors"},
            "config": {**scalar("string"), "description": "a YAML file of settings"},
        }
        for cls in WORLDS.values():
            for name, schema in self.definitions.list_fields(cls).items():
                properties.setdefault(name, schema)
        return flatten(properties, self.definitions)

    def find(self, verb: str, name: str) -> Key | None:
        """Find a key of a verb; None where it has none of that name."""
        flat = self.by_verb[verb]
        schema = flat.properties.get(name)
        if schema is None:
            matching = [found for key, found in flat.patterns.items() if re.match(key, name)]
            if not matching:
                return None
            schema = matching[-1]
        return self.read_key(name, schema)

    def read_key(self, name: str, schema: Schema) -> Key:
        """Read what a schema says of a key."""
        own = resolve(schema, self.definitions)
        values, is_open = list_values(own, self.definitions)
        default = None
        if "default" in own:
            default = spell_value(own["default"])
        old = str(own.get("deprecationMessage", ""))
        return Key(
            name,
            spell_type(own, self.definitions),
            default,
            old or str(own.get("description", "")),
            tuple(values),
            is_open,
            bool(old),
        )


def spell_value(value: object) -> str:
    """Write a value as the command line takes it."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return re.sub(r"e([-+])0", r"e\1", f"{value:g}")
    return json.dumps(value, ensure_ascii=False)


def spell_type(schema: Schema, definitions: Definitions) -> str:
    """Write what a schema takes in plain words."""
    return " or ".join(_list_types(schema, definitions)) or "anything"


def _list_types(schema: Schema, definitions: Definitions) -> list[str]:
    """List the kinds of values that a schema takes, each once."""
    schema = resolve(schema, definitions)
    words: list[str] = []
    for member in schema.get("anyOf", ()):
        words += _list_types(member, definitions)
    if "enum" in schema:
        values = [spell_value(value) for value in schema["enum"] if value is not None]
        words.append("a name" if len(values) > MOST_VALUES else " | ".join(values))
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind != "string" or schema.get("pattern") != REFERENCE:
            words.append(WORDS[kind])
    return sorted(dict.fromkeys(words), key=lambda word: word == WORDS["null"])


def list_values(schema: Schema, definitions: Definitions) -> tuple[list[str], bool]:
    """List the words that a schema takes, and say whether it takes others."""
    schema = resolve(schema, definitions)
    values: list[str] = []
    is_open = False
    for member in schema.get("anyOf", ()):
        more, member_is_open = list_values(member, definitions)
        values += more
        is_open = is_open or member_is_open
    values += [spell_value(value) for value in schema.get("enum", ())]
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == "boolean":
            values += ["true", "false"]
        elif kind != "null" and (kind != "string" or schema.get("pattern") != REFERENCE):
            is_open = True
    if not schema.keys() & {"anyOf", "enum", "type"}:
        is_open = True
    return list(dict.fromkeys(values)), is_open
