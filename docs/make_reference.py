"""Writes docs/reference.md from the dataclasses, registries and files that a configuration is read
with.

python docs/make_reference.py
"""

import ast
import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from unteach import errors, registry
from unteach.cli import FLAGS, OPTIONS, VERBS
from unteach.config import groups, overrides, schema, training_args, watching
from unteach.config.component_fields import docstrings_under, read_meanings, spell_type
from unteach.config.dual_optim import DualOptim
from unteach.config.files import Files
from unteach.config.parse_trainer import WRAPPERS
from unteach.config.section_meanings import MEANINGS, STUDY
from unteach.config.suites import GenerationArgs, RowsConfig, SuiteConfig
from unteach.config.tokenize import TokenizeConfig
from unteach.models.model_handlers import LOADING
from unteach.studies import search_space, settings
from unteach.studies.expansion import KEYS

PAGE = Path(__file__).with_name("reference.md")
HEAD = """\
# Reference

Every key that a command or a file can have: its name, what it takes, its default. A page to look
things up in: [experiments.md](experiments.md) says how keys are used, [methods.md](methods.md)
explains the methods, [glossary.md](glossary.md) the words; with [editor.md](editor.md) an editor
and a shell complete and explain the keys. `unteach check … --print` shows the values of one command
and where each came from. `docs/make_reference.py` writes this page from the code itself.
"""
DATA = """\
`data.<stream>=NAME` puts a file of `configs/data/datasets/`, or a list of them, into a
[stream](glossary.md#stream) (`train`, `forget`, `retain`, `alternate`). `data.anchor` names the
stream whose length is an epoch. Each dataset has `handler` and `args`; `template`, or `tokenizer`
and `template_args`, are handed over. `hf_args` are `datasets.load_dataset`'s; a `path` that is a
folder holds `<name>` or `<name>/<split>` as .jsonl, .csv, .parquet, .txt…; `authors` and `people`
are built-in worlds.
"""
CODES = {
    0: "done",
    errors.EXIT_BUG: "a bug of unteach",
    errors.EXIT_MISTAKE: "a mistake in the command, its files or its data, or a machine that lacks "
    "something",
    errors.EXIT_DIVERGED: "a loss or gradient stopped being finite, or runs of a study did not "
    "finish",
    errors.EXIT_ROWS_FAILED: "rows of `unteach infer` have an error in place of an answer: the "
    "same command asks them "
    "again",
    errors.EXIT_PREEMPTED: "asked to stop (Ctrl-C, SIGTERM, SIGUSR2), or a process was lost: the "
    "same command goes on",
    errors.EXIT_INTERRUPTED: "ended at once, by a second Ctrl-C or by one before its work began",
}


def page() -> str:
    """The whole page."""
    sections = [
        command_line,
        variables,
        paths,
        model,
        trainer,
        methods,
        datasets,
        suites,
        metrics,
        inference,
        wandb,
        study,
        tokenize,
    ]
    return "\n".join([HEAD, *(line for section in sections for line in section())])


def command_line() -> Iterator[str]:
    yield "## Command line\n"
    options = {
        meant: " or ".join(f"`{o}`" for o, m in OPTIONS.items() if m == meant)
        for meant in OPTIONS.values()
    }
    options |= {meant: f"`{flag}`" for flag, meant in FLAGS.items()}
    told = [
        (f"`{name}`", verb.what, ", ".join(options[o] for o in verb.options))
        for name, verb in VERBS.items()
    ]
    yield from table(("verb", "does", "options"), told)
    yield from table(("exit code", "means"), [(str(code), said) for code, said in CODES.items()])


def variables() -> Iterator[str]:
    yield "## Top level\n"
    yield (
        "`configs/variables.yaml`; other files refer to these names, and a file of yours may "
        "declare more.\n"
    )
    rows = [("`task_name`", "required", MEANINGS["task_name"])]
    rows += [("`mode`", "by the verb", "`train`, `unlearn` or `eval`; part of the run's folder")]
    yield from table(("key", "default", ""), rows + commented(groups.CONFIGS / "variables.yaml"))


