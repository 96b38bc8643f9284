"""Makes the SVG that the drawing library writes a part of a page: smaller, and in its colours."""

import re
from xml.etree import ElementTree

from unteach.report.colours import PALETTE

HOVER_PREFIX = "hover-"
SVG = "{http://www.w3.org/2000/svg}"
NUMBER = re.compile(r"-?\d+\.\d{3,}")
FONT = re.compile(r"font: ([\d.]+px)[^;]*")
REFERENCE = re.compile(r"#([\w-]+)")
COORDINATES = ("d", "x", "y", "width", "height", "transform", "points")
VARIABLES = {colour: f"var(--{name})" for name, colour in PALETTE.items()}


def rewrite_svg(text: str, hovers: dict[str, list[str]], title: str) -> str:
    """Rewrite a picture for a page.

    Args:
        text: the SVG as the library wrote it.
        hovers: what is told where the pointer is on an element, by its id: on itself, or one text
            for each of its points.
        title: what the picture is called, for who does not see it.
    """
    ElementTree.register_namespace("", SVG.strip("{}"))
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text)
    for element in root.iter():
        key = element.get("id", "")
        if key in hovers:
            _attach_hovers(element, hovers[key])
    _remove_styles(root)
    used = set(REFERENCE.findall(" ".join(_list_attributes(root))))
    for element in root.iter():
        _shrink(element, used)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def _attach_hovers(element: ElementTree.Element, texts: list[str]) -> None:
    """Write the texts where the page's script looks for them: data-told."""
    points = element.findall(f".//{SVG}use")
    if len(texts) == len(points):
        targets = list(zip(points, texts, strict=True))
    elif len(texts) == len(points) + 1:
        lines = element.findall(f"{SVG}path")
        targets = [*((line, texts[0]) for line in lines), *zip(points, texts[1:], strict=True)]
    else:
        targets = [(element, texts[0])]
    for target, told in targets:
        if told:
            target.set("data-told", told)


def _remove_styles(root: ElementTree.Element) -> None:
    """Remove the library's style sheet, which would hold for the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}style", f"{SVG}metadata"):
                parent.remove(child)


def _list_attributes(root: ElementTree.Element) -> list[str]:
    values: list[str] = []
    for element in root.iter():
        values.extend(value for key, value in element.attrib.items() if key != "id")
    return values


def _shrink(element: ElementTree.Element, used: set[str]) -> None:
    if element.get("id", "") not in used:
        element.attrib.pop("id", None)
    for key in COORDINATES:
        if key in element.attrib:
            rounded = NUMBER.sub(lambda match: f"{float(match[0]):.2f}", element.attrib[key])
            element.set(key, " ".join(rounded.split()))
    if "style" in element.attrib:
        element.set("style", _recolour(element.attrib["style"]))
    element.tail = None
    if element.tag != f"{SVG}text":
        element.text = None


def _recolour(style: str) -> str:
    """Write colours of the palette as the page's variables, and leave fonts to the page."""
    style = FONT.sub(r"font-size: \1", style)
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, variable)
    return style
