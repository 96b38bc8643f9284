"""`unteach list`: what there is of a kind, a line each; of one name, its fields."""

import logging
import re
import shutil
import sys
import textwrap
from pathlib import Path

from unteach import plugins, registry
from unteach.config.component_fields import FieldInfo, list_fields
from unteach.config.groups import CONFIGS
from unteach.config.reader import PROVIDED
from unteach.config.verb_configs import ListConfig
from unteach.errors import UserError, describe_unknown, find_nearest

logger = logging.getLogger(__name__)
REGISTRIES = {
    "methods": registry.method,
    "surgeries": registry.surgery,
    "perturbations": registry.perturbation,
    "metrics": registry.metric,
    "attacks": registry.attack,
    "collators": registry.collator,
    "datasets": registry.dataset,
}
GROUPS = {
    "models": "model",
    "suites": "eval",
    "experiments": "experiment",
    "studies": "study",
    "methods": "trainer",
    "datasets": "data/datasets",
    "launch": "launch",
    "audits": "audit",
}
KINDS = sorted({*REGISTRIES, *GROUPS})
USES = {
    "methods": "trainer=NAME",
    "surgeries": "trainer.surgery=NAME, or with fields trainer.surgery={name: NAME, …}",
    "perturbations": "trainer.perturb=NAME, or with fields trainer.perturb={name: NAME, …}",
    "models": "model=NAME",
    "suites": "eval=NAME, or several, eval=[NAME,NAME]",
    "experiments": "experiment=NAME",
    "studies": "unteach study run study=NAME",
    "collators": "collator=NAME",
    "launch": "launch=NAME nproc=N",
    "attacks": "audit.attacks.NAME={}, or with fields audit.attacks.NAME={field: value, …}",
    "audits": "audit=NAME",
    "metrics": "a suite's define: eval.<suite>.define.<name>.metric=NAME",
    "datasets": "data.train=NAME, data.forget=NAME ...; a class is the handler of a file",
}
"""How a name of each kind is used."""
CLASS_USES = {
    **USES,
    "datasets": "handler: NAME in a file data/datasets/<name>.yaml",
    "collators": "handler: NAME in a file collator/<name>.yaml",
}
"""How a class is used: as a file of the same kind, or otherwise."""
FIELDS_OF = {
    "methods": "trainer.method_args.",
    "surgeries": "trainer.surgery.",
    "perturbations": "trainer.perturb.",
    "collators": "collator.<name>.args.",
    "attacks": "audit.attacks.<name>.",
    "metrics": "eval.<suite>.define.<name>.",
    "datasets": "data.<stream>.<name>.args.",
}
"""Where the fields of a class of each kind stand in a configuration."""
METHOD_KINDS = {
    "unlearn": "unlearning",
    "edit": "one-shot edits",
    "decode": "unlearning in decoding",
    "finetune": "fine-tuning",
    "preference": "preferences",
}
OTHERS = "others"
HANDLER = re.compile(r"^\s*handler:\s*(\w+)", re.MULTILINE)
METHOD_MODULE = re.compile(r"unteach\.methods\.(\w+)\.")
EDITOR_LINE = re.compile(r"^# yaml-language-server: .*\n", re.MULTILINE)
SENTENCE_END = re.compile(r"(?<=\.) (?=[A-Z])")
TELLING_KEYS = ("handler:", "name:", "pretrained_model_name_or_path:")
"""What is shown of a file that has no comment."""
Line = tuple[str, str, str]
"""A name, one line on it, and where it is from."""
GroupFile = tuple[str, str, Path]
"""A name in a group, where it is from, and its file."""


def run(config: ListConfig) -> None:
    """Print what there is of a kind, or all that one name stands for."""
    names = config.names
    dirs = config.config_dirs
    with plugins.use_plugins(parse_plugins(config.plugins)):
        is_kind = bool(names) and names[0] in KINDS
        if is_kind and len(names) == 1:
            show_kind(names[0], dirs)
        elif is_kind and len(names) == 2:
            kind, name = names
            show_name(name, (kind,), dirs)
        elif len(names) == 1:
            show_name(names[0], tuple(KINDS), dirs)
        else:
            raise UserError(
                f"unteach list takes one of {', '.join(KINDS)}, or a name of one of these"
            )


def parse_plugins(value: str) -> list[str]:
    """Parse the value of `plugins`: a list as YAML has it, or one path."""
    paths = [path.strip() for path in value.strip("[]").split(",")]
    return list(filter(None, paths))