def paths() -> Iterator[str]:
    yield "## paths\n"
    yield from table(("key", "default", ""), commented(groups.CONFIGS / "paths" / "default.yaml"))


def model() -> Iterator[str]:
    yield "## model\n"
    yield "`model=NAME` takes a file of `configs/model/` (`unteach list models`).\n"
    yield from fields(schema.ModelConfig)
    names = ", ".join(f"`{name}`" for name in LOADING)
    yield (
        f"`model_args` go to `from_pretrained` ({names}) and, from there, to the model's "
        f"config; "
        f"`tokenizer_args` to"
    )
    yield (
        "`AutoTokenizer.from_pretrained`; `peft_args` to `peft.LoraConfig`. Names that they "
        "lack "
        "are refused.\n"
    )
    yield "### model.template_args\n"
    yield f"{paragraphs(schema.TemplateArgs)}\n"
    yield from fields(schema.TemplateArgs)


def trainer() -> Iterator[str]:
    yield "## trainer\n"
    parts = ("handler", "args", "method_args", "guard", "land", "dual_optim", "surgery", "perturb")
    rows = [(f"`{part}`", MEANINGS[f"trainer.{part}"]) for part in parts]
    yield from table(("key", ""), rows)
    yield "### trainer.args\n"
    yield "Defaults, under every experiment and method; all others are the library's:\n"
    base = yaml.safe_load((groups.CONFIGS / "base_trainer.yaml").read_text())["layers"]["base"][
        "args"
    ]
    yield from table(
        ("field", "default"), [(f"`{name}`", code(value)) for name, value in base.items()]
    )
    own = [(f"`{name}`", spell_type(eval(kind), "`")) for name, kind in training_args.OWN.items()]
    yield f"{documented(training_args)['OWN']}\n"
    yield from table(("field", "takes"), own)
    yield "Old names that are translated, and said once:\n"
    both = training_args.RENAMED | overrides.RENAMED
    yield from table(("old", "now"), [(f"`{old}`", f"`{new}`") for old, new in both.items()])
    yield "Fields that have no effect any more, which is said once:\n"
    yield from table(
        ("field", "because"), [(f"`{n}`", why) for n, why in training_args.DROPPED.items()]
    )
    yield "Fields that are refused:\n"
    by_reason: dict[str, list[str]] = {}
    for name, why in training_args.REFUSED.items():
        by_reason.setdefault(why, []).append(f"`{name}`")
    yield from table(
        ("fields", "because"), [(", ".join(names), why) for why, names in by_reason.items()]
    )
    yield "### trainer.guard\n"
    yield f"{paragraphs(watching.Guard)}\n"
    yield from fields(watching.Guard)
    yield "### trainer.land\n"
    yield f"{paragraphs(watching.Land)}\n"
    yield from fields(watching.Land)
    yield "### trainer.dual_optim\n"
    yield f"{paragraphs(DualOptim)}\n"
    yield from fields(DualOptim)
    for section, kind in WRAPPERS.items():
        for entry in ours(kind):
            yield f"### trainer.{section}={entry.name}\n"
            yield f"{paragraphs(entry.target)}\n"
            yield from fields(entry.target)


def methods() -> Iterator[str]:
    yield "## trainer.method_args\n"
    yield "`compat` is what `compat=openunlearning` sets a field to.\n"
    for entry in ours(registry.method):
        yield f"### {entry.name}\n"
        yield f"{paragraphs(entry.target)}\n"
        yield from fields(entry.target, quirks=True)
    yield "### trainer=NAME\n"
    yield "The files of `configs/trainer/` that set more than a method's name, or have another:\n"
    rows = []
    for name in groups.list_options("trainer"):
        file = yaml.safe_load((groups.CONFIGS / "trainer" / f"{name}.yaml").read_text())
        handler = file.pop("handler")
        if file or handler != name:
            rows.append((f"`trainer={name}`", f"`{handler}`", flat(file)))
    yield from table(("file", "method", "sets"), rows)


