"""The index that the completion of a shell reads: verbs, keys, values, in one small JSON file.

complete.py reads it, and imports nothing of this package.
"""

import json
import re
from collections.abc import Mapping

from unteach.config.command import VERBS as RUN_VERBS
from unteach.config.forget import ALL_WORDS
from unteach.config.schema import PATH
from unteach.config.verb_configs import FETCHED, STUDY_ACTIONS
from unteach.config.verb_keys import CHECK, OF_TWO_WORDS
from unteach.editor import run_keys, schemas, shells
from unteach.editor.flatten import FlatKeys
from unteach.editor.keys import CHECKED, KeyTables

ROWS = re.compile(r"data|input_file|forget|retain|holdout|refusal|data\.\w+_file")
MODELS = re.compile(rf".*{PATH}|model|tokenizer_path|retain_model|original|also|(.*\.)?base_path")
MODELS_TOO = re.compile(r".*\.(reference_model_path|classifier_path|retain_model|original|also)")
FILES = re.compile(r"to|out|.*_path|.*_dir|output_file|resume|launch|plugins|.*sign_key|key|config")
CHECKS = [verb for verb in OF_TWO_WORDS if verb.startswith(CHECK)]
OF_ONE_WORD = ("config_name", "prints_tree")
"""Options that a verb of two words refuses."""
LONGEST = 70
"""Letters of a meaning that a shell shows beside a word."""
POSITIONAL = {
    **dict.fromkeys((*RUN_VERBS, "infer", "check", "tokenize"), "yaml"),
    **dict.fromkeys(("report", "compare", "history", "export"), "model"),
    "forget": "rows",
    "audit verify": "json",
}
"""What files the words without a key name, by verb; of `check X`, those of X."""
OTHER_TABLES = dict.fromkeys(("check", "study", "demo", "forget", "check forget"), "run")
"""Tables beside a verb's own."""
Verbs = Mapping[str, tuple[str, tuple[str, ...]]]
"""The verbs of the command line: what each does, and its options by dashes."""


def build_index(verbs: Verbs, names: dict[str, list[str]]) -> str:
    """Build the index, as JSON.

    Args:
        verbs: of the command line.
        names: what `unteach list` has, by kind.
    """
    tables = KeyTables()
    run = tables.by_verb["check"]
    described = {"run": _describe(tables, run)}
    described["run"].pop("gpu")
    entries = {}
    for verb in [*verbs, *(name for name in tables.by_verb if " " in name)]:
        entries[verb] = _describe_verb(verb, verbs)
        own = tables.by_verb.get(verb)
        if verb in RUN_VERBS or own is None:
            continue
        others = described["run"] if verb in OTHER_TABLES else {}
        keys = _describe(tables, own)
        described[verb] = {key: value for key, value in keys.items() if others.get(key) != value}
    words = {
        "fetch": list(FETCHED),
        "study": list(STUDY_ACTIONS),
        "check": [*CHECKED, *(verb.removeprefix(CHECK) for verb in CHECKS)],
        "audit": ["verify"],
        "schema": list(schemas.BUILDERS),
        "completion": list(shells.SHELLS),
    }
    for verb, values in words.items():
        entries[verb]["words"] = values
    defined = {"defined": tables.sections.list_defined_metrics()}
    index: dict[str, Mapping[str, object]] = {
        "verbs": entries,
        "names": {**names, **defined},
        "tables": described,
    }
    return _dump(index)


def _describe_verb(verb: str, verbs: Verbs) -> dict[str, object]:
    """Describe a verb: what it does, its options, and which tables have its keys."""
    about, options = verbs[verb.partition(" ")[0]]
    if " " in verb:
        options = tuple(option for option in options if option not in OF_ONE_WORD)
    entry: dict[str, object] = {"about": about, "options": list(options)}
    if verb in RUN_VERBS:
        entry |= {"tables": ["run"], "without": list(run_keys.UNUSED[verb])}
    else:
        entry["tables"] = [verb, *([OTHER_TABLES[verb]] if verb in OTHER_TABLES else [])]
    if verb in ("forget", "check forget"):
        entry["only"] = list(ALL_WORDS)
    own = verb.removeprefix(CHECK)
    if own in POSITIONAL:
        entry["files"] = POSITIONAL[own]
    return entry


def _describe(tables: KeyTables, flat: FlatKeys) -> dict[str, list[object]]:
    """Describe each key: what it means in a few words, its values, the files that it names."""
    described: dict[str, list[object]] = {}
    for name, schema in flat.properties.items():
        key = tables.read_key(name, schema)
        if key.is_old:
            continue
        text = " ".join(key.meaning.split()) or key.takes
        if len(text) > LONGEST:
            text = text[: LONGEST - 1].rsplit(" ", 1)[0] + " …"
        described[name] = [text, [value for value in key.values if value], _find_place(name)]
    return described


def _find_place(name: str) -> str:
    """Say what kind of file a key names: rows, a model, any, or none."""
    if ROWS.fullmatch(name):
        return "rows"
    if MODELS.fullmatch(name) or MODELS_TOO.fullmatch(name):
        return "model"
    return "file" if FILES.fullmatch(name) else ""


def _dump(index: Mapping[str, Mapping[str, object]]) -> str:
    """Write the index, a line for each verb, kind and key."""
    parts = []
    for section, members in index.items():
        lines = []
        for name, member in members.items():
            if section == "tables" and isinstance(member, dict):
                keys = [f"{json.dumps(key)}: {_compact(value)}" for key, value in member.items()]
                text = "{\n" + ",\n".join(keys) + "\n}"
            else:
                text = _compact(member)
            lines.append(f"{json.dumps(name)}: {text}")
        parts.append(f"{json.dumps(section)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
