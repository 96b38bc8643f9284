"""JSON schemas of the keys of a run, nested and dotted, and of an inference."""

import typing
from collections.abc import Iterable
from dataclasses import dataclass

from unteach import registry
from unteach.config import schema, shorthand
from unteach.config.files import FILE_KEYS
from unteach.config.inference import DRAWING, OWN, InferConfig, Sampling
from unteach.config.parse_config import OF_AUDITS, VALUES
from unteach.config.section_meanings import MEANINGS
from unteach.editor import components
from unteach.editor.flatten import flatten
from unteach.editor.sections import STREAMS, Sections
from unteach.editor.shapes import (
    OPEN,
    Definitions,
    Schema,
    any_of,
    choice,
    mapping,
    nullable,
    scalar,
    when,
)

SPECIAL_KEY = r"^[+~]|[@/]"
"""Keys in Hydra's own grammar, which only composition understands."""
PLUGIN_KEY = "plugins"
_TRAINING = ("trainer", "collator", "wandb")
_AUDITING = ("audit", "also", "original", *OF_AUDITS)
UNUSED = {
    "train": _AUDITING,
    "unlearn": _AUDITING,
    "eval": (*_TRAINING, *_AUDITING),
    "audit": (*_TRAINING, "eval"),
}
"""Beginnings of the keys that a verb has no use for."""


@dataclass(frozen=True)
class RunKeys:
    """The keys of a run: its sections in full, and what may be said of it in one word.

    Attributes:
        nested: a section each, as a file of an experiment and a kept configuration have it.
        short: what a run's file and a command line say beside these.
    """

    nested: dict[str, Schema]
    short: dict[str, Schema]


def describe_run(sections: Sections) -> RunKeys:
    """Describe the keys of `unteach train`, `unlearn`, `eval` and `audit`."""
    defs = sections.definitions
    paths = defs.refer_class(schema.Paths, "paths")
    for name, described in sections.list_variables("paths/default.yaml").items():
        defs.schemas["paths"]["properties"][name].update(
            description=described["description"], default=described["default"]
        )
    nested = sections.list_variables()
    for name, hint in VALUES.items():
        known = nested.get(name, {})
        nested[name] = known if "anyOf" in known else {**known, **defs.describe_type(hint)}
        if name in MEANINGS:
            nested[name]["description"] = MEANINGS[name]
    nested["mode"] = {
        **choice(("train", "unlearn", "eval", "audit"), is_open=True),
        "description": MEANINGS["mode"],
    }
    for name, described in sections.list_variables("audit.yaml").items():
        nested.setdefault(name, described)
    nested["also"] = {"type": ["array", "string"], "description": nested["also"]["description"]}
    nested["backend_args"] = nullable(mapping({}, rest={}))
    nested |= {
        "forget_set": nullable(defs.refer_class(schema.ForgetSet, "forget_set")),
        "model": sections.describe_model(),
        "trainer": sections.describe_trainer(),
        "data": sections.describe_data(),
        "collator": sections.describe_collator(),
        "eval": sections.describe_suites(),
        "audit": sections.describe_audit(),
        "paths": paths,
        "wandb": nullable(defs.refer_class(schema.Wandb, "wandb")),
    }
    for name in sections.list_other_names(nested):
        nested[name] = {"description": "a name that experiments refer to"}
    short: dict[str, Schema] = {}
    for group in ("model", "trainer", "data", "collator", "eval", "audit", "paths"):
        short[group] = sections.describe_choice(group, nested[group], is_list=group == "eval")
    short["experiment"] = sections.describe_choice("experiment", {"type": "null"})
    for word in shorthand.FILE_WORDS:
        described = any_of([scalar("string", "null"), mapping({}, rest={})])
        short[word] = {**described, "description": MEANINGS[word]}
    return RunKeys(nested, short)


def describe_flat(keys: dict[str, Schema], definitions: Definitions) -> Schema:
    """Describe a file whose keys may be dotted: each key in full, in one word or in several."""
    flat = flatten(keys, definitions)
    return {
        "type": "object",
        "properties": flat.properties,
        "patternProperties": {**flat.patterns, SPECIAL_KEY: {}},
        "additionalProperties": False,
    }


def refuse_unknown_streams() -> Schema:
    """Refuse, where no plugin is named, a stream that no method of ours has: a name misspelled."""
    known = "|".join(sorted({*STREAMS, *FILE_KEYS, "anchor"}))
    then = {
        "properties": {"data": {"propertyNames": {"pattern": rf"^(?:{known})(?:\.|$)"}}},
        "patternProperties": {rf"^data\.(?!(?:{known})(?:\.|$))": False},
    }
    return {"if": {"not": {"required": [PLUGIN_KEY]}}, "then": then}


def describe_inference(sections: Sections) -> dict[str, Schema]:
    """Describe the keys of `unteach infer`."""
    defs = sections.definitions
    commented = sections.list_variables("infer.yaml")
    hints = typing.get_type_hints(InferConfig)
    fields = {**defs.list_fields(InferConfig), **defs.list_fields(Sampling)}
    names = (OWN | DRAWING) - {"model", "backend", "tree"}
    keys = {}
    for name in commented:
        if name in names:
            keys[name] = fields[name] if name in DRAWING else defs.describe_type(hints[name])
        else:
            keys[name] = commented[name]
        for word in ("description", "default"):
            if commented[name][word] not in ("", "???"):
                keys[name] = {**keys[name], word: commented[name][word]}
    keys["resume"] = {**choice(("auto", "never", True, False)), "default": "auto"}
    keys["template"] = {
        **choice(("raw", "chat", "qa", None)),
        "description": commented["template"]["description"],
    }
    keys["mode"] = choice(("infer",), is_open=True)
    keys["model"] = sections.describe_choice("model", sections.describe_model())
    data = any_of([scalar("string"), mapping({}, rest={})])
    keys["data"] = {**data, "description": "the table whose rows are asked: `input_file`"}
    references = components.define_classes(defs, registry.backend)
    keys["backend"] = {
        **choice(references, is_open=True),
        "description": f"what answers.{OPEN}",
        "default": "hf",
    }
    args = mapping(components.join_fields(defs, references), rest={})
    text = "options of the backend"
    keys["backend_args"] = nullable(defs.refer("backend_args", {**args, "description": text}))
    return keys


def list_backend_conditions(sections: Sections) -> list[Schema]:
    """List what holds beside `backend: NAME`: the options of that backend, no others."""
    references = components.define_classes(sections.definitions, registry.backend)
    conditions = []
    for name, reference in references.items():
        fields = components.list_field_names(sections.definitions, reference)
        others = r"^backend_args\.(?!(?:" + "|".join(fields) + r")(?:\.|$))"
        then = {
            "properties": {"backend_args": nullable(reference)},
            "patternProperties": {others: False},
        }
        conditions.append(when("backend", [name], then))
    return conditions


def select_keys(keys: Iterable[str], verb: str) -> list[str]:
    """Select the keys of a run that a verb has: what only trains, or only audits, is left out."""
    return [key for key in keys if key.partition(".")[0] not in UNUSED[verb]]