def datasets() -> Iterator[str]:
    yield "## data\n"
    yield DATA
    for entry in ours(registry.dataset):
        yield f"### {entry.name}\n"
        yield f"{paragraphs(entry.target)}\n"
        yield from fields(entry.target, leave_out=("template",))
    files = [(f"`{name}`", *place(name)) for name in groups.list_options("data/datasets")]
    yield from table(("file", "handler", "rows"), files)
    yield "### data=files\n"
    yield f"{paragraphs(Files)}\n"
    yield from fields(Files)
    yield "### forget_set\n"
    yield f"{paragraphs(schema.ForgetSet)}\n"
    yield from fields(schema.ForgetSet)
    yield "## collator\n"
    for entry in ours(registry.collator):
        yield f"`collator.{entry.name}.args`: {paragraphs(entry.target)}\n"
        yield from fields(entry.target, leave_out=("tokenizer",))


def suites() -> Iterator[str]:
    yield "## eval\n"
    yield "`eval=NAME`, a list of names, or null. Below `eval.<suite>`:\n"
    yield f"{paragraphs(SuiteConfig)}\n"
    yield from fields(SuiteConfig)
    yield "### eval.<suite>.rows.<name>\n"
    yield f"{paragraphs(RowsConfig)}\n"
    yield from fields(RowsConfig)
    yield "### generation\n"
    yield f"{paragraphs(GenerationArgs)}\n"
    yield from fields(GenerationArgs)
    for name in groups.list_options("eval"):
        suite = yaml.safe_load((groups.CONFIGS / "eval" / f"{name}.yaml").read_text())
        yield f"### The metrics of `{name}`\n"
        if "defaults" in suite:
            over = "; ".join(
                f"`{key}`: {flat(rows['hf_args'])}" for key, rows in suite["rows"].items()
            )
            yield f"Those of `{suite['defaults'][0].partition('@')[0]}`, on other rows ({over}).\n"
            continue
        if "define" not in suite:
            tasks = ", ".join(suite["tasks"])
            yield (
                f"Those of lm-evaluation-harness's tasks: `eval.{name}.tasks`, by default "
                f"{tasks}.\n"
            )
            continue
        yield (
            "Those in bold are asked for by default; `eval.<suite>.metrics` takes a list, "
            "`default` or `all`.\n"
        )
        rows = []
        for metric, definition in suite["define"].items():
            shown = f"**{metric}**" if metric in suite["default"] else metric
            rows.append((shown, f"`{definition.pop('metric')}`", flat(definition)))
        yield from table(("name", "metric", "fields"), rows)


def metrics() -> Iterator[str]:
    yield "## eval.<suite>.define.<name>\n"
    yield (
        "`metric` names one of these; the other keys are its fields. `compat`: under "
        "`compat=openunlearning`.\n"
    )
    for entry in ours(registry.metric):
        yield f"### {entry.name}\n"
        yield f"{paragraphs(entry.target)}\n"
        yield from fields(entry.target, quirks=True)


def wandb() -> Iterator[str]:
    yield "## wandb\n"
    yield f"{paragraphs(schema.Wandb)}\n"
    yield from fields(schema.Wandb)


def inference() -> Iterator[str]:
    yield "## unteach infer\n"
    yield "`configs/infer.yaml`; [inference.md](inference.md) explains it. `model.…` is as above.\n"
    yield from table(("key", "default", ""), commented(groups.CONFIGS / "infer.yaml"))
    for entry in ours(registry.backend):
        yield f"### backend={entry.name}\n"
        yield f"{paragraphs(entry.target)}\n"
        yield from fields(entry.target)


