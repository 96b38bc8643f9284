"""The pictures of an audit: attacks beside each other, recovery under short trainings, leak@k."""

from dataclasses import replace

from unteach.report.audit_results import AUDITED, ORIGINAL, RETAIN, AttackSummary, AuditResults
from unteach.report.drawing import Format
from unteach.report.pictures import Axis, LineStyle, Marker, Picture, Point, Series
from unteach.wording import format_value

COLOURS = {AUDITED: "line1", RETAIN: "retain", ORIGINAL: "full"}
OTHER_COLOURS = ("line2", "line0", "line4", "line5")
"""Of models of other parts, in turn."""
RATE_COLOURS = ("line0", "line4", "line3", "line6", "line2", "line5")
"""Of learning rates, in turn: none is a model's."""
LINES: dict[bool, LineStyle] = {True: "solid", False: "dashed"}
MARKERS: dict[bool, Marker] = {True: "circle", False: "ring"}
"""Of what counts, and of what does not: a result without power, a wrong value."""
BAND = 0.52
"""How much of its row the dots of an attack take."""
SHARE = (-0.02, 1.02)
COMES_OUT = "share of the facts that come out"
NO_POWER = "Rings and dashes: no power here, finding nothing shows nothing."


def choose_rows(attacks: list[AttackSummary]) -> list[AttackSummary]:
    """Choose the attacks that are shown beside each other, those that bring out most first; of the
    trainings of one the worst that has power."""

    def weigh(attack: AttackSummary) -> tuple[bool, float]:
        return attack.counts, attack.rates[AUDITED].rate

    best = {attack.attack: attack for attack in sorted(attacks, key=weigh)}
    return sorted(best.values(), key=lambda attack: -attack.rates[AUDITED].rate)


def get_colour(part: str, parts: list[str]) -> str:
    """Get the colour of a model, by its name in the palette."""
    if part in COLOURS:
        return COLOURS[part]
    others = [other for other in parts if other not in COLOURS]
    return OTHER_COLOURS[others.index(part) % len(OTHER_COLOURS)]


def build_attack_picture(results: AuditResults) -> Picture:
    """Build the picture of what each attack brought out of each model: a row for each attack, a dot
    with its interval for each model."""
    rows = choose_rows(results.attacks)
    parts = list(results.models)
    intervals: list[Series] = []
    dots: list[Series] = []
    for part_index, part in enumerate(parts):
        colour = get_colour(part, parts)
        offset = BAND * ((part_index + 0.5) / len(parts) - 0.5)
        by_counting: dict[bool, list[Point]] = {True: [], False: []}
        for row_index, attack in enumerate(rows):
            rates = attack.rates.get(part)
            if rates is None:
                continue
            y = row_index + offset
            hover = f"{attack.label}: {part}\n{describe_rates(attack, part)}"
            by_counting[attack.counts].append(Point(rates.rate, y, hover=hover))
            if rates.interval is not None:
                ends = [Point(end, y) for end in rates.interval]
                interval = Series(
                    part, colour, ends, LINES[attack.counts], width=1.2, in_legend=False
                )
                intervals.append(interval)
        is_named = False
        for counts, points in by_counting.items():
            if points:
                marker = MARKERS[counts]
                dots.append(Series(part, colour, points, marker=marker, in_legend=not is_named))
                is_named = True
    names = tuple(attack.label for attack in rows)
    return Picture(
        choices=("attacks",),
        x=Axis(COMES_OUT, limits=SHARE),
        # The first row is the highest.
        y=Axis("", limits=(len(rows) - 0.5, -0.5), categories=names),
        series=[*intervals, *dots],
        note=f"Dots with 95 % intervals. {NO_POWER}",
    )


def describe_rates(attack: AttackSummary, part: str) -> str:
    """Say what an attack brought out of a model, with its interval."""
    rates = attack.rates[part]
    said = f"{rates.rate:.0%}"
    if rates.num_facts is not None:
        said += f" ({rates.num_leaks} of {rates.num_facts})"
    if rates.interval is not None:
        low, high = rates.interval
        said += f", 95 %: {low:.0%} to {high:.0%}"
    if attack.has_power is False:
        said += "\nno power here"
    return said


def size_attack_picture(picture: Picture) -> Format:
    """Size the picture of the attacks by its rows, for the page."""
    return Format(
        (11.4, 1.4 + 0.42 * len(picture.y.categories)),
        font_size=9.4,
        marker_size=6.5,
    )


