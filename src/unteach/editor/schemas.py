"""The JSON schema of each kind of file that people write, whole and by itself."""

import json
from collections.abc import Callable, Sequence
from importlib import metadata

from unteach.config.metric_descriptions import MetricDescription
from unteach.config.schema import Paths, Wandb
from unteach.config.section_meanings import STUDY
from unteach.config.tokenize import TokenizeConfig
from unteach.editor import run_keys
from unteach.editor.components import join_fields
from unteach.editor.sections import Sections
from unteach.editor.shapes import (
    Definitions,
    Schema,
    any_of,
    choice,
    mapping,
    nullable,
    scalar,
    sequence,
)
from unteach.studies.search_space import Range, Search
from unteach.studies.settings import KINDS, Local, Slurm

DIALECT = "http://json-schema.org/draft-07/schema#"
DEFAULTS = sequence({"type": ["string", "object"]})
"""Hydra's list of the files that a file stands on."""


def build(kind: str, homes: Sequence[str] = ()) -> Schema:
    """Build the schema of a kind of file.

    Args:
        kind: one of BUILDERS.
        homes: folders of more configuration files, whose names are offered too.
    """
    definitions = Definitions()
    about, describe = BUILDERS[kind]
    top = describe(Sections(definitions, homes))
    used = _select_used(top, definitions.schemas)
    made = f"unteach schema {kind}, with transformers {metadata.version('transformers')}"
    return {
        "$schema": DIALECT,
        "$comment": made,
        "title": f"unteach: {about}",
        **top,
        "$defs": {name: definitions.schemas[name] for name in sorted(used)},
    }


def dump(schema: Schema) -> str:
    """Write a schema as JSON, a line for each property and definition at the top."""
    lines = []
    for key, value in schema.items():
        if key in ("properties", "$defs", "patternProperties") and value:
            inner = [f"{json.dumps(name)}: {_dump(item)}" for name, item in value.items()]
            lines.append(f'"{key}": {{\n' + ",\n".join(inner) + "\n}")
        else:
            lines.append(f"{json.dumps(key)}: {_dump(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _select_used(top: Schema, definitions: dict[str, Schema]) -> set[str]:
    """Select the definitions that a schema refers to, directly or through another."""
    used: set[str] = set()
    waiting: list[object] = [top]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        waiting += node.values()
        pointer = node.get("$ref")
        if isinstance(pointer, str):
            name = pointer.removeprefix("#/$defs/").split("/")[0]
            if name not in used:
                used.add(name)
                waiting.append(definitions[name])
    return used


def _describe_run_file(sections: Sections) -> Schema:
    keys = run_keys.describe_run(sections)
    flat = run_keys.describe_flat({**keys.nested, **keys.short}, sections.definitions)
    conditions = [*sections.list_method_conditions(), run_keys.refuse_unknown_streams()]
    return {**flat, "allOf": conditions}


def _describe_infer_file(sections: Sections) -> Schema:
    keys = {**run_keys.describe_inference(sections), "defaults": DEFAULTS}
    flat = run_keys.describe_flat(keys, sections.definitions)
    return {**flat, "allOf": run_keys.list_backend_conditions(sections)}


def _describe_tokenize_file(sections: Sections) -> Schema:
    keys = sections.definitions.list_fields(TokenizeConfig)
    for word, meant in (("model", "tokenizer_path"), ("data", "input_file")):
        keys[word] = {**keys[meant], "description": f"`{meant}`"}
    return run_keys.describe_flat(keys, sections.definitions)


def _describe_experiment(sections: Sections) -> Schema:
    """Describe a file of an experiment, and the primary files: sections in full, and names of one's
    own that others refer to."""
    keys = run_keys.describe_run(sections)
    defs = sections.definitions
    methods = sections.method_fields
    args = {"$ref": "#/$defs/trainer.args"}
    tuned = {}
    for method, names in sections.handlers.items():
        if method in methods:
            for name in names:
                fields = {"args": args, "method_args": methods[method]}
                tuned[name] = defs.refer(f"tuned.{method}", mapping(fields))
    any_method = mapping(
        {"args": args, "method_args": mapping(join_fields(defs, methods), rest={})}
    )
    layers = {
        "base": mapping({"args": args}),
        "common": mapping({"args": args}),
        "tuned": mapping(tuned, rest=nullable(any_method)),
        "checkpoints": mapping({}, rest=scalar("string", "null")),
    }
    properties = {"defaults": DEFAULTS, "layers": mapping(layers), **keys.nested}
    for name in ("trainer", "data", "eval", "audit", "collator"):
        properties[name] = nullable(properties[name])
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": {r"\.": False},
        "allOf": [run_keys.refuse_unknown_streams()],
    }


def _describe_study(sections: Sections) -> Schema:
    keys = run_keys.describe_run(sections)
    defs = sections.definitions
    entry = run_keys.describe_flat({**keys.nested, **keys.short}, defs)
    conditions = [*sections.list_method_conditions(), run_keys.refuse_unknown_streams()]
    together = defs.refer("together", {"allOf": conditions})
    defs.refer("run", {**entry, "allOf": [together]})
    _let_runs_stand(defs.schemas)

    pointers = {name: {"$ref": f"#/$defs/run/properties/{name}"} for name in entry["properties"]}
    patterns = entry["patternProperties"]
    # A key of a shipped suite is among the patterns too, and stands here once.
    varied = {name: one for name, one in pointers.items() if not name.startswith("eval.")}
    drawn = any_of([{"type": "array"}, defs.refer_class(Range, "range")])
    defs.refer("drawn", drawn)
    search = defs.describe_class(Search)
    search["properties"]["over"] = {
        **_describe_closed(
            {key: {"$ref": "#/$defs/drawn"} for key in varied},
            {key: {"$ref": "#/$defs/drawn"} for key in patterns},
        ),
        "description": "key -> list of values, or a range",
    }
    lists = _describe_closed(_let_lists_stand(varied), _let_lists_stand(patterns))
    defs.refer("vary", {**lists, "type": ["object", "null"], "description": STUDY["vary"]})
    own = {
        "name": {"type": "string", "description": "another name of the run"},
        "from": {**scalar("string", "null"), "description": "the forget run that it starts from"},
        "vary": {"$ref": "#/$defs/vary"},
        "search": nullable(defs.refer("search", search)),
    }
    whole = _describe_closed({**pointers, **own}, patterns)
    return _describe_study_sections(sections, defs.refer("entry", {**whole, "allOf": [together]}))


