"""forget.html: the record of a request to forget, as a page that needs no network."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.json_files import read_mapping
from unteach.report.audit_page import PAGE as AUDIT_PAGE
from unteach.report.audit_page import STYLES
from unteach.report.audit_tables import Figure, name_model
from unteach.report.html import read_shipped, render_template, write_html
from unteach.report.table import MISSING

PAGE = "forget.html"


@dataclass(frozen=True)
class MethodRow:
    """What one method came to; `page` leads to its audit."""

    method: str
    is_chosen: bool
    cells: list[str]
    page: str


def write_forget_page(record: Path) -> Path:
    """Write the page of a request beside its record, from that alone, and give its path."""
    written = read_mapping(record, "the record of a request")
    done, left = written["done"], written["left"]
    sentence = str(written["sentence"])
    values: dict[str, object] = {
        "title": f"{name_model(done['model_before'])}: what was forgotten",
        "sentence": f"{sentence[:1].upper()}{sentence[1:]}.",
        "is_good": done["meets_budget_and_audit"],
        "figures": _list_figures(written),
        "rows": [_build_row(one, done["method"], record.parent) for one in written["candidates"]],
        "failed": ", ".join(written["failed"]),
        "not_tried": ", ".join(written.get("not_tried", [])),
        "budget": None if done["budget"] is None else f"{done['budget']:g}",
        "budgets": [_build_budget_row(one) for one in written["leak_by_budget"]],
        "enough": _describe_enough(written["smallest_budget_without_leak"]),
        "earlier": _describe_earlier(written["earlier_request"]),
        "attacks": [(name, f"{rate:.0%}") for name, rate in left["attacks"].items()],
        "forgotten_past_chance": left["forgotten_past_chance"],
        "not_tested": list(left["not_tested"].items()),
        "copies": written["copies_may_remain"],
        "settings": _list_settings(written),
        "style": read_shipped(STYLES),
    }
    page = record.parent / PAGE
    write_html(page, render_template(PAGE, values))
    return page


def _list_figures(written: dict[str, Any]) -> list[Figure]:
    left, done = written["left"], written["done"]
    moved = "nats a token, from the model before on its own text"
    if done["budget"] is not None:
        moved = f"nats a token, of a budget of {done['budget']:g}"
    return [
        Figure(str(written["request"]["num_known"]), "rows that the model knew"),
        Figure(
            f"{left['worst_case']:.0%}", f"of {left['num_facts']} facts come out by some attack now"
        ),
        Figure(f"≤ {left['upper_bound']:.0%}", "could come out of any rows like these (95 %)"),
        Figure(f"{done['kl']:.3g}", moved),
    ]


def _build_row(candidate: dict[str, Any], chosen: str, folder: Path) -> MethodRow:
    kept, leak = candidate["kept"], candidate["leak"]
    page = Path(candidate["folder"]) / run_dir.AUDIT / AUDIT_PAGE
    return MethodRow(
        method=candidate["method"],
        is_chosen=candidate["method"] == chosen,
        cells=[
            f"{leak['clean']:.0%}",
            f"{leak['worst']:.0%}",
            f"{leak['control']:.0%}",
            f"{candidate['kl']:.3g}" if candidate["a"] else "could not land",
            MISSING if kept is None else f"{kept:.0%}",
            f"{candidate['seconds']:.0f} s",
        ],
        page=os.path.relpath(page, folder),
    )


def _build_budget_row(at_budget: dict[str, Any]) -> list[str]:
    leak = at_budget["leak"]
    found = "found" if leak["is_found"] else "none found" if leak["is_tested"] else "untested"
    return [
        f"{at_budget['budget']:g}",
        f"{at_budget['kl']:.3g}",
        f"{leak['clean']:.0%}",
        f"{leak['worst']:.0%}",
        f"≤ {leak['upper_bound']:.0%}",
        f"{leak['control']:.0%}",
        found,
    ]


def _describe_enough(budget: float | None) -> str:
    if budget is None:
        return "At none of these budgets is the model without a leak that the audit finds."
    return f"The smallest of these budgets at which the audit finds no leak is {budget:g}."


def _describe_earlier(earlier: dict[str, Any] | None) -> str:
    """Say what is left of the facts of an earlier request; "" where there was none."""
    if earlier is None:
        return ""
    share = earlier["worst_case"]
    left = "an unknown share" if share is None else f"{share:.0%}"
    return (
        f"The model came of the request {earlier['folder']}. Of its {earlier['num_facts']} facts, "
        f"which were to stay forgotten, {left} come out by some attack."
    )


def _list_settings(written: dict[str, Any]) -> list[tuple[str, str]]:
    request, done = written["request"], written["done"]
    unknown = ", ".join(request["not_known_before"]) or "none"
    settings = [
        ("model before", done["model_before"]),
        ("model", done["model"]),
        ("method", done["method"]),
        ("held by", done["held_by"]),
        ("taught anew without the rows", _describe_exact(written["exact"])),
        ("rows it did not know, left alone", unknown),
        ("key of the rows' hashes", request["redaction_key_id"]),
    ]
    return settings + [
        (f"version of {name}", version) for name, version in written["versions"].items()
    ]


def _describe_exact(way: dict[str, Any]) -> str:
    """Say whether the model could be taught anew, and what of the request its run was taught."""
    if not way["possible"]:
        return str(way["reason"])
    asked = way["num_rows_found"] + len(way["missing"])
    return f"possible: {way['run']} was taught {way['num_rows_found']} of the {asked} rows"
