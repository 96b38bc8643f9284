"""Writes a page of one HTML file that loads nothing: scripts, styles and data are inside it."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from unteach.atomic import write_text


def render_template(name: str, values: dict[str, object]) -> str:
    """Render a shipped template.

    Whatever a model, a metric or a folder is called is text, and never markup: only values of
    `Markup` are taken as they are.

    Args:
        name: its file.
        values: what it shows, by the names that it uses.
    """
    environment = Environment(
        loader=PackageLoader("unteach.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(values)


def read_shipped(names: Sequence[str]) -> Markup:
    """Read style sheets or scripts that are shipped, one after the other."""
    folder = resources.files("unteach.report")
    return Markup("\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names))


def encode_data(data: object) -> Markup:
    """Encode what a page's script draws, as JSON that cannot end the element it stands in."""
    text = json.dumps(
        data,
        separators=(",", ":"),
        allow_nan=False,
    )
    for sign, escaped in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e")):
        text = text.replace(sign, escaped)
    return Markup(text)


def write_html(path: Path, page: str) -> None:
    """Write a page, whole or not at all."""
    # Half a character, as a model cut off inside one may leave it, is not UTF-8.
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
