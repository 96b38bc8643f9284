"""What may follow on a command line: `python -I complete.py SHELL BREAKS WORD…`, the last word
being the one at the cursor. Prints a line for each candidate, its meaning behind a tab.

A shell runs this file by itself, at each press of the key: it imports nothing of unteach and next
to nothing else (docs/editor.md has times). What ships is in index.json; files of YAML, plugins and
rows of the user's are looked up when a value may name them.
"""

import json
import os
import re
import sys

INDEX = os.path.join(os.path.dirname(os.path.abspath(__file__)), "index.json")
ROWS = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow", ".txt", ".gz", ".zst")
ENDINGS = {
    "rows": ROWS,
    "yaml": (".yaml", ".yml"),
    "json": (".json",),
    "python": (".py",),
    "model": (),
}
"""What files are called that a word may name, by kind; of any other kind, all are offered."""
GROUPS = {
    *("model", "trainer", "data", "data/datasets", "collator"),
    *("eval", "audit", "experiment", "study", "paths"),
}
DEFINED = "defined"
"""Under which the index has the metrics of suites, by their names there."""
PLAIN = ("true", "false", "null")
STREAM = re.compile(r"data\.[a-z]+(_alternate)?")
OPTIONS = {
    "config_dirs": ("--config-dir", "a folder of more configuration files"),
    "config_name": ("--config-name", "a primary configuration"),
    "write": ("--write", "where job scripts are written"),
    "prints_tree": ("--print", "every key, its value and where it comes from"),
}
TAKE_FOLDERS = ("--config-dir", "-cd", "--write")
REGISTERED = re.compile(
    r"""@(?:\w+\.)?method\(\s*["']([\w.-]+)["']|^class (\w+)\(.*Trainer""", re.MULTILINE
)
SPECIAL = re.compile(r"[ '\"()&;<>|$`\\*?\]]|(?<!^)\[")
Candidates = list[tuple[str, str]]


def complete(words: list[str], index: dict) -> Candidates:
    """List what the last of these words may become, with what each means.

    Args:
        words: behind `unteach`; the last one is unfinished, and may be empty.
        index: what ships.
    """
    *before, current = words
    verb, rest = find_verb(before, index)
    if verb is None and before:
        return []
    if verb is None:
        verbs = [(name, entry["about"]) for name, entry in index["verbs"].items()]
        single = [(name, about) for name, about in verbs if " " not in name]
        return filter_by_start([*single, ("--help", ""), ("--version", "")], current)
    entry = index["verbs"][verb]
    last = before[-1] if before else ""
    if last in TAKE_FOLDERS:
        return list_files(current, ("folders only",))
    if last in ("--config", "--config-name", "-cn"):
        return list_files(current, ENDINGS["yaml"])
    if current.startswith("-"):
        options = [OPTIONS[name] for name in entry["options"]]
        return filter_by_start([*options, ("--help", "")], current)
    key, equals, value = current.partition("=")
    if equals:
        return complete_value(key, value, verb, before, index)
    return [*complete_bare(verb, rest, current, index), *complete_key(verb, current, before, index)]


def find_verb(before: list[str], index: dict) -> tuple[str | None, list[str]]:
    """Find the verb among the words before the cursor, and the bare words behind it."""
    if not before or before[0] not in index["verbs"]:
        return None, []
    verb, rest = before[0], before[1:]
    if rest and f"{verb} {rest[0]}" in index["verbs"]:
        verb, rest = f"{verb} {rest[0]}", rest[1:]
    return verb, [word for word in rest if "=" not in word and not word.startswith("-")]


def filter_by_start(candidates: Candidates, start: str) -> Candidates:
    return [candidate for candidate in candidates if candidate[0].startswith(start)]