def study() -> Iterator[str]:
    assert set(STUDY) == KEYS, "STUDY describes every key of a study"
    yield "## Study files\n"
    yield (
        "`unteach study run study=NAME` reads `configs/study/NAME.yaml`, a file of yours, or a "
        "path.\n"
    )
    yield from table(("key", ""), [(f"`{key}`", said) for key, said in STUDY.items()])
    for title, cls in (("search", search_space.Search), ("search.over.<key>", search_space.Range)):
        yield f"### {title}\n"
        yield f"{paragraphs(cls)}\n"
        yield from fields(cls)
    for title, cls in (("local", settings.Local), ("slurm", settings.Slurm)):
        yield f"### {title}\n"
        yield f"{paragraphs(cls)}\n"
        yield from fields(cls)


def tokenize() -> Iterator[str]:
    yield "## unteach tokenize\n"
    yield f"{paragraphs(TokenizeConfig)}\n"
    yield from fields(TokenizeConfig)


def ours(kind: registry.Registry) -> list[registry.Entry]:
    """The members of a registry that ship with unteach."""
    return [entry for entry in kind.entries() if entry.origin.startswith("unteach.")]


def place(name: str) -> tuple[str, str]:
    """(handler, where its rows are) of a dataset's file."""
    (part,) = yaml.safe_load(
        (groups.CONFIGS / "data" / "datasets" / f"{name}.yaml").read_text()
    ).values()
    where = "/".join(
        str(part["args"]["hf_args"][key])
        for key in ("path", "name", "split")
        if key in part["args"]["hf_args"]
    )
    return part["handler"], f"`{where}`"


def fields(cls: Any, leave_out: tuple[str, ...] = (), quirks: bool = False) -> Iterator[str]:
    """A table of a dataclass's fields: name, what it takes, default, help."""
    said, hints, odd = (
        read_meanings(cls),
        typing.get_type_hints(cls),
        getattr(cls, "QUIRKS", {}) if quirks else {},
    )
    rows = []
    for one in dataclasses.fields(cls):
        if not one.init or one.name in leave_out:
            continue
        compat = f"compat: {code(odd[one.name])}" if one.name in odd else ""
        told = "; ".join(filter(None, (said.get(one.name), compat)))
        rows.append((f"`{one.name}`", spell_type(hints[one.name], "`"), find_default(one), told))
    if rows:
        yield from table(("field", "takes", "default", ""), rows)
    else:
        yield "It has no fields.\n"


def documented(module: Any) -> dict[str, str]:
    """Name -> the docstring under a module's assignment."""
    return docstrings_under(ast.parse(inspect.getsource(module)).body)


def paragraphs(cls: type) -> str:
    return escaped(inspect.cleandoc(cls.__doc__ or "").strip())


def escaped(text: str) -> str:
    """Text whose angle brackets, outside code, are no HTML."""
    return "`".join(
        part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(text.split("`"))
    )


def find_default(one: Any) -> str:
    if one.default is not dataclasses.MISSING:
        return code(one.default)
    return "required" if one.default_factory is dataclasses.MISSING else code(one.default_factory())


def code(value: Any) -> str:
    """A value as YAML would have it."""
    if dataclasses.is_dataclass(value) or value in ([], {}):
        return ""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, str):
        text = value if "\n" not in value else f"{value.splitlines()[0]} …"
        return f"`{text}`" if text else '`""`'
    written = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"`{written.strip().removesuffix('...').strip()}`"


def flat(value: Any, path: str = "") -> str:
    """A mapping on one line, with dotted keys."""
    if isinstance(value, dict):
        return ", ".join(
            flat(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()
        )
    return f"{path}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


def commented(file: Path) -> list[tuple[str, str, str]]:
    """(key, default, comment) of each line of a flat YAML file."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"(\w+): (.*?)(?:\s+# (.*))?", line):
            rows.append((f"`{found[1]}`", f"`{found[2]}`", found[3] or ""))
    return rows


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(escaped(cell).replace("|", "\\|") for cell in row) + " |"
    yield ""


if __name__ == "__main__":
    sys.exit(PAGE.write_text(page(), encoding="utf-8") == 0)
