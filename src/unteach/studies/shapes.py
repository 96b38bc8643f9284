"""The shape of a study file: what must be text, a list or a mapping, checked key by key."""

import re
from typing import Any

from unteach.config.secrets import hide_secrets
from unteach.wording import quote_value

NAME = re.compile(r"[\w+][\w.+-]*")
"""What names a folder, a job and a row of a report alike."""
KEY = re.compile(r"[\w.@/+~-]+")
"""What the left side of an override may be."""
FROM_ELSEWHERE = re.compile(r"\w+=[\"']?(?:\$\([^)]*\)|`[^`]*`|\$\S+)")
"""A variable of the shell that is set to what a command or another variable says."""
ENTRIES = ("base", "full", "retain")
MAPPINGS = ("vary", "wandb", "local", "slurm")


def find_faults(study: dict[str, Any]) -> list[str]:
    """Say of each key of a study what is wrong with the shape of its value."""
    problems: list[str] = []
    if "name" in study:
        problems += _check_name(study["name"], "name")
    if "full" in study and study["full"] is None:
        problems.append("full: must be a mapping of overrides, and is empty")
    for key in ENTRIES:
        entry = study.get(key)
        if entry is not None:
            problems += _check_entry(entry, key)
    for key in MAPPINGS:
        mapping = study.get(key)
        if mapping is not None:
            problems += _check_mapping(mapping, key, "a mapping")
    problems += _check_forget(study.get("forget"))
    audit = study.get("audit")
    if audit is not None and not isinstance(audit, str):
        problems += _check_mapping(audit, "audit", "a level or a mapping of overrides")
    for key in ("eval", "evaluate"):
        problems += _check_names(study.get(key), key)
    return problems


def _check_forget(value: object) -> list[str]:
    """Check the forget runs: one mapping, or a list of them."""
    if value is None:
        return []
    if isinstance(value, dict):
        return _check_entry(value, "forget")
    if not isinstance(value, list):
        quoted = quote_value(value)
        return [f"forget: must be a list of mappings, one for each way to forget, got {quoted}"]
    problems = []
    for index, entry in enumerate(value):
        problems += _check_entry(entry, f"forget[{index}]")
    return problems


def _check_entry(value: object, where: str) -> list[str]:
    """Check one kind of run, and within it what is no override."""
    problems = _check_mapping(value, where, "a mapping of overrides")
    if problems or not isinstance(value, dict):
        return problems
    for key in ("vary", "search"):
        mapping = value.get(key)
        if mapping is not None:
            problems += _check_mapping(mapping, f"{where}.{key}", "a mapping")
    name = value.get("name")
    if name is not None:
        problems += _check_name(name, f"{where}.name")
    for key in ("from", "experiment", "trainer"):
        text = value.get(key)
        if text is not None and not isinstance(text, str):
            problems.append(f"{where}.{key}: must be text, got {quote_value(text)}")
    return problems


def _check_mapping(
    value: object,
    where: str,
    expected: str,
) -> list[str]:
    """Check that a value is a mapping whose keys may be those of overrides.

    Args:
        value: what the file has.
        where: its key, for messages.
        expected: what the value must be, in words.
    """
    if not isinstance(value, dict):
        return [f"{where}: must be {expected}, got {quote_value(value)}"]
    problems = []
    for key in value:
        is_key = isinstance(key, str) and KEY.fullmatch(key)
        if not is_key:
            problems.append(f"{where}: {quote_value(key)} cannot be a key here")
    return problems


def _check_name(value: object, where: str) -> list[str]:
    """Check a name; YAML reads one of digits as a number."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number else value
    if isinstance(text, str) and NAME.fullmatch(text):
        return []
    quoted = quote_value(text)
    return [
        f"{where}: must be letters, digits and _ . + - (it names a folder and a job), got {quoted}"
    ]


def _check_names(value: object, where: str) -> list[str]:
    """Check one name, or a list of them."""
    if value is None or isinstance(value, str):
        return []
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return []
    quoted = quote_value(value)
    return [f"{where}: must be a name or a list of names, got {quoted}"]


def find_secrets(overrides: list[str], setup: list[str]) -> list[str]:
    """Say of each override, and of the first line of `slurm.setup`, that holds a secret that it
    would be written into files."""
    advice = (
        "a study keeps its plan in files, and this is a secret: set it in the environment (for "
        "the hub: HF_TOKEN)"
    )
    problems: dict[str, None] = {}
    for override in overrides:
        if _holds_secret(override):
            key = override.partition("=")[0]
            problems[f"{key}: {advice}"] = None
    for line in setup:
        # What a command or another variable says is not in the file.
        literal = FROM_ELSEWHERE.sub("", line)
        if _holds_secret(literal):
            problems[f"slurm.setup: {advice}, or read it there from a file of yours"] = None
    return list(problems)


def _holds_secret(text: str) -> bool:
    return hide_secrets(text) != text
