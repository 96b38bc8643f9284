"""JSON schemas of the sections of a run: `trainer`, `model`, `data`, `eval`, `audit` and the keys
beside them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unteach import registry
from unteach.config import files, groups, overrides, parse_trainer, schema
from unteach.config.audits import AuditSettings
from unteach.config.section_meanings import MEANINGS
from unteach.config.suites import SuiteConfig
from unteach.editor import components
from unteach.editor.meanings import read_commented
from unteach.editor.shapes import (
    OPEN,
    Definitions,
    Schema,
    any_of,
    choice,
    mapping,
    nullable,
    scalar,
    sequence,
    when,
)
from unteach.editor.suite_files import read_mapping, read_suite
from unteach.editor.training_fields import describe_peft_args, describe_training_args
from unteach.models.model_handlers import LOADING

STREAMS = (*schema.STREAMS, *schema.BESIDE)
WORD = re.compile(r"[\w.-]+")


class Sections:
    """The sections, over one set of definitions.

    Attributes:
        homes: folders of more configuration files (--config-dir, packages of plugins).
        definitions: what the schemas refer to.
        method_fields: the references to the fields of each method, by the method's name.
    """

    def __init__(self, definitions: Definitions, homes: Sequence[str] = ()):
        self.definitions = definitions
        self.homes = tuple(homes)
        self.method_fields = components.define_classes(definitions, registry.method)
        self.handlers = components.list_handlers(self.homes)

    def list_names(self, group: str) -> list[str]:
        """List the names of a group's files."""
        return groups.list_options(group, self.homes)

    def describe_trainer(self) -> Schema:
        """Describe the mapping `trainer`."""
        defs = self.definitions
        args = defs.refer("trainer.args", describe_training_args())
        fields = components.join_fields(defs, self.method_fields)
        text = f"The method's own fields.{OPEN}"
        method_args = defs.refer("trainer.method_args", mapping(fields, rest={}, description=text))
        properties = {
            "handler": choice(self.method_fields, is_open=True),
            "args": nullable(args),
            "method_args": nullable(method_args),
        }
        for name, record in parse_trainer.RECORDS.items():
            properties[name] = nullable(defs.refer_class(record, f"trainer.{name}"))
        for name, kind in parse_trainer.WRAPPERS.items():
            properties[name] = components.describe_wrapper(defs, kind)
        for name, value in properties.items():
            if f"trainer.{name}" in MEANINGS:
                properties[name] = {**value, "description": MEANINGS[f"trainer.{name}"]}
        conditions = []
        for method, reference in self.method_fields.items():
            then = {"properties": {"method_args": nullable(reference)}}
            conditions.append(when("handler", [method], then))
        return defs.refer("trainer", mapping(properties, allOf=conditions))

    def list_method_conditions(self) -> list[Schema]:
        """List what holds beside `trainer=NAME` in a flat file: the fields of that method, no
        others."""
        conditions = []
        for method, reference in self.method_fields.items():
            fields = components.list_field_names(self.definitions, reference)
            prefix = r"^trainer\.method_args\."
            others = prefix + r"(?!(?:" + "|".join(fields) + r")(?:\.|$))" if fields else prefix
            properties: dict[str, Schema] = {"trainer.method_args": nullable(reference)}
            for field in fields:
                properties[f"trainer.method_args.{field}"] = {
                    "$ref": f"{reference['$ref']}/properties/{field}"
                }
            then = {"properties": properties, "patternProperties": {others: False}}
            conditions.append(when("trainer", self.handlers.get(method, [method]), then))
        return conditions

    def describe_model(self) -> Schema:
        """Describe the mapping `model`."""
        defs = self.definitions
        described = defs.describe_class(schema.ModelConfig)
        properties = described["properties"]
        open_properties: dict[str, Schema] = {key: {} for key in LOADING}
        open_properties[schema.PATH] = {
            **scalar("string", "null"),
            "description": "A folder, a run, or a hub id; `model: PATH` says it too.",
        }
        open_properties["dtype"] = choice(
            ("auto", "float32", "bfloat16", "float16", None), is_open=True
        )
        old = {
            old.rpartition(".")[2]: {"deprecationMessage": f"is called {new} now"}
            for old, new in overrides.RENAMED.items()
        }
        text = "What goes to from_pretrained, and from there to the model's config."
        properties["model_args"] = defs.refer(
            "model.model_args",
            mapping(
                {**open_properties, "torch_dtype": old["torch_dtype"]}, rest={}, description=text
            ),
        )
        defs.schemas["TemplateArgs"]["properties"]["asst_tag"] = old["asst_tag"]
        text = "What goes to AutoTokenizer.from_pretrained."
        tokenizer = mapping({schema.PATH: open_properties[schema.PATH]}, rest={}, description=text)
        properties["tokenizer_args"] = defs.refer("model.tokenizer_args", tokenizer)
        properties["peft_args"] = describe_peft_args()
        handler = choice(components.list_classes(registry.model), is_open=True)
        properties["model_handler"] = {**properties["model_handler"], **handler}
        properties["model_handler"].pop("type", None)
        return defs.refer("model", described)

    def describe_data(self) -> Schema:
        """Describe the mapping `data`: streams of datasets, or rows of one's own."""
        defs = self.definitions
        dataset = defs.refer("dataset", components.describe_component(defs, registry.dataset))
        names = choice(self.list_names("data/datasets"), is_open=True)
        text = f"The datasets of a stream: a name, several, or datasets by name.{OPEN}"
        stream = any_of(
            [names, {"type": "null"}, sequence({"type": "string"}), mapping({}, rest=dataset)]
        )
        reference = defs.refer("stream", {**stream, "description": text})
        properties = defs.list_fields(files.Files)
        for name in STREAMS:
            properties[name] = reference
        properties["anchor"] = {
            **choice((*STREAMS, None), is_open=True),
            "description": "The stream whose length is an epoch.",
        }
        other = {"type": ["object", "string", "array", "null"]}
        return defs.refer("data", mapping(properties, rest=other))

    def describe_suite(self) -> Schema:
        """Describe a suite: what metrics it has, and which are asked for."""
        defs = self.definitions
        if "suite" not in defs.schemas:
            described = defs.describe_class(SuiteConfig)
            metric = defs.refer(
                "metric", components.describe_named(defs, registry.metric, "metric")
            )
            define = mapping({}, rest=metric)
            described["properties"]["define"] = {
                **define,
                "description": "Metrics by name: the class, and its fields.",
            }
            defs.refer("suite", described)
        return {"$ref": "#/$defs/suite"}

    def describe_suites(self) -> Schema:
        """Describe the mapping `eval`: suites by name."""
        defs = self.definitions
        suite = self.describe_suite()
        properties = {}
        for name in self.list_names("eval"):
            metrics = self._list_metrics(name)
            fields: dict[str, Schema] = {}
            for field in defs.schemas["suite"]["properties"]:
                fields[field] = {"$ref": f"#/$defs/suite/properties/{field}"}
            if metrics:
                asked = choice(("default", "all", *metrics), is_open=True)
                listed = sequence(choice(metrics, is_open=True))
                fields["metrics"] = {**any_of([asked, listed]), "description": "What is measured."}
            properties[name] = defs.refer(f"suite.{name}", mapping(fields))
        return defs.refer("eval", mapping(properties, rest=suite))

    def list_other_names(self, known: Iterable[str]) -> list[str]:
        """List the names at the top of experiments, shipped and the user's, that are not known:
        they refer to them, and a run's kept configuration has them."""
        names: dict[str, None] = {}
        for home in (groups.CONFIGS, *map(Path, self.homes)):
            for file in sorted((home / "experiment").rglob("*.yaml")):
                names.update(dict.fromkeys(read_mapping(file)))
        skipped = {*known, "defaults", "layers", "hydra"}
        return [name for name in names if name not in skipped]

    def list_defined_metrics(self) -> list[str]:
        """List the metrics of all suites, by their names there."""
        names: dict[str, None] = {}
        for suite in self.list_names("eval"):
            names.update(dict.fromkeys(self._list_metrics(suite)))
        return list(names)

    def _list_metrics(self, suite: str, within: tuple[str, ...] = ()) -> list[str]:
        """List the metrics that a suite's file and the files it stands on define.

        Args:
            within: the suites whose files are being read: one that stands on itself would never
                end.
        """
        if suite in within:
            return []
        for home in (*map(Path, self.homes), groups.CONFIGS):
            file = home / "eval" / f"{suite}.yaml"
            if file.is_file():
                content = read_suite(file)
                tasks = [task for task in content["tasks"] if isinstance(task, str)]
                for parent in content["defaults"]:
                    if isinstance(parent, str) and parent != "_self_":
                        tasks += self._list_metrics(parent.partition("@")[0], (*within, suite))
                return list(dict.fromkeys([*content["define"], *tasks]))
        return []

    def describe_audit(self) -> Schema:
        """Describe the mapping `audit`."""
        defs = self.definitions
        described = defs.describe_class(AuditSettings)
        fields_of = components.define_classes(defs, registry.attack)
        described["properties"]["attacks"] = components.describe_attacks(defs, fields_of)
        return defs.refer("audit", described)

    def describe_collator(self) -> Schema:
        """Describe the mapping `collator`, which holds one by name."""
        defs = self.definitions
        component = components.describe_component(defs, registry.collator)
        return defs.refer("collator", mapping({}, rest=defs.refer("collator.NAME", component)))

    def describe_choice(self, group: str, section: Schema, is_list: bool = False) -> Schema:
        """Describe what chooses a group's file: a name, null, or the section itself."""
        # data/datasets is a group of its own
        own = [name for name in self.list_names(group) if group != "data" or "/" not in name]
        names = choice(own, is_open=True)
        others = [sequence(names)] if is_list else []
        described = any_of([names, {"type": "null"}, section, *others])
        return {**described, "description": f"{MEANINGS[group]}.{OPEN}"}

    def list_variables(self, file: str = "variables.yaml") -> dict[str, Schema]:
        """Describe the keys of a flat YAML file by their values and comments."""
        variables = {}
        for name, (default, comment) in read_commented(groups.CONFIGS / file).items():
            values = suggest_values(comment)
            described = (
                choice([*values, *([None] if default is None else [])], is_open=True)
                if values and isinstance(default, str | None)
                else components.describe_value(default)
            )
            variables[name] = {**described, "description": comment, "default": default}
        return variables


def suggest_values(comment: str) -> list[str]:
    """List the values that a comment names: `auto | never | a checkpoint's folder`."""
    first = re.split(r"[;,(]", comment.replace("MUSE: ", "").replace("; WMDP: ", " | "))[0]
    first = first.removeprefix("TOFU: ")
    parts = [part.strip() for part in first.split("|")]
    if len(parts) < 2:
        return []
    return [part for part in parts if WORD.fullmatch(part)]