def find_homes(dirs: tuple[str, ...]) -> tuple[str, ...]:
    """Find the folders of configuration files beside ours: the user's, and those of plugins."""
    return (*dirs, *map(str, plugins.config_folders()))


def show_kind(kind: str, dirs: tuple[str, ...]) -> None:
    """Print everything of a kind: methods by what they are for, each other kind in one list.

    Args:
        dirs: the user's homes of configurations (--config-dir).
    """
    lines = list_entries(kind, dirs)
    longest = max((len(name) for name, _, _ in lines), default=0)
    width = min(32, longest)
    print(fill("use one as ", USES[kind]))
    for heading, members in _group_by_heading(kind, lines, dirs):
        if heading:
            print(f"\n{heading}")
        for name, line, origin in members:
            head = f"  {name:<{width}}  "
            print(fill(head, f"{line}  [{origin}]"))
    if kind in REGISTRIES:
        for sentence in REGISTRIES[kind].list_broken():
            logger.info(sentence)
        print(f"\nThe fields of one: unteach list {kind} NAME")


def line_width() -> int | None:
    """Get how long a line may be; None where the output is no terminal."""
    if not sys.stdout.isatty():
        return None
    return max(60, shutil.get_terminal_size().columns)


def fill(head: str, text: str) -> str:
    """Join `head` and `text`, broken between words at the terminal's width.

    One line where the output is no terminal, so that other programs can read it.
    """
    width = line_width()
    if width is None:
        return f"{head}{text}"
    indent = " " * min(len(head), width // 2)
    if len(head) > len(indent):  # a long name has a line of its own
        below = fill(indent, text)
        return f"{head.rstrip()}\n{below}"
    return textwrap.fill(
        text,
        width,
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _group_by_heading(
    kind: str,
    lines: list[Line],
    dirs: tuple[str, ...],
) -> list[tuple[str, list[Line]]]:
    """Group the lines of a kind by what they are for; only methods have headings."""
    if kind != "methods":
        return [("", lines)]
    by_heading: dict[str, list[Line]] = {}
    for line in lines:
        heading = find_method_kind(line[0], dirs)
        by_heading.setdefault(heading, []).append(line)
    groups = []
    for heading in (*METHOD_KINDS.values(), OTHERS):
        if heading in by_heading:
            groups.append((heading, by_heading[heading]))
    return groups


def find_method_kind(name: str, dirs: tuple[str, ...]) -> str:
    """Find what a method, or a file of one, is for.

    Ours are told by where they live, a plugin's by what it derives from.
    """
    if name not in registry.method:
        _, _, file = list_files("trainer", dirs, name)[0]
        name = _read_handler(file)
    if name not in registry.method:
        return OTHERS
    bases = registry.method.get(name).__mro__
    for base in bases:
        match = METHOD_MODULE.match(base.__module__)
        if match and match[1] in METHOD_KINDS:
            return METHOD_KINDS[match[1]]
    base_names = [base.__name__ for base in bases]
    if "Unlearn" in base_names:
        return METHOD_KINDS["unlearn"]
    return OTHERS


def _read_handler(file: Path) -> str:
    """Read which class a file configures, "" where it does not say."""
    match = HANDLER.search(read_content(file))
    return match[1] if match else ""


def show_name(name: str, kinds: tuple[str, ...], dirs: tuple[str, ...]) -> None:
    """Print all that a name stands for: a class with its fields, and what a file of that name
    says.

    Args:
        kinds: where it is looked for.
        dirs: the user's homes of configurations (--config-dir).

    Raises:
        UserError: none of these kinds has it.
    """
    is_known = False
    for kind in kinds:
        if kind in REGISTRIES and name in REGISTRIES[kind]:
            is_known = True
            show_class(kind, REGISTRIES[kind].find_entry(name))
        if kind not in GROUPS:
            continue
        for _, origin, file in list_files(GROUPS[kind], dirs, name):
            if is_known and _says_no_more(file, name):
                continue
            is_known = True
            use = USES[kind].replace("NAME", name)
            print(f"{name}: {use}; {origin}\n")
            content = read_content(file).strip()
            print(textwrap.indent(content, "  ") + "\n")
    if not is_known:
        raise UserError(_refuse_name(name, kinds, dirs))


def _says_no_more(file: Path, name: str) -> bool:
    """Whether a file only names the class that it is called by."""
    return read_content(file).strip() == f"handler: {name}"


def read_content(file: Path) -> str:
    """Read a file of YAML without the line that tells an editor its schema."""
    return EDITOR_LINE.sub("", file.read_text(encoding="utf-8"))


def _refuse_name(name: str, kinds: tuple[str, ...], dirs: tuple[str, ...]) -> str:
    """Write the error of a name that none of these kinds has."""
    names: set[str] = set()
    for kind in kinds:
        names.update(line[0] for line in list_entries(kind, dirs))
    if len(kinds) == 1:
        return describe_unknown(f"name among the {kinds[0]}", name, names)
    guess = find_nearest(name, {*KINDS, *names})
    hint = f"; did you mean {guess}?" if guess else "."
    return f"there is no list and nothing in one called {name!r}{hint} Lists: {', '.join(KINDS)}"


def show_class(kind: str, entry: registry.Entry) -> None:
    """Print what a class says of itself, and each of its fields with type, default and meaning."""
    use = CLASS_USES[kind].replace("NAME", entry.name)
    print(f"{entry.name}: {use}; {entry.origin}\n")
    docstring = (entry.target.__doc__ or "").strip()
    for paragraph in re.split(r"\n\s*\n", docstring):
        flat = " ".join(paragraph.split())
        print(fill("  ", flat) + "\n")
    for fact, value in entry.facts.items():
        print(fill(f"  {fact}: ", str(value)))
    if entry.facts:
        print()

    # What the run itself gives to a constructor is no field.
    provided = PROVIDED if kind in ("datasets", "collators") else ()
    fields = [field for field in list_fields(entry.target) if field.name not in provided]
    print(f"  fields, under {FIELDS_OF[kind]}" if fields else "  It has no fields.")
    for field in fields:
        show_field(field)
    print()


def show_field(field: FieldInfo) -> None:
    """Print one field of a class, and below it what it means."""
    default = "required"
    if field.default is not None:
        default = f"[{field.default}]"
    head = f"    {field.name}= "
    print(fill(head, f"{field.takes} {default}"))
    if field.meaning:
        print(fill("        ", field.meaning))


def list_entries(kind: str, config_dirs: tuple[str, ...] = ()) -> list[Line]:
    """List everything of a kind: classes, then files that say more than a class's name."""
    lines: list[Line] = []
    class_names: set[str] = set()
    if kind in REGISTRIES:
        for entry in REGISTRIES[kind].entries():
            lines.append((entry.name, entry.line, entry.origin))
            class_names.add(entry.name)
    if kind in GROUPS:
        for name, origin, file in list_files(GROUPS[kind], config_dirs):
            if name not in class_names:
                lines.append((name, summarize_file(file), origin))
    return lines


def list_files(
    group: str,
    config_dirs: tuple[str, ...],
    only: str | None = None,
) -> list[GroupFile]:
    """List a group's YAML files, or those of one name: ours, plugins', the user's.

    Args:
        group: a configuration group, which is a folder below each home of configurations.
        config_dirs: the user's homes (--config-dir).
        only: the one name that is wanted.
    """
    homes = [CONFIGS, *plugins.config_folders()]
    homes += [Path(config_dir) for config_dir in config_dirs]
    files = []
    for home in homes:
        group_dir = home / group
        for file in sorted(group_dir.rglob("*.yaml")):
            name = str(file.relative_to(group_dir).with_suffix(""))
            if only not in (None, name):
                continue
            origin = str(file)
            # accelerate and torchrun want the whole path
            if home == CONFIGS and group != "launch":
                origin = f"unteach/configs/{file.relative_to(home)}"
            files.append((name, origin, file))
    return files


def has_file(group: str, name: str, dirs: tuple[str, ...]) -> bool:
    """Whether a group has a file of a name that says more than it."""
    return any(not _says_no_more(file, name) for _, _, file in list_files(group, dirs, name))


def summarize_file(file: Path) -> str:
    """Give the first sentence that a YAML file says of itself in its first comment, or the handler
    and place it names."""
    content = read_content(file)
    lines = re.sub(r"\A# @package .*\n", "", content).splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    if comment:
        sentences = SENTENCE_END.split(" ".join(comment))
        return sentences[0]

    settings: dict[str, None] = {}
    for line in lines:
        setting = line.strip()
        if setting.startswith(TELLING_KEYS):
            settings[setting] = None
    return ", ".join(settings)
