"""What keys mean, read where it is written: docstrings of dataclasses, comments of YAML files,
the docstrings of transformers and peft."""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import re
from pathlib import Path
from typing import NamedTuple

from unteach.config.component_fields import read_meanings
from unteach.strict_yaml import parse_yaml

SENTENCE_END = re.compile(r"(?<=[.:]) (?=[A-Z-])")
ARGUMENT = re.compile(r"^ {8}(\w+) ?\((.*)\):\n((?: {12}.*\n|\n)*)", re.MULTILINE)
"""An argument in a docstring of Hugging Face: its name, its type, what it means."""
DEFAULT = re.compile(r"defaults to `?\"?([^`\"\s)]+)")


class CommentedKey(NamedTuple):
    """A key of a flat YAML file, with its value and its comment."""

    default: object
    comment: str


class Argument(NamedTuple):
    """An argument that a library documents: the first sentence of what it means, its default."""

    meaning: str
    default: object


def read_commented(file: Path) -> dict[str, CommentedKey]:
    """Read the keys at the top of a YAML file with the comment behind each."""
    keys = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(\w+): (.*?)(?:\s+# (.*))?", line)
        if match:
            value = parse_yaml(match[2], file.name)
            keys[match[1]] = CommentedKey(value, match[3] or "")
    return keys


def read_field_meanings(cls: type) -> dict[str, str]:
    """Read what each field of a dataclass means: from its own docstring or help, and from the
    sentences `name: …` of the class's docstring."""
    meanings = _split_docstring(cls)
    meanings.update(read_meanings(cls))
    return meanings


def _split_docstring(cls: type) -> dict[str, str]:
    """Split the docstring of a dataclass into what it says of single fields: `jobs: runs at a time;
    null: one. gpus: …`; several names before one colon share a sentence."""
    names = (
        [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    )
    text = " ".join(inspect.cleandoc(cls.__doc__ or "").split())
    if not names:
        return {}
    one = "|".join(map(re.escape, names))
    heads = list(re.finditer(rf"(?:(?<=[.;…] )|^)((?:{one})(?:, (?:{one}))*): ", text))
    meanings = {}
    for index, head in enumerate(heads):
        end = heads[index + 1].start() if index + 1 < len(heads) else len(text)
        meaning = text[head.end() : end].strip(" ;")
        for name in head[1].split(", "):
            meanings[name] = meaning
    return meanings


def read_first_paragraph(cls: type) -> str:
    """Read the first paragraph of a class's docstring, on one line."""
    if dataclasses.is_dataclass(cls) and (cls.__doc__ or "").startswith(f"{cls.__name__}("):
        return ""  # a dataclass without a docstring gets its signature for one
    return " ".join((inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]).split())


@functools.cache
def read_library_arguments(module: str, cls: str) -> dict[str, Argument]:
    """Read the arguments that the docstring of a library's class documents, from its source, so
    that the library is not imported; none where there is no such docstring."""
    package, _, inner = module.partition(".")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return {}
    file = Path(found.origin).parent / (inner.replace(".", "/") + ".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            docstring = ast.get_docstring(node, clean=False) or ""
            return _parse_arguments(docstring + "\n")
    return {}


def _parse_arguments(docstring: str) -> dict[str, Argument]:
    """Parse a docstring in Hugging Face's form."""
    arguments = {}
    for name, kind, body in ARGUMENT.findall(docstring):
        flat = " ".join(body.split())
        sentence = SENTENCE_END.split(flat)[0].rstrip(":")
        default = DEFAULT.search(kind)
        value = parse_yaml(default[1], name) if default else None
        arguments[name] = Argument(sentence, None if value == "None" else value)
    return arguments