def complete_bare(verb: str, rest: list[str], current: str, index: dict) -> Candidates:
    """List the words without a key that a verb takes next."""
    names = index["names"]
    entry = index["verbs"][verb]
    found: Candidates = []
    if verb == "list":
        words = [name for name in names if name != DEFINED] if not rest else names.get(rest[0], [])
        return [(word, "") for word in words if word.startswith(current)]
    if verb == "help" and not rest:
        words = list(index["verbs"])
        for kind in names.values():
            words += kind
        found = [(word, "") for word in dict.fromkeys(words) if word.startswith(current)]
        keys = {**index["tables"]["run"], **index["tables"]["infer"]}
        return found + split_keys(keys, current, "")
    if verb == "study" and rest:
        found = [(name, "") for name in list_names("study", [], index["tables"]["study"])]
    elif not rest:
        found = [(word, "") for word in entry.get("words", ())]
    found = filter_by_start(found, current)
    is_first = not rest or verb in ("report", "compare")
    if "files" in entry and is_first and (current or not entry.get("words")):
        found += list_files(current, ENDINGS[entry["files"]])
    return found


def complete_key(verb: str, current: str, before: list[str], index: dict) -> Candidates:
    """List the next parts of the keys that begin with a word."""
    taken = {word.partition("=")[0] for word in before if "=" in word}
    keys = {key: value for key, value in collect_keys(verb, index).items() if key not in taken}
    return split_keys(keys, current, "=")


def collect_keys(verb: str, index: dict) -> dict:
    """Collect the keys of a verb from its tables."""
    entry = index["verbs"][verb]
    without, only = set(entry.get("without", ())), set(entry.get("only", ()))
    keys: dict = {}
    for table in entry.get("tables", ()):
        for key, value in index["tables"].get(table, {}).items():
            section = key.split(".", 1)[0]
            if table == "run" and (section in without or (only and section not in only)):
                continue
            keys.setdefault(key, value)
    return keys


def split_keys(keys: dict, current: str, end: str) -> Candidates:
    """Give the parts of keys up to the next dot; a word that begins none is looked for at the ends
    of keys, and put in full where only one has it."""
    found: dict[str, str] = {}
    start = len(current)
    for key, (text, *_) in keys.items():
        if key.startswith(current):
            dot = key.find(".", start)
            if dot < 0:
                found[key + end] = text
            else:
                found.setdefault(key[: dot + 1], "")
    if not found and current:
        within = [key for key in keys if key.rpartition(".")[2].startswith(current)]
        if len(within) == 1:
            return [(within[0] + end, keys[within[0]][0])]
    return list(found.items())


def complete_value(key: str, value: str, verb: str, before: list[str], index: dict) -> Candidates:
    """List the values of a key that begin with what stands behind its `=`."""
    _, values, place = collect_keys(verb, index).get(key.lstrip("+"), ["", [], ""])
    dirs = find_config_dirs(before)
    group = "data/datasets" if STREAM.fullmatch(key) else key
    names = [name for name in values if name not in PLAIN]
    if group in GROUPS:
        names = list_names(group, dirs, {group: ["", names, ""]})
    if key == "trainer":
        names += list_plugin_methods(before)
    names += [name for name in PLAIN if name in values]
    # Of a list, the last name is completed.
    head, last = "", value
    if value.startswith("["):
        cut = max(value.rfind(","), value.rfind("[")) + 1
        head, last = value[:cut], value[cut:]
    found = [(f"{key}={head}{name}", "") for name in dict.fromkeys(names) if name.startswith(last)]
    if place and not head:
        kind = ENDINGS.get("python" if key == "plugins" else place)
        found += [(f"{key}={file}", text) for file, text in list_files(value, kind)]
    return found


def find_config_dirs(before: list[str]) -> list[str]:
    """Find the folders of --config-dir among the words."""
    dirs = []
    for index, word in enumerate(before):
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            following = before[index + 1] if index + 1 < len(before) else ""
            dirs.append(value if equals else following)
    return [os.path.expanduser(folder) for folder in dirs if folder]


def list_names(group: str, dirs: list[str], table: dict) -> list[str]:
    """List the names of a group: those that ship, those of the user's folders and of plugins."""
    names = list(table.get(group, ["", [], ""])[1])
    for home in [*dirs, *list_plugin_folders()]:
        base = os.path.join(home, group)
        for folder, _, files in os.walk(base):
            for file in sorted(files):
                if file.endswith(".yaml"):
                    path = os.path.relpath(os.path.join(folder, file), base)
                    names.append(path[: -len(".yaml")])
    return [name for name in dict.fromkeys(names) if name not in PLAIN]