def _describe_closed(properties: dict[str, Schema], patterns: dict[str, Schema]) -> Schema:
    """Describe a mapping of these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": patterns,
        "additionalProperties": False,
    }


def _let_lists_stand(schemas: dict[str, Schema]) -> dict[str, Schema]:
    """Let a list of values stand where one may."""
    listed = {}
    for name, one in schemas.items():
        listed[name] = {"anyOf": [one, {"type": "array", "items": one}]}
    return listed


def _describe_study_sections(sections: Sections, entry: Schema) -> Schema:
    """Describe the keys of a study, given what an entry of it is."""
    defs = sections.definitions
    suites = choice(sections.list_names("eval"), is_open=True)
    levels = choice(sections.list_names("audit"), is_open=True)
    slurm = defs.describe_class(Slurm)
    of_kind = dict(slurm["properties"])
    del of_kind["kinds"]
    slurm["properties"]["kinds"] = mapping(dict.fromkeys(KINDS, mapping(of_kind)))
    judged = choice(("base", "audit"))
    properties = {
        "name": {"type": "string"},
        "base": nullable(entry),
        "full": entry,
        "retain": nullable(entry),
        "forget": any_of([sequence(entry), entry, {"type": "null"}]),
        "vary": {"$ref": "#/$defs/vary"},
        "eval": any_of([suites, sequence(suites), {"type": "null"}]),
        "evaluate": any_of([judged, sequence(judged), {"type": "null"}]),
        "audit": any_of([levels, {"$ref": "#/$defs/run"}, {"type": "null"}]),
        "wandb": nullable(defs.refer_class(Wandb, "wandb")),
        "local": nullable(defs.refer_class(Local, "local")),
        "slurm": nullable(defs.refer("slurm", slurm)),
    }
    described = {name: {**one, "description": STUDY[name]} for name, one in properties.items()}
    return {
        "type": "object",
        "properties": described,
        "additionalProperties": False,
        "required": ["name", "full"],
    }


def _let_runs_stand(node: object) -> None:
    """Let the folder of another run, `{run: NAME}`, stand wherever any text may."""
    if isinstance(node, list):
        for item in node:
            _let_runs_stand(item)
    if not isinstance(node, dict):
        return
    for item in list(node.values()):
        _let_runs_stand(item)
    kinds = node.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if (
        isinstance(kinds, list)
        and "string" in kinds
        and not {"pattern", "object"} & {*node, *kinds}
    ):
        node |= {
            "type": [*kinds, "object"],
            "properties": {"run": {"type": "string"}},
            "required": ["run"],
            "additionalProperties": False,
        }


def _describe_group_file(
    describe_section: Callable[[Sections], Schema],
) -> Callable[[Sections], Schema]:
    """Give what describes a file of a group that is one section of a run."""

    def describe(sections: Sections) -> Schema:
        reference = describe_section(sections)
        described: Schema = sections.definitions.schemas[reference["$ref"].rpartition("/")[2]]
        properties = {**described["properties"], "defaults": DEFAULTS}
        return {**described, "type": "object", "properties": properties}

    return describe


def _describe_dataset_file(sections: Sections) -> Schema:
    sections.describe_data()
    return mapping({"defaults": DEFAULTS}, rest={"$ref": "#/$defs/dataset"})


def _describe_paths_file(sections: Sections) -> Schema:
    return sections.definitions.describe_class(Paths)


def _describe_logs_file(sections: Sections) -> Schema:
    description = sections.definitions.refer_class(MetricDescription)
    return mapping(
        {"suites": sequence(scalar("string")), "describe": mapping({}, rest=description)}
    )


BUILDERS: dict[str, tuple[str, Callable[[Sections], Schema]]] = {
    "run": ("the file of a run (train, unlearn, eval, audit, check)", _describe_run_file),
    "study": ("a study", _describe_study),
    "experiment": ("an experiment, or a primary configuration", _describe_experiment),
    "infer": ("the file of an inference", _describe_infer_file),
    "tokenize": ("the file of unteach tokenize", _describe_tokenize_file),
    "model": ("a file of configs/model", _describe_group_file(Sections.describe_model)),
    "trainer": ("a file of configs/trainer", _describe_group_file(Sections.describe_trainer)),
    "data": ("a file of configs/data", _describe_group_file(Sections.describe_data)),
    "dataset": ("a file of configs/data/datasets", _describe_dataset_file),
    "suite": ("a file of configs/eval", _describe_group_file(Sections.describe_suite)),
    "audit": ("a file of configs/audit", _describe_group_file(Sections.describe_audit)),
    "collator": ("a file of configs/collator", _describe_group_file(Sections.describe_collator)),
    "paths": ("a file of configs/paths", _describe_paths_file),
    "logs": ("a file of configs/logs", _describe_logs_file),
}
"""The kinds of files: what each is, and what describes it."""
