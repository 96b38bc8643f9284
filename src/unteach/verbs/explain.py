"""`unteach help KEY`: what one key is, in which verbs, with an example; what a method, a metric, a
suite or any other name is."""

import textwrap
from pathlib import Path

from unteach import plugins, registry
from unteach.config.groups import CONFIGS, list_options
from unteach.config.metric_descriptions import MetricDescription
from unteach.config.verb_configs import HelpConfig
from unteach.editor.keys import Key, KeyTables
from unteach.editor.suite_files import read_description, read_suite
from unteach.errors import UserError, find_nearest
from unteach.verbs import listing
from unteach.verbs.listing import fill

MOST_SHOWN = 60
"""Values of a key that are listed; of more, the first."""
ROWS = "forget=forget.csv retain=retain.csv"
STARTS = {
    "train": "unteach train model=MODEL data=my.csv",
    "unlearn": f"unteach unlearn model=MODEL {ROWS} trainer=NPO",
    "eval": "unteach eval model=MODEL data.forget_file=forget.csv",
    "audit": "unteach audit model=MODEL forget=forget.csv",
    "infer": "unteach infer model=MODEL data=questions.csv",
    "ask": "unteach ask model=MODEL",
    "forget": "unteach forget forget.csv model=MODEL",
    "study": "unteach study run",
    "tokenize": "unteach tokenize data=my.csv model=MODEL output_file=tokens",
}
"""How a command begins that a key may stand in."""
EXAMPLES = {
    "methods": f"unteach unlearn model=MODEL {ROWS} trainer=NAME",
    "models": "unteach train model=NAME data=my.csv",
    "suites": "unteach eval model=MODEL eval=NAME",
    "experiments": "unteach check VERB experiment=NAME task_name=mine",
    "studies": "unteach study plan study=NAME",
    "audits": "unteach audit model=MODEL forget=forget.csv audit=NAME",
    "attacks": "unteach audit model=MODEL forget=forget.csv audit.only=[NAME]",
}
TAUGHT = ("fine-tuning", "preferences")
"""Headings of methods that teach."""


def run(config: HelpConfig) -> None:
    """Print all that one name means: as a key, and as the name of something."""
    if len(config.names) != 1:
        raise UserError("name one thing to explain: unteach help trainer.args.learning_rate")
    name = config.names[0].lstrip("+~")
    homes = listing.find_homes(config.config_dirs)
    with plugins.use_plugins(listing.parse_plugins(config.plugins)):
        tables = KeyTables(homes)
        is_known = explain_key([name], tables)
        is_known |= explain_name(name, config.config_dirs)
        is_known |= explain_metric(name, homes)
        if not is_known and not explain_key(_find_by_end(name, tables), tables):
            raise UserError(_refuse(name, tables, config.config_dirs))


def explain_key(names: list[str], tables: KeyTables) -> bool:
    """Print what keys are, each once for all verbs to which it is the same; tell whether there is
    one."""
    verbs_by_key: dict[Key, list[str]] = {}
    for name in names:
        for verb in tables.by_verb:
            key = tables.find(verb, name)
            if key is not None:
                verbs_by_key.setdefault(key, []).append(verb)
    for key, verbs in verbs_by_key.items():
        _show_key(key, verbs)
    return bool(verbs_by_key)


def _find_by_end(name: str, tables: KeyTables) -> list[str]:
    """Find the keys that end with a word, which stands for them; none where there are many."""
    found = set()
    for flat in tables.by_verb.values():
        for key in flat.properties:
            if key.endswith(f".{name}") and not key.startswith("eval."):
                found.add(key)
    return sorted(found) if len(found) <= 3 else []


def _show_key(key: Key, verbs: list[str]) -> None:
    """Print one key."""
    print(f"{key.name}=\n")
    if key.meaning:
        print(fill("  ", key.meaning) + "\n")
    if key.is_old:
        return
    print(fill("  takes    ", key.takes))
    if key.values and not _are_said(key):
        values = list(key.values[:MOST_SHOWN])
        more = [f"and {len(key.values) - MOST_SHOWN} more"] if len(key.values) > MOST_SHOWN else []
        print(fill("  names    ", ", ".join([*values, *more])))
    default = "none" if key.default is None else key.default
    print(fill("  default  ", default))
    print(fill("  verbs    ", ", ".join(verbs)))
    if example := _write_example(key, verbs):
        print(fill("  example  ", example))
    print()


def _are_said(key: Key) -> bool:
    """Whether all values of a key stand in what it takes."""
    said = key.takes.replace(" | ", " or ").split(" or ")
    return all(value in said or value in ("true", "false", "null") for value in key.values)


def _write_example(key: Key, verbs: list[str]) -> str:
    """Write a command with a key; "" where no value is known."""
    verb = next((verb for verb in STARTS if verb in verbs), None)
    values = [value for value in key.values if value not in (key.default, "null")]
    shown = values[0] if values else key.default
    if verb is None or shown in (None, "null", '""') or "${" in str(shown):
        return ""
    word = f"{key.name}={shown}"
    start = STARTS[verb]
    if key.name in ("model", "data", "trainer", "forget", "retain"):
        kept = [part for part in start.split() if not part.startswith(f"{key.name}=")]
        start = " ".join(kept)
    return f"{start} {word}"