def build_relearning_pictures(results: AuditResults) -> dict[str, list[Picture]]:
    """Build the recovery curves of each attack that trains, by its name: a picture for each model,
    in it a line for each learning rate, from what came out without training."""
    by_attack: dict[str, list[AttackSummary]] = {}
    for attack in results.attacks:
        if attack.steps is not None:
            by_attack.setdefault(attack.attack, []).append(attack)
    pictures = {}
    for name, trainings in by_attack.items():
        measured = results.summary["configured"][name]["measured"]
        for_parts = []
        for part in results.models:
            series = _build_curves(results, part, trainings, measured)
            if series:
                picture = Picture(
                    choices=(name, part),
                    x=Axis("steps"),
                    y=Axis(_name_share(measured), limits=SHARE),
                    series=series,
                )
                for_parts.append(picture)
        pictures[name] = for_parts
    return pictures


def _name_share(measured: list[str]) -> str:
    if measured == ["rank"]:
        return "share of the facts that rank first"
    return f"{COMES_OUT}, asked by {', '.join(measured)}"


def _build_curves(
    results: AuditResults, part: str, trainings: list[AttackSummary], measured: list[str]
) -> list[Series]:
    """Build the curves of one model, a line with its points for each learning rate."""
    by_rate: dict[float, list[AttackSummary]] = {}
    for training in trainings:
        if training.learning_rate is not None and results.list_leaks(part, training.label):
            by_rate.setdefault(training.learning_rate, []).append(training)
    series = []
    for rate_index, (rate, of_rate) in enumerate(by_rate.items()):
        colour = RATE_COLOURS[rate_index % len(RATE_COLOURS)]
        before = _measure_untrained(results, part, of_rate[0], measured)
        points = [Point(0, before, hover=f"without training\n{before:.0%}")]
        is_counted = [True]
        for training in sorted(of_rate, key=lambda training: training.steps or 0):
            leaks = results.list_leaks(part, training.label)
            share = sum(leaks.values()) / len(leaks)
            hover = f"learning rate {rate:g}, {training.steps} steps\n{share:.0%} of {len(leaks)}"
            if training.has_power is False:
                hover += "\nno power here: it destroys"
            points.append(Point(training.steps or 0, share, hover=hover))
            is_counted.append(training.counts)
        series += _draw_curve(f"lr {rate:g}", colour, points, is_counted)
    return series


def _measure_untrained(
    results: AuditResults, part: str, training: AttackSummary, measured: list[str]
) -> float:
    """Measure what came out without training, of the facts that are asked for after it."""
    asked = results.list_leaks(part, training.label)
    leaking: set[int] = set()
    for name in measured:
        leaks = results.list_leaks(part, name)
        leaking.update(index for index in asked if leaks.get(index))
    return len(leaking) / len(asked)


def _draw_curve(
    name: str, colour: str, points: list[Point], is_counted: list[bool]
) -> list[Series]:
    """Draw one curve: dashed, with rings, where it leads to what does not count.

    Args:
        is_counted: of each point.
    """
    series = []
    for end in range(1, len(points)):
        segment = [replace(point, hover="") for point in points[end - 1 : end + 1]]
        line = LINES[is_counted[end]]
        series.append(Series(name, colour, segment, line, in_legend=end == 1))
    for counts, marker in MARKERS.items():
        marked = [point for point, own in zip(points, is_counted, strict=True) if own == counts]
        if marked:
            series.append(Series(name, colour, marked, marker=marker, in_legend=False))
    return series


def build_leak_at_k_pictures(results: AuditResults) -> list[Picture]:
    """Build the curve of each attack that draws samples: how likely one of k of them gives a fact
    away, of the true values and of wrong ones, for each model."""
    pictures = []
    for attack in results.attacks:
        sizes = sorted({k for rates in attack.rates.values() for k in rates.leak_at_k})
        if sizes:
            picture = Picture(
                choices=(attack.label,),
                x=Axis("k, answers drawn", categories=tuple(map(str, sizes))),
                y=Axis("leak@k", limits=SHARE),
                series=_build_sample_curves(attack, list(results.models), sizes),
            )
            pictures.append(picture)
    return pictures


def _build_sample_curves(attack: AttackSummary, parts: list[str], sizes: list[int]) -> list[Series]:
    """Build the curves of leak@k: two for each model.

    Args:
        sizes: every k, in the order in which they stand beside each other.
    """
    series = []
    for part in parts:
        curve = attack.rates[part].leak_at_k if part in attack.rates else {}
        for is_true in (True, False):
            name = f"{part}, {'true' if is_true else 'wrong'} values"
            points = []
            for k, (true, wrong) in curve.items():
                share = true if is_true else wrong
                hover = f"{name}\nleak@{k} = {format_value(share)}"
                points.append(Point(sizes.index(k), share, hover=hover))
            if points:
                colour = get_colour(part, parts)
                series.append(Series(name, colour, points, LINES[is_true], MARKERS[is_true]))
    return series
