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
        if study.get(key) is not None:
            problems += _check_entry(study[key], key)
    for key in MAPPINGS:
        if study.get(key) is not None:
            problems += _check_mapping(study[key], key, "a mapping")
    problems += _check_forget(study.get("forget"))
    for key in ("eval", "evaluate"):
        problems += _check_names(study.get(key), key)
    return problems


def _check_forget(value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, dict):
        return _check_entry(value, "forget")
    if not isinstance(value, list):
        return [
            "forget: must be a list of mappings, one for each way to forget, got "
            f"{quote_value(value)}"
        ]
    problems = []
    for index, entry in enumerate(value):
        problems += _check_entry(entry, f"forget[{index}]")
    return problems


def _check_entry(value: object, where: str) -> list[str]:
    problems = _check_mapping(value, where, "a mapping of overrides")
    if problems or not isinstance(value, dict):
        return problems
    for key in ("vary", "search"):
        if value.get(key) is not None:
            problems += _check_mapping(value[key], f"{where}.{key}", "a mapping")
    if value.get("name") is not None:
        problems += _check_name(value["name"], f"{where}.name")
    for key in ("from", "experiment", "trainer"):
        if value.get(key) is not None and not isinstance(value[key], str):
            problems.append(f"{where}.{key}: must be text, got {quote_value(value[key])}")
    return problems


def _check_mapping(value: object, where: str, expected: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: must be {expected}, got {quote_value(value)}"]
    problems = []
    for key in value:
        if not isinstance(key, str) or not KEY.fullmatch(key):
            problems.append(f"{where}: {quote_value(key)} cannot be a key here")
    return problems


def _check_name(value: object, where: str) -> list[str]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and NAME.fullmatch(value):
        return []
    return [
        f"{where}: must be letters, digits and _ . + - (it names a folder and a job), got "
        f"{quote_value(value)}"
    ]


def _check_names(value: object, where: str) -> list[str]:
    if value is None or isinstance(value, str):
        return []
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return []
    return [f"{where}: must be a name or a list of names, got {quote_value(value)}"]


def find_secrets(overrides: list[str], setup: list[str]) -> list[str]:
    """Say of each override, and of the first line of `slurm.setup`, that holds a secret that it
    would be written into files."""
    advice = (
        "a study keeps its plan in files, and this is a secret: set it in the environment (for "
        "the hub: HF_TOKEN)"
    )
    keys = [word.partition("=")[0] for word in overrides if _holds_secret(word)]
    problems = [f"{key}: {advice}" for key in dict.fromkeys(keys)]
    if any(_holds_secret(FROM_ELSEWHERE.sub("", line)) for line in setup):
        problems.append(f"slurm.setup: {advice}, or read it there from a file of yours")
    return problems


def _holds_secret(text: str) -> bool:
    return hide_secrets(text) != text