def explain_name(name: str, dirs: tuple[str, ...]) -> bool:
    """Print what is called by a name among methods, models, suites and the like; tell whether
    anything is."""
    kinds = []
    for kind in listing.KINDS:
        is_class = kind in listing.REGISTRIES and name in listing.REGISTRIES[kind]
        is_file = kind in listing.GROUPS and listing.has_file(listing.GROUPS[kind], name, dirs)
        if is_class or is_file:
            kinds.append(kind)
    for kind in kinds:
        if kind == "suites":
            explain_suite(name, dirs)
        else:
            listing.show_name(name, (kind,), dirs)
        if kind in EXAMPLES:
            print(f"  example: {_fill_example(kind, name, dirs)}\n")
    return bool(kinds)


def _fill_example(kind: str, name: str, dirs: tuple[str, ...]) -> str:
    """Write a command with a name of a kind."""
    example = EXAMPLES[kind]
    if kind == "methods" and listing.find_method_kind(name, dirs) in TAUGHT:
        example = "unteach train model=MODEL data=my.csv trainer=NAME"
    verb = {"unlearn": "unlearn", "eval": "eval", "audit": "audit"}.get(name.split("/")[0], "train")
    return example.replace("NAME", name).replace("VERB", verb)


def explain_suite(name: str, dirs: tuple[str, ...]) -> None:
    """Print what a suite measures: its metrics, those that are asked for by default with a star."""
    for _, origin, file in listing.list_files("eval", dirs, name):
        suite = read_suite(file)
        print(f"{name}: eval={name}; {origin}\n")
        print(fill("  ", listing.summarize_file(file)) + "\n")
        metrics = [*suite["define"], *map(str, suite["tasks"])]
        if metrics:
            print(f"  metrics, asked for by eval.{name}.metrics=[NAME,…]; * by default")
        for metric in metrics:
            star = "*" if metric in suite["default"] else " "
            meaning = read_description(suite, metric, file).meaning or ""
            print(fill(f"  {star} {metric}  ", meaning))
        print(f"\n  The whole file: unteach list suites {name}\n")


def explain_metric(name: str, homes: tuple[str, ...]) -> bool:
    """Print what a metric of a suite is, by its name there; tell whether a suite defines it."""
    is_known = False
    for suite in list_options("eval", homes):
        for home in (str(CONFIGS), *homes):
            file = Path(home) / "eval" / f"{suite}.yaml"
            if not file.is_file():
                continue
            content = read_suite(file)
            definition = content["define"].get(name)
            if isinstance(definition, dict):
                is_known = True
                description = read_description(content, name, file)
                _show_metric(name, suite, definition, description)
    return is_known


def _show_metric(
    name: str, suite: str, definition: dict[str, object], description: MetricDescription
) -> None:
    """Print one metric of a suite: what it means, what it is made of, its formula."""
    print(f"{name}: a metric of the suite {suite}; eval={suite} eval.{suite}.metrics=[{name}]\n")
    said = {
        "": description.meaning,
        "called": description.label,
        "rows": description.role,
        "better": description.better,
    }
    for head, text in said.items():
        if text:
            print(fill(f"  {head}: " if head else "  ", text))
    metric = str(definition.get("metric") or "no class: its definition names no `metric`")
    others = [f"{key}={value}" for key, value in definition.items() if key != "metric"]
    print(fill("  made of: ", f"{metric} ({', '.join(others)})" if others else metric))
    if metric in registry.metric:
        docstring = textwrap.dedent(registry.metric.get(metric).__doc__ or "").strip()
        print(fill(f"  {metric}: ", " ".join(docstring.split("\n\n")[0].split())))
    print(f"\n  example: unteach eval model=MODEL eval={suite} eval.{suite}.metrics=[{name}]\n")


def _refuse(name: str, tables: KeyTables, dirs: tuple[str, ...]) -> str:
    """Write the error of a name that means nothing, with those that are near it."""
    names: set[str] = {*tables.by_verb, *tables.sections.list_defined_metrics()}
    for kind in listing.KINDS:
        names.update(line[0] for line in listing.list_entries(kind, dirs))
    ends: dict[str, set[str]] = {}
    for flat in tables.by_verb.values():
        for key in flat.properties:
            names.add(key)
            ends.setdefault(key.rpartition(".")[2], set()).add(key)
    guesses = [find_nearest(name, names)]
    if end := find_nearest(name.rpartition(".")[2], ends):
        guesses += sorted(ends[end], key=len)[:3]
    found = list(dict.fromkeys(filter(None, guesses)))
    hint = f"; did you mean {' or '.join(found)}?" if found else "."
    return (
        f"there is no verb, key, method, metric or other name {name!r}{hint} `unteach help` lists "
        f"the verbs, `unteach list {'|'.join(listing.KINDS)}` names; every key: docs/reference.md"
    )
