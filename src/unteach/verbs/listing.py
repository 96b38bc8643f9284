"""`unteach list`: what there is of a kind, a line each; of one name, its fields."""

import itertools
import logging
import re
import shutil
import sys
import textwrap
from pathlib import Path

from unteach import plugins, registry
from unteach.config.groups import CONFIGS
from unteach.config.reader import PROVIDED
from unteach.config.verb_configs import ListConfig
from unteach.errors import UserError, describe_unknown, find_nearest
from unteach.verbs.component_fields import fields_of

logger = logging.getLogger(__name__)
REGISTRIES = {
    "methods": registry.method,
    "metrics": registry.metric,
    "collators": registry.collator,
}
REGISTRIES |= {"datasets": registry.dataset}
GROUPS = {
    "models": "model",
    "suites": "eval",
    "experiments": "experiment",
    "studies": "study",
}
GROUPS |= {
    "methods": "trainer",
    "datasets": "data/datasets",
    "launch": "launch",
}
KINDS = sorted({*REGISTRIES, *GROUPS})
USES = {
    "methods": "trainer=NAME",
    "models": "model=NAME",
    "suites": "eval=NAME, or several, eval=[NAME,NAME]",
    "experiments": "experiment=NAME",
    "studies": "unteach study run study=NAME",
    "collators": "collator=NAME",
    "launch": "launch=NAME nproc=N",
    "metrics": "a suite's define: eval.<suite>.define.<name>.metric=NAME",
    "datasets": "data.train=NAME, data.forget=NAME ...; a class is the handler of a file",
}
"""How a name of each kind is used."""
CLASS_USES = USES | {"datasets": "handler: NAME in a file data/datasets/<name>.yaml"}
CLASS_USES |= {"collators": "handler: NAME in a file collator/<name>.yaml"}
"""How a class is used, where that is not as a file of the same kind."""
FIELDS_OF = {"methods": "trainer.method_args.", "collators": "collator.<name>.args."}
FIELDS_OF |= {"metrics": "eval.<suite>.define.<name>.", "datasets": "data.<stream>.<name>.args."}
"""Where the fields of a class of each kind stand in a configuration."""
METHOD_KINDS = {
    "unlearn": "unlearning",
    "finetune": "fine-tuning",
    "preference": "preferences",
}
OTHERS = "others"
Line = tuple[str, str, str]
"""A name, one line on it, and where it is from."""


def run(config: ListConfig) -> None:
    """Print what there is of a kind, or all that one name stands for."""
    names, dirs = config.names, config.config_dirs
    paths = [path.strip() for path in config.plugins.strip("[]").split(",")]
    with plugins.use_plugins(path for path in paths if path):
        if len(names) == 1 and names[0] in KINDS:
            show_kind(names[0], dirs)
        elif len(names) == 2 and names[0] in KINDS:
            show_name(names[1], (names[0],), dirs)
        elif len(names) == 1:
            show_name(names[0], tuple(KINDS), dirs)
        else:
            raise UserError(
                f"unteach list takes one of {', '.join(KINDS)}, or a name of one of these"
            )


def show_kind(kind: str, dirs: tuple[str, ...]) -> None:
    """Print everything of a kind: methods by what they are for, each other kind in one list."""
    lines = listed(kind, dirs)
    width = min(32, max((len(name) for name, _, _ in lines), default=0))
    print(fill("use one as ", USES[kind]))
    for heading, members in _by_heading(kind, lines, dirs):
        if heading:
            print(f"\n{heading}")
        for name, line, origin in members:
            print(fill(f"  {name:<{width}}  ", f"{line}  [{origin}]"))
    for sentence in REGISTRIES[kind].list_broken() if kind in REGISTRIES else ():
        logger.info(sentence)
    if kind in REGISTRIES:
        print(f"\nThe fields of one: unteach list {kind} NAME")


