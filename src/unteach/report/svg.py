"""Makes the SVG that the drawing library writes a part of a page: smaller, and in its colours."""

import re
from xml.etree import ElementTree

from unteach.report.colours import PALETTE

HOVER_PREFIX = "hover-"
SVG = "{http://www.w3.org/2000/svg}"
Element = ElementTree.Element
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
    # The ids say what a text belongs to, so this comes before any of them is removed.
    for element in root.iter():
        key = element.get("id", "")
        if key in hovers:
            _attach_hovers(element, hovers[key])
    _remove_styles(root)
    referenced = _list_references(root)
    for element in root.iter():
        _shrink(element, referenced)
    # The page says how wide a picture is.
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def _attach_hovers(element: Element, texts: list[str]) -> None:
    """Write the texts where the page's script looks for them.

    They are one for each point; or one for the line and one for each point; or one for all.
    """
    points = element.findall(f".//{SVG}use")
    if len(texts) == len(points):
        point_texts = texts
    elif len(texts) == len(points) + 1:
        line_text, *point_texts = texts
        for line in element.findall(f"{SVG}path"):
            _attach_hover(line, line_text)
    else:
        _attach_hover(element, texts[0])
        return
    for point, text in zip(points, point_texts, strict=True):
        _attach_hover(point, text)


def _attach_hover(element: Element, text: str) -> None:
    if text:
        element.set("data-told", text)


def _remove_styles(root: Element) -> None:
    """Remove the library's style sheet, which would hold for the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}style", f"{SVG}metadata"):
                parent.remove(child)


def _list_references(root: Element) -> set[str]:
    """List the ids that some attribute refers to."""
    ids: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key != "id":
                ids.update(REFERENCE.findall(value))
    return ids


def _shrink(element: Element, referenced: set[str]) -> None:
    """Drop from an element what shows nothing: ids, digits, spaces between elements."""
    if element.get("id", "") not in referenced:
        element.attrib.pop("id", None)
    for key in COORDINATES:
        if key in element.attrib:
            rounded = NUMBER.sub(_round_number, element.attrib[key])
            element.set(key, " ".join(rounded.split()))
    if "style" in element.attrib:
        style = _recolour(element.attrib["style"])
        element.set("style", style)
    element.tail = None
    if element.tag != f"{SVG}text":
        element.text = None


def _round_number(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}"


def _recolour(style: str) -> str:
    """Write colours of the palette as the page's variables, and leave fonts to the page."""
    style = FONT.sub(r"font-size: \1", style)
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, variable)
    return style
