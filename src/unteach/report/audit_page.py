"""The page of an audit, and its pictures as files, made from what the audit wrote into its folder.

It reads files alone, so that it can be made again of an audit of long ago.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from unteach.errors import describe_missing_extra, has_extra
from unteach.report import audit_pictures
from unteach.report.audit_facts import MOST_FACTS, collect_facts, to_data
from unteach.report.audit_results import AUDITED, ORIGINAL, RETAIN, AuditResults, read_audit_results
from unteach.report.audit_tables import build_rows, list_figures, list_settings, name_model
from unteach.report.drawing import PANEL_FILE, Format, draw_svg, write_panels
from unteach.report.html import encode_data, read_shipped, render_template, write_html
from unteach.report.pictures import Picture
from unteach.report.table import MISSING

PAGE, ATTACKS_FILE, RELEARNING_FILE = "audit.html", "attacks.png", "relearning.png"
SCRIPTS = ("elements.js", "pictures.js", "tint.js", "audit.js")
STYLES = ("page.css", "audit.css")
PART_MEANINGS = {RETAIN: "never saw the facts", ORIGINAL: "knew the facts"}
CURVES_PAGE = Format((4.2, 3.3), font_size=9.4, marker_size=5, legend_columns=3)
SAMPLES_PAGE = Format((5.5, 4.2), font_size=9.4, marker_size=5, legend_columns=2)
MOST_UNKNOWN = 100
"""Facts that the original did not know, and that a page names."""


@dataclass(frozen=True)
class DrawnPicture:
    """A picture as the page shows it; its heading is "" where it stands alone."""

    heading: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class AuditPictures:
    """What a page draws of an audit.

    Attributes:
        curves: of each attack that trains, one picture a model.
    """

    attacks: Picture
    curves: dict[str, list[Picture]]
    samples: list[Picture]


def write_audit_page(folder: Path) -> Path:
    """Write audit.html into the folder of an audit, attacks.png and relearning.png beside it, and
    give the page's path.

    Without matplotlib (the extra `report`) there are no pictures, and the page says so.

    Args:
        folder: holds AUDIT.json and AUDIT_SUMMARY.json; manifest.json and statement.json are shown
            where they lie there.

    Raises:
        UserError: the files are missing or damaged.
    """
    results = read_audit_results(folder)
    pictures = None
    if has_extra("report"):
        pictures = AuditPictures(
            attacks=audit_pictures.build_attack_picture(results),
            curves=audit_pictures.build_relearning_pictures(results),
            samples=audit_pictures.build_leak_at_k_pictures(results),
        )
    _write_files(pictures, folder)
    values = _list_values(results)
    values["pictures"] = pictures and _draw(pictures)
    path = folder / PAGE
    write_html(path, render_template("audit.html", values))
    return path


def _list_values(results: AuditResults) -> dict[str, object]:
    """List what the page's template shows, but for the pictures."""
    facts = collect_facts(results)
    unknown = [fact for fact in results.facts if not fact["known_to_original"]]
    sentence = str(results.summary["sentence"])
    parts = []
    for part, path in results.models.items():
        parts.append((part, name_model(path), PART_MEANINGS.get(part, "")))
    return {
        "title": f"What {name_model(results.models[AUDITED])} still knows",
        "sentence": f"{sentence[:1].upper()}{sentence[1:]}.",
        "leaks": results.summary["leaks"],
        "over_forgotten": results.summary["over_forgotten"],
        "figures": list_figures(results),
        "parts": parts,
        "rows": build_rows(results, audit_pictures.choose_rows(results.attacks)),
        "has_unseen": bool(results.summary.get("num_never_seen")),
        "trainings": build_rows(results, [one for one in results.attacks if one.steps is not None]),
        "absent": results.summary["absent"],
        "unknown": unknown[:MOST_UNKNOWN],
        "num_unknown": len(unknown),
        "num_facts": len(facts),
        "most_facts": MOST_FACTS,
        "settings": list_settings(results),
        "subjects": results.subjects,
        "configured": results.summary["configured"],
        "no_pictures": describe_missing_extra("report", "drawing the pictures of an audit"),
        "redaction_key_id": results.summary.get("redaction_key_id"),
        "missing": MISSING,
        "style": read_shipped(STYLES),
        "script": read_shipped(SCRIPTS),
        "data": encode_data(to_data(facts, results.is_redacted)),
    }


def _draw(pictures: AuditPictures) -> dict[str, object]:
    """Draw the pictures of the page, by the names of their sections."""
    size = audit_pictures.size_attack_picture(pictures.attacks)
    curves = {}
    for attack, for_parts in pictures.curves.items():
        drawn = []
        for picture in for_parts:
            svg = draw_svg(picture, CURVES_PAGE, f"curves/{picture.title}")
            drawn.append(DrawnPicture(picture.choices[-1], Markup(svg)))
        curves[attack] = drawn
    samples = []
    for picture in pictures.samples:
        svg = draw_svg(picture, SAMPLES_PAGE, f"samples/{picture.title}")
        heading = picture.title if len(pictures.samples) > 1 else ""
        samples.append(DrawnPicture(heading, Markup(svg), picture.note))
    attacks_svg = draw_svg(pictures.attacks, size, "attacks")
    return {
        "attacks": DrawnPicture("", Markup(attacks_svg), pictures.attacks.note),
        "curves": curves,
        "samples": samples,
    }


def _write_files(pictures: AuditPictures | None, folder: Path) -> None:
    """Write the pictures that stand beside the page; an earlier audit's go where there is none."""
    for name in (ATTACKS_FILE, RELEARNING_FILE):
        (folder / name).unlink(missing_ok=True)
    if pictures is None:
        return
    size = audit_pictures.size_attack_picture(pictures.attacks)
    titled = replace(pictures.attacks, choices=("what each attack brings out",))
    write_panels([titled], folder / ATTACKS_FILE, size)
    panels = []
    for attack, for_parts in pictures.curves.items():
        for picture in for_parts:
            panels.append(replace(picture, choices=(f"{attack}: {picture.choices[-1]} model",)))
    if panels:
        across = max(map(len, pictures.curves.values()))
        write_panels(panels, folder / RELEARNING_FILE, PANEL_FILE, across)