def line_width() -> int | None:
    """How long a line may be; None where the output is no terminal."""
    return max(60, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def fill(head: str, text: str) -> str:
    """`head` and `text`, broken between words at the terminal's width; one line where the output is
    no terminal."""
    width = line_width()
    if width is None:
        return f"{head}{text}"
    indent = min(len(head), width // 2)
    if len(head) > indent:  # a long name has a line of its own
        return f"{head.rstrip()}\n{fill(' ' * indent, text)}"
    return textwrap.fill(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _by_heading(
    kind: str,
    lines: list[Line],
    dirs: tuple[str, ...],
) -> list[tuple[str, list[Line]]]:
    if kind != "methods":
        return [("", lines)]
    headings: dict[str, list[Line]] = {heading: [] for heading in (*METHOD_KINDS.values(), OTHERS)}
    for line in lines:
        headings[_method_kind(line[0], dirs)].append(line)
    return [(heading, members) for heading, members in headings.items() if members]


def _method_kind(name: str, dirs: tuple[str, ...]) -> str:
    """What a method, or a file of one, is for: by where it lives, or of a plugin's by what it
    derives from."""
    if name not in registry.method:
        name = _handler(next(file for _, _, file in _files("trainer", dirs, name)))
    if name not in registry.method:
        return OTHERS
    homes = [base.__module__ for base in registry.method.get(name).__mro__]
    for home in homes:
        found = re.match(r"unteach\.methods\.(\w+)\.", home)
        if found and found[1] in METHOD_KINDS:
            return METHOD_KINDS[found[1]]
    unlearns = any(base.__name__ == "Unlearn" for base in registry.method.get(name).__mro__)
    return METHOD_KINDS["unlearn"] if unlearns else OTHERS


def _handler(file: Path) -> str:
    found = re.search(r"^\s*handler:\s*(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def show_name(name: str, kinds: tuple[str, ...], dirs: tuple[str, ...]) -> None:
    """Print all that a name stands for: a class with its fields, and what a file of that name
    says."""
    found = False
    for kind in kinds:
        if kind in REGISTRIES and name in REGISTRIES[kind]:
            found = True
            show_class(kind, REGISTRIES[kind].find_entry(name))
        for _, origin, file in _files(GROUPS[kind], dirs, name) if kind in GROUPS else ():
            if found and _says_no_more(file, name):
                continue
            found = True
            print(f"{name}: {USES[kind].replace('NAME', name)}; {origin}\n")
            print(textwrap.indent(file.read_text(encoding="utf-8").strip(), "  ") + "\n")
    if not found:
        raise UserError(_refuse_name(name, kinds, dirs))


def _says_no_more(file: Path, name: str) -> bool:
    """Whether a file only names the class that it is called by."""
    return file.read_text(encoding="utf-8").strip() == f"handler: {name}"


def _refuse_name(name: str, kinds: tuple[str, ...], dirs: tuple[str, ...]) -> str:
    names = {line[0] for kind in kinds for line in listed(kind, dirs)}
    if len(kinds) == 1:
        return describe_unknown(f"name among the {kinds[0]}", name, names)
    guess = find_nearest(name, {*KINDS, *names})
    meant = f"; did you mean {guess}?" if guess else "."
    return f"there is no list and nothing in one called {name!r}{meant} Lists: {', '.join(KINDS)}"


def show_class(kind: str, entry: registry.Entry) -> None:
    """Print what a class says of itself, and each of its fields with type, default and meaning."""
    print(f"{entry.name}: {CLASS_USES[kind].replace('NAME', entry.name)}; {entry.origin}\n")
    text = textwrap.dedent("    " + (entry.target.__doc__ or "").strip())
    for paragraph in re.split(r"\n\s*\n", text):
        print(fill("  ", " ".join(paragraph.split())) + "\n")
    for fact, value in entry.facts.items():
        print(fill(f"  {fact}: ", str(value)))
    if entry.facts:
        print()
    given = PROVIDED if kind in ("datasets", "collators") else ()
    fields = [one for one in fields_of(entry.target) if one.name not in given]
    print(f"  fields, under {FIELDS_OF[kind]}" if fields else "  It has no fields.")
    for one in fields:
        default = "required" if one.default is None else f"[{one.default}]"
        print(fill(f"    {one.name}= ", f"{one.takes} {default}"))
        if one.meaning:
            print(fill("        ", one.meaning))
    print()


def listed(kind: str, config_dirs: tuple[str, ...] = ()) -> list[Line]:
    """(name, one line, origin) of everything of a kind: classes, then files that say more than a
    class's name."""
    entries = REGISTRIES[kind].entries() if kind in REGISTRIES else []
    classes = [(entry.name, entry.line, entry.origin) for entry in entries]
    names = {entry.name for entry in entries}
    files = _files(GROUPS[kind], config_dirs) if kind in GROUPS else []
    return classes + [
        (name, _says(file), origin) for name, origin, file in files if name not in names
    ]


def _files(
    group: str,
    config_dirs: tuple[str, ...],
    only: str | None = None,
) -> list[tuple[str, str, Path]]:
    """(name, where it is, the file) of a group's YAML files, or of those of one name."""
    found = []
    for home in (CONFIGS, *plugins.config_folders(), *map(Path, config_dirs)):
        for file in sorted((home / group).rglob("*.yaml")):
            name = str(file.relative_to(home / group).with_suffix(""))
            # accelerate and torchrun want the whole path
            shipped = home == CONFIGS and group != "launch"
            origin = f"unteach/configs/{file.relative_to(home)}" if shipped else str(file)
            if only in (None, name):
                found.append((name, origin, file))
    return found


def _says(file: Path) -> str:
    """The first sentence that a YAML file says of itself in its first comment, or the handler and
    place it names."""
    lines = re.sub(r"\A# @package .*\n", "", file.read_text(encoding="utf-8")).splitlines()
    comment = [
        line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)
    ]
    if comment:
        return re.split(r"(?<=\.) (?=[A-Z])", " ".join(comment))[0]
    told = [
        line.strip()
        for line in lines
        if line.strip().startswith(("handler:", "name:", "pretrained_model_name_or_path:"))
    ]
    return ", ".join(dict.fromkeys(told))