def list_plugin_packages() -> list[str]:
    """List the folders of the installed packages that have plugins, by what is installed beside
    Python."""
    folders = []
    for home in sys.path:
        if not home.endswith("-packages"):
            continue
        for entry in os.scandir(home):
            if not entry.name.endswith(".dist-info"):
                continue
            try:
                with open(os.path.join(entry.path, "entry_points.txt"), encoding="utf-8") as file:
                    section = file.read().partition("[unteach.plugins]")[2].partition("\n[")[0]
            except OSError:
                continue
            for package in {line.partition("=")[2].strip() for line in section.splitlines()}:
                name = re.split(r"[.:]", package)[0]
                if name:
                    folders.append(find_package(name, home))
    return list(dict.fromkeys(filter(None, folders)))


def find_package(name: str, home: str) -> str:
    """Find the folder of a package; it may be elsewhere, where it is installed to be edited."""
    folder = os.path.join(home, name)
    if os.path.isdir(folder):
        return folder
    # Late: it costs some milliseconds, and few have such a package.
    import importlib.util

    found = importlib.util.find_spec(name)
    places = found.submodule_search_locations if found else None
    return next(iter(places or ()), "")


def list_plugin_folders() -> list[str]:
    """List the folders of configuration files that installed plugins bring."""
    folders = [os.path.join(package, "configs") for package in list_plugin_packages()]
    return [folder for folder in folders if os.path.isdir(folder)]


def list_plugin_methods(before: list[str]) -> list[str]:
    """List the methods that plugins register: files of `plugins=[…]`, and installed packages."""
    files = []
    for word in before:
        key, _, value = word.partition("=")
        if key == "plugins":
            files += [part.strip(" '\"") for part in value.strip("[]").split(",")]
    for package in list_plugin_packages():
        for folder, _, names in os.walk(package):
            files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    methods = []
    for path in files:
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                methods += [a or b for a, b in REGISTERED.findall(file.read())]
        except (OSError, UnicodeDecodeError):
            continue
    return methods


def list_files(start: str, endings: tuple[str, ...] | None) -> Candidates:
    """List the folders, and the files with one of these endings, whose path begins so; all files
    where no ending is asked for."""
    folder, slash, name = start.rpartition("/")
    home = os.path.expanduser(folder) if folder else "/" if slash else "."
    try:
        entries = sorted(os.scandir(home), key=lambda entry: entry.name)
    except OSError:
        return []
    found = []
    for entry in entries:
        if not entry.name.startswith(name) or (entry.name.startswith(".") and not name):
            continue
        path = f"{folder}{slash}{entry.name}"
        if entry.is_dir():
            found.append((f"{path}/", ""))
        elif endings is None or entry.name.lower().endswith(endings):
            found.append((path, ""))
    return found


def split_line(line: str) -> list[str]:
    """Split a command line into words, quotes taken off; the last is the one at its end."""
    words, current, quote, is_escaped = [], "", "", False
    for letter in line:
        if is_escaped:
            current += letter
            is_escaped = False
        elif letter == "\\" and quote != "'":
            is_escaped = True
        elif quote:
            current, quote = (current, "") if letter == quote else (current + letter, quote)
        elif letter in "'\"":
            quote = letter
        elif letter.isspace():
            words += [current] if current else []
            current = ""
        else:
            current += letter
    return [*words, current]


def print_for_bash(candidates: Candidates, current: str, breaks: str) -> None:
    """Print the candidates as bash takes them: without what stands before the last letter at which
    it breaks words, and with spaces, quotes and the signs of patterns escaped. The `[` that begins
    a list stays as it is typed: with no bare `]` behind it, it is no pattern."""
    cut = 1 + max((current.rfind(letter) for letter in breaks if letter in "=:"), default=-1)
    for text, _ in candidates:
        print(SPECIAL.sub(r"\\\g<0>", text[cut:]))


def main(arguments: list[str]) -> None:
    """Answer one press of the key."""
    shell, breaks, *words = arguments
    with open(INDEX, encoding="utf-8") as file:
        index = json.load(file)
    if shell == "bash":  # which hands over the line up to the cursor
        words = split_line(words[0])[1:] or [""]
    candidates = complete(words or [""], index)
    if shell == "bash":
        print_for_bash(candidates, words[-1], breaks)
        return
    for text, meaning in candidates:
        print(f"{text}\t{meaning}")


if __name__ == "__main__":
    main(sys.argv[1:])
