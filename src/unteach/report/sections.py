"""All pictures that some runs give, section by section: of the page, and of the files beside it."""

from dataclasses import dataclass, field

from unteach.report import cross_tables, distributions, losses, tradeoff, trajectories
from unteach.report.collect import RunResult
from unteach.report.colours import Tints
from unteach.report.pictures import Picture
from unteach.report.sets import are_comparable, get_suite_name

MOST_VIEWS = 12
"""Pictures of the trade: each takes a page some 20 kB, and a fifth of a second to draw."""


@dataclass(frozen=True)
class Sections:
    """The pictures of one tab of a report.

    Attributes:
        trade: what was forgotten against what was kept.
        by_set: each metric by what is forgotten.
        moved: each metric while training.
        losses: what was logged while training.
    """

    trade: list[Picture] = field(default_factory=list)
    by_set: list[Picture] = field(default_factory=list)
    moved: list[Picture] = field(default_factory=list)
    ratios: list[Picture] = field(default_factory=list)
    attacks: list[Picture] = field(default_factory=list)
    losses: list[Picture] = field(default_factory=list)


def build_sections(tab: str, runs: list[RunResult], tints: Tints) -> Sections:
    """Describe every picture of the runs of one tab."""
    # Rows of different forget sets do not stand beside each other.
    alike = runs if are_comparable(runs) else []
    sections = Sections(losses=losses.build_pictures(runs, tints))
    views = tradeoff.list_views(runs)
    for view in choose_views(views):
        picture = tradeoff.build_picture(view, runs, tints)
        sections.trade.append(picture)
    for table in cross_tables.build_cross_tables(runs):
        picture = cross_tables.build_picture(table)
        sections.by_set.append(picture)
    suite = get_suite_name(tab)
    for trajectory in trajectories.collect_trajectories(runs, suite):
        picture = trajectories.build_picture(trajectory, runs, tints)
        sections.moved.append(picture)
    ratios = distributions.collect_truth_ratios(alike)
    if ratios:
        picture = distributions.build_ratio_picture(ratios, runs, tints)
        sections.ratios.append(picture)
    for attack in distributions.collect_attacks(alike):
        picture = distributions.build_attack_picture(attack, runs, tints)
        sections.attacks.append(picture)
    return sections


def choose_views(views: list[tradeoff.View]) -> list[tradeoff.View]:
    """Choose the views that are drawn, the default first.

    Each axis is drawn against the default of the other before any two others are.
    """
    if not views:
        return []
    default = views[0]
    with_default: list[tradeoff.View] = []
    others: list[tradeoff.View] = []
    for view in views:
        has_default_x = view.x.metric == default.x.metric
        has_default_y = view.y.metric == default.y.metric
        if has_default_x or has_default_y:
            with_default.append(view)
        else:
            others.append(view)
    return [*with_default, *others][:MOST_VIEWS]
