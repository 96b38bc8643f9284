"""The report reads what evaluation writes, says nothing that was not measured, and gives pages that
stand alone."""

import io
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from unteach.errors import UserError
from unteach.report import answers, drawing, sections, table, tradeoff
from unteach.report.collect import RunResult, collect
from unteach.report.colours import PALETTE, REFERENCE_TINTS, TINTS, assign_tints, get_colour
from unteach.report.files import write_trade_offs
from unteach.report.page import write_page
from unteach.report.pictures import Axis, Picture, Point, Series
from unteach.wording import format_value

NASTY = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & {{ style }} \ud83d'


def rouge(
    *generations: str, prompt: str = "Question: Who is number {}?\nAnswer:\n"
) -> dict[str, Any]:
    rows = {
        str(index): {
            "input": prompt.format(index),
            "ground_truth": f"truth {index}",
            "generation": generation,
            "rougeL_recall": 0.5,
            "rouge1_recall": 0.5,
            "rougeL_f1": 0.25,
        }
        for index, generation in enumerate(generations)
    }
    return {"agg_value": 0.5, "value_by_index": rows, "n": len(rows), "ci": [0.4, 0.6]}


def results(
    prob: float, utility: float | None, quality: float | None, *generations: str
) -> dict[str, Any]:
    return {
        "forget_Q_A_Prob": {
            "agg_value": prob,
            "value_by_index": {"0": {"prob": [prob, prob], "avg_loss": [1.0, 2.0]}},
            "n": 24,
            "ci": [prob / 2, prob],
        },
        "forget_Q_A_ROUGE": rouge(*generations),
        "retain_Q_A_ROUGE": rouge("kept"),
        "retain_Q_A_Prob": {"agg_value": 0.9},
        "forget_quality": {"agg_value": quality},
        "model_utility": {"agg_value": utility},
        "mia_loss": {"forget": {}, "holdout": {}, "auc": 0.5, "agg_value": 0.5},
    }


def save(
    folder: Path, found: dict[str, Any], suite: str = "TOFU", absent: dict[str, str] | None = None
) -> Path:
    folder.mkdir(parents=True)
    (folder / f"{suite}_EVAL.json").write_text(json.dumps(found))
    summary = {
        metric: entry["agg_value"]
        for metric, entry in found.items()
        if entry["agg_value"] is not None
    }
    (folder / f"{suite}_SUMMARY.json").write_text(json.dumps(summary))
    if absent is not None:
        (folder / f"{suite}_ABSENT.json").write_text(json.dumps(absent))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[RunResult]:
    save(tmp_path / "full" / "evals", results(0.97, 0.65, 2e-5, "truth 0", "truth 1"))
    absent = {"forget_quality": "no retain log <was> given"}
    save(tmp_path / "retain" / "evals", results(0.1, 0.64, None, "no idea", "none"), absent=absent)
    save(tmp_path / "NPO", results(0.2, 0.6, 0.3, NASTY, ""))
    kinds = {"full": "full", "retain": "retain", "NPO": "forget"}
    return collect([(name, kind, tmp_path / name) for name, kind in kinds.items()])


class Elements(HTMLParser):
    """Every element of a page with its attributes; texts of scripts and styles apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.texts:
            self.texts[self.cdata_elem].append(data)


# collect


def test_training_runs_and_evaluation_runs_are_read(runs: list[RunResult]) -> None:
    full, retain, npo = runs
    assert full.summary["forget_Q_A_Prob"] == 0.97
    assert full.interval("forget_Q_A_Prob") == (0.485, 0.97)
    assert full.size("forget_Q_A_Prob") == 24
    assert retain.value("forget_quality") is None
    assert retain.absent == {"forget_quality": "no retain log <was> given"}
    assert npo.results["forget_Q_A_ROUGE"]["value_by_index"]["1"]["generation"] == ""
    assert npo.absent == {}


def test_foreign_logs_need_no_summary_no_counts_and_no_intervals(tmp_path: Path) -> None:
    prob = {"agg_value": 0.5, "value_by_index": {"0": {"prob": 0.5}}}
    text = json.dumps({"forget_Q_A_Prob": prob, "privleak": {"agg_value": float("nan")}})
    (tmp_path / "TOFU_EVAL.json").write_text(text)
    (run,) = collect([("theirs", "", tmp_path)])
    assert run.summary == {"forget_Q_A_Prob": 0.5}
    assert run.interval("forget_Q_A_Prob") is None
    assert run.size("forget_Q_A_Prob") == 1
    assert run.value("privleak") is None


def test_an_interval_that_says_nothing_is_not_shown(tmp_path: Path) -> None:
    """Older logs have intervals of p-values, and some that do not hold the value."""
    given = {
        "forget_quality": {"agg_value": 0.3, "ci": [0.02, 0.9]},
        "privacy": {"agg_value": 1.0, "ci": [0.8, 0.99]},
        "model_utility": {"agg_value": 0.5, "ci": [0.4, 0.5]},
    }
    (tmp_path / "TOFU_EVAL.json").write_text(json.dumps(given))
    (run,) = collect([("old", "", tmp_path)])
    assert {metric: run.interval(metric) for metric in given} == {
        "forget_quality": None,
        "privacy": None,
        "model_utility": (0.4, 0.5),
    }
    assert table.make_cell(run, table.Column("forget_quality", "q")).interval == ""


def test_a_long_forget_set_is_named_by_its_first_rows(tmp_path: Path) -> None:
    for name, chosen, said in (
        ("few", {"by": "book", "named": ["Ash", "Dew"], "seed": 3}, "book Ash, Dew"),
        ("many", {"by": "question", "named": list(range(160))}, "question 0, 1, 2 and 157 more"),
        ("share", {"by": "author", "fraction": 0.1, "author_block": 20}, "author 0.1"),
    ):
        save(tmp_path / name, {})
        config = yaml.safe_dump({"mode": "unlearn", "forget_set": chosen})
        (tmp_path / name / "config.yaml").write_text(config)
        (run,) = collect([(name, "forget", tmp_path / name)])
        assert run.forgets == said


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'NPO'.*no folder .*nowhere"):
        collect([("NPO", "forget", tmp_path / "nowhere")])


def test_missing_results_name_the_files_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        collect([("NPO", "forget", tmp_path)])
    message = str(caught.value)
    assert str(tmp_path / "evals" / "TOFU_EVAL.json") in message
    assert str(tmp_path / "TOFU_EVAL.json") in message
    assert f"unteach eval model={tmp_path} eval=tofu" in message


def test_results_of_another_suite_are_offered(tmp_path: Path) -> None:
    save(tmp_path / "evals", {"privleak": {"agg_value": 1.0}}, suite="MUSE")
    with pytest.raises(UserError, match="results of MUSE"):
        collect([("NPO", "forget", tmp_path)])


@pytest.mark.parametrize("name", ["TOFU_EVAL.json", "TOFU_SUMMARY.json", "TOFU_ABSENT.json"])
@pytest.mark.parametrize("content", ['{"cut": ', "[1, 2]", b"\xff\xfe\x00"])
def test_an_unreadable_file_is_one_clear_error(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    save(tmp_path / "run", results(0.5, 0.5, 0.5, "a"), absent={})
    (tmp_path / "run" / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "run" / name))):
        collect([("NPO", "forget", tmp_path / "run")])


# table


def test_a_column_is_there_if_any_run_has_it_and_a_missing_value_is_a_dash(
    runs: list[RunResult],
) -> None:
    made = table.make_table(runs)
    labels = [column.label for column in made.columns]
    assert labels == ["forget prob", "forget ROUGE", "forget quality", "utility", "retain prob"]
    quality = [row.cells[labels.index("forget quality")] for row in made.rows]
    assert [cell.text for cell in quality] == ["2.0e-05", table.MISSING, "0.300"]
    assert quality[1].value is None
    assert made.rows[0].cells[0].interval == "0.485 to 0.970"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (1.0, "1.000"),
        (0.001, "0.001"),
        (0.00099, "9.9e-04"),
        (1e-29, "1.0e-29"),
    ],
)
def test_only_zero_is_shown_as_zero(value: float, text: str) -> None:
    assert format_value(value) == text


def test_few_decimals_do_not_make_a_value_zero() -> None:
    assert [format_value(value, 1) for value in (0.0, 0.04, 0.06, -0.04, -97.3)] == [
        "0.0",
        "4.0e-02",
        "0.1",
        "-4.0e-02",
        "-97.3",
    ]


def test_an_unknown_suite_shows_every_metric() -> None:
    run = RunResult("mine", "", Path("mine"), {"b": 1.0, "a": 2.0}, {})
    assert [column.label for column in table.make_table([run]).columns] == ["a", "b"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_never_cuts_a_number(runs: list[RunResult], width: int) -> None:
    long = RunResult(
        "[red]a_run_with_quite_a_long_name", "forget", Path("x"), runs[0].summary, runs[0].results
    )
    out = io.StringIO()
    table.print_table([*runs, long], Console(file=out, width=width))
    shown = out.getvalue()
    assert shown.count("2.0e-05") == 2
    assert "…" not in shown
    assert "[red]a_run" in shown


def test_markdown_has_one_line_a_run_and_plain_names(runs: list[RunResult]) -> None:
    odd = RunResult("a|b\n*c*", "", Path("x"), {"model_utility": 0.5}, {})
    lines = table.format_markdown([*runs, odd]).splitlines()
    assert len(lines) == 2 + 4
    assert (
        lines[0] == "| run | forget prob | forget ROUGE | forget quality | utility | retain prob |"
    )
    assert lines[3] == "| retain | 0.100 | 0.500 | – | 0.640 | 0.900 |"
    assert lines[5].startswith(r"| a\|b \*c\* | – |")


# the picture


def test_the_default_picture_has_the_gold_line_of_the_retain_model(runs: list[RunResult]) -> None:
    default = tradeoff.list_views(runs)[0]
    assert default.x.metric == "forget_Q_A_Prob"
    assert default.y.metric == "model_utility"
    assert default.gold_x == [0.1]
    assert next((point.name, point.x, point.y) for point in default.points) == ("full", 0.97, 0.65)
    assert default.x_range[0] <= 0
    assert default.x_range[1] > 0.97


def test_a_run_without_a_value_is_left_out_and_named(runs: list[RunResult]) -> None:
    quality = next(view for view in tradeoff.list_views(runs) if view.x.metric == "forget_quality")
    assert quality.left_out == ["retain"]
    assert [point.name for point in quality.points] == ["full", "NPO"]


def test_a_p_value_that_underflows_still_has_a_place() -> None:
    run = RunResult("GA", "forget", Path("x"), {"forget_quality": 0.0, "model_utility": 0.0}, {})
    (point,) = tradeoff.list_views([run])[0].points
    assert (point.x, point.true_x) == (tradeoff.P_FLOOR, 0.0)


def size(png: Path) -> tuple[int, ...]:
    start = png.read_bytes()[:24]
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", start[16:24])


def draw_png(runs: list[RunResult], file: Path) -> Path:
    [picture, *_] = sections.build_sections("TOFU", runs, assign_tints({"TOFU": runs})).trade
    return drawing.write_png(picture, file)


def test_a_png_is_written_whole(runs: list[RunResult], tmp_path: Path) -> None:
    odd = RunResult(
        "$x_1$ & <b>", "eval", Path("x"), {"forget_Q_A_Prob": 0.5, "model_utility": 0.5}, {}
    )
    path = draw_png([*runs, odd], tmp_path / "pictures" / "tradeoff.png")
    assert size(path) == (1200, 700)
    assert [file.name for file in path.parent.iterdir()] == ["tradeoff.png"]


def test_a_page_of_hundreds_of_runs_has_room_for_their_names() -> None:
    """A legend that is higher than its picture makes it higher."""
    for count in (3, 400):
        series = [
            Series(name=f"run {index}", colour="line0", points=[Point(index, index)])
            for index in range(count)
        ]
        picture = Picture(choices=("a",), x=Axis("x"), y=Axis("y"), series=series)
        svg = drawing.draw_svg(picture, drawing.LINES_PAGE, "crowd")
        assert svg.count("run ") >= count
        height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1])
        assert (height > 72 * 4.4 + 1) is (count == 400)


def test_the_png_of_a_crowd_and_of_p_values(tmp_path: Path) -> None:
    crowd = [
        RunResult(
            f"run {n}", "forget", Path("x"), {"forget_quality": 10.0**-n, "model_utility": 0.5}, {}
        )
        for n in range(30)
    ]
    assert size(draw_png(crowd, tmp_path / "crowd.png")) == (1200, 700)


def test_a_png_of_nothing_is_said_and_an_earlier_one_goes(tmp_path: Path) -> None:
    run = RunResult("a", "forget", Path("a"), {"privleak": 1.0}, {})
    (tmp_path / "report.png").write_bytes(b"an earlier report's")
    made = sections.build_sections("TOFU", [run], {"a": 0})
    [note] = write_trade_offs({"TOFU": [run]}, {"TOFU": made}, tmp_path)
    assert "no trade-off" in note and "model_utility" in note
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_only_text_in_a_picture_too(runs: list[RunResult]) -> None:
    """And a picture on the page has the page's colours, which the dark changes."""
    odd = RunResult("$x_1$ <b>\x1b[2J\ud83d", "eval", Path("x"), runs[0].summary, runs[0].results)
    made = sections.build_sections("TOFU", [*runs, odd], assign_tints({"": [*runs, odd]}))
    svg = drawing.draw_svg(made.trade[0], drawing.WIDE_PAGE, "one")
    found = Elements(svg)
    assert not {"b", "style", "script"} & {tag for tag, _ in found.found}
    told = [given["data-told"] for _, given in found.found if "data-told" in given]
    assert len(told) == 4
    assert "full\nforget probability 0.970\nutility 0.650" in told
    assert any(text is not None and text.startswith("$x_1$ <b>\ufffd") for text in told)
    assert "var(--line0)" in svg and "var(--retain)" in svg.replace("--gold", "--retain")
    assert not re.search(r"#[0-9a-f]{6}\b", svg), "no colour but the page's"


def test_every_axis_is_drawn_against_the_default_of_the_other() -> None:
    names = dict.fromkeys(("model_utility", "retain_Q_A_Prob", "retain_knowmem_ROUGE"), 0.5)
    names |= dict.fromkeys(("forget_Q_A_Prob", "forget_Q_A_ROUGE", "forget_mean_tr"), 0.5)
    names |= dict.fromkeys(("forget_truth_ratio", "extraction_strength", "privleak"), 0.5)
    views = tradeoff.list_views([RunResult("a", "forget", Path("a"), names, {})])
    chosen = sections.choose_views(views)
    assert len(views) == 18 and len(chosen) == sections.MOST_VIEWS
    assert chosen[0] is views[0]
    pairs = {(view.x.metric, view.y.metric) for view in chosen}
    assert {x for x, y in pairs if y == "model_utility"} == {view.x.metric for view in views}
    assert {y for x, y in pairs if x == "forget_Q_A_Prob"} == {view.y.metric for view in views}


# answers


def test_answers_stand_beside_each_other(runs: list[RunResult]) -> None:
    forget, retain = answers.collect_question_sets(runs)
    assert (forget.title, retain.title) == ("Forget set", "Retain set")
    first = forget.questions[0]
    assert (first.text, first.truth) == ("Who is number 0?", "truth 0")
    assert [answer and answer.text for answer in first.answers] == ["truth 0", "no idea", NASTY]


def test_questions_meet_by_their_truth_whatever_the_template_and_the_order() -> None:
    one, other = (
        rouge("a", "b"),
        rouge("c", "d", prompt="system\n\nBe brief.user\n\nWho is number {}?assistant\n\n"),
    )
    rows = other["value_by_index"]
    other["value_by_index"] = {
        "7": rows["1"],
        "8": rows["0"],
        "9": {**rows["0"], "ground_truth": "elsewhere"},
    }
    pair = [
        RunResult(name, "", Path(name), {}, {"forget_Q_A_ROUGE": found})
        for name, found in [("x", one), ("y", other)]
    ]
    (only,) = answers.collect_question_sets(pair)
    texts = {
        question.truth: [answer and answer.text for answer in question.answers]
        for question in only.questions
    }
    assert texts == {"truth 0": ["a", "c"], "truth 1": ["b", "d"], "elsewhere": [None, "c"]}


def test_the_question_is_the_one_of_the_data_where_the_log_has_it(tmp_path: Path) -> None:
    """Not what a template makes of it, nor what the recognition of templates would: a question may
    look like one."""
    asked = "Question: Who wrote [INST]?\nAnswer:"
    found = rouge(
        "a", prompt="<|im_start|>user\nWho is number {}?<|im_end|>\n<|im_start|>assistant\n"
    )
    old = RunResult("old", "", tmp_path, {}, {"forget_Q_A_ROUGE": found})
    assert answers.collect_question_sets([old])[0].questions[0].text == "Who is number 0?"
    found["value_by_index"]["0"]["question"] = asked
    assert answers.collect_question_sets([old])[0].questions[0].text == asked


def test_a_page_shows_some_of_a_large_set_and_says_of_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those on which the models differ most, and others from the whole set, each with its
    number."""
    monkeypatch.setattr(answers, "MOST_QUESTIONS", 6)
    questions = [
        answers.Question(
            f"q{n}",
            "t",
            [answers.Answer("a", 0.5), answers.Answer("b", 1.0 if n in (7, 31, 50) else 0.5)],
        )
        for n in range(60)
    ]
    (data,) = answers.to_data([answers.QuestionSet("m", "Set", "ROUGE", questions)])
    numbers = [number for *_, number in data["questions"]]
    assert data["count"] == 60 and len(numbers) == 6 and numbers == sorted(numbers)
    assert {7, 31, 50} <= set(numbers)
    assert {number // 20 for number in set(numbers) - {7, 31, 50}} == {0, 1, 2}, "evenly"
    assert all(data["questions"][place][0] == f"q{number}" for place, number in enumerate(numbers))
    (small,) = answers.to_data([answers.QuestionSet("m", "Set", "ROUGE", questions[:6])])
    assert len(small["questions"]) == small["count"] == 6


# the page


def test_the_page_stands_alone(runs: list[RunResult], tmp_path: Path) -> None:
    path = write_page({"TOFU": runs}, tmp_path / "out" / "report.html", "A study")
    elements = Elements(path.read_text(encoding="utf-8"))
    loads = [
        (tag, name)
        for tag, given in elements.found
        for name in given
        if name in ("src", "href", "srcset", "data")
    ]
    assert loads == []
    assert not any(
        tag in ("link", "iframe", "object", "embed", "img", "base") for tag, _ in elements.found
    )
    assert not re.search(r"url\(|@import", "".join(elements.texts["style"]))
    policy = next(
        given["content"]
        for _, given in elements.found
        if given.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert [tag for tag, _ in elements.found].count("svg") > 3
    assert path.stat().st_size < 1_000_000
    assert "prefers-color-scheme: dark" in "".join(elements.texts["style"])
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_whatever_a_model_says_is_only_text(runs: list[RunResult], tmp_path: Path) -> None:
    named = RunResult(
        "<b>bold</b>",
        "eval",
        Path("a<i>"),
        runs[2].summary,
        runs[2].results,
        {"x<u>": "<s>why</s>"},
    )
    path = write_page(
        {"TOFU": [*runs, named]}, tmp_path / "report.html", "<script>alert(0)</script> {{ data }}"
    )
    page = path.read_text(encoding="utf-8")
    elements = Elements(page)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 2
    assert not {"b", "i", "u", "s", "img"} & set(tags)
    assert "<script>alert" not in page
    assert "<title>&lt;script&gt;alert(0)&lt;/script&gt; {{ data }}</title>" in page
    text = re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)  # type: ignore[union-attr]
    assert not set("<>&") & set(text)
    data = json.loads(text)
    assert data[0]["sets"][0]["questions"][0][2][2] == [NASTY, 0.5]
    assert data[0]["runs"][3] == {"name": "<b>bold</b>", "kind": "eval", "tint": 1}


def test_the_page_shows_intervals_dashes_and_reasons(runs: list[RunResult], tmp_path: Path) -> None:
    page = write_page({"TOFU": runs}, tmp_path / "report.html", "A study").read_text(
        encoding="utf-8"
    )
    assert "<small>0.485 to 0.970</small>" in page
    assert 'title="over 24 examples"' in page
    assert f'<td class="missing">{table.MISSING}</td>' in page
    assert "no retain log &lt;was&gt; given (retain)" in page
    assert "3 models beside each other" in page


def test_a_page_of_runs_without_answers_and_without_a_trade_off(tmp_path: Path) -> None:
    run = RunResult("mine", "", Path("mine"), {"accuracy": 0.5}, {})
    page = write_page({"MINE": [run]}, tmp_path / "report.html", "One").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))  # type: ignore[union-attr]
    (only,) = data
    assert only["runs"] == [{"name": "mine", "kind": "", "tint": 0}]
    assert not only["heat"] and not only["sets"]
    assert "<svg" not in page
    assert "no gold standard" in page


def test_a_run_has_one_colour_in_all_suites_and_references_have_their_kinds(tmp_path: Path) -> None:
    def run(name: str, kind: str) -> RunResult:
        return RunResult(
            name, kind, tmp_path / name, {"model_utility": 0.5, "forget_Q_A_Prob": 0.2}, {}
        )

    many = [run(f"r{number}", "forget") for number in range(9)]
    suites = {
        "A": [run("full", "full"), *many[1:]],
        "B": many,
        "B over seeds": [run("mean", "forget")],
    }
    tints = assign_tints(suites)
    assert tints == {**{f"r{number}": (number - 1) % 9 for number in range(9)}, "mean": 0}
    colours = [PALETTE[get_colour(one, tints)] for one in (many[1], many[2])]
    assert colours == list(TINTS[:2])
    assert PALETTE[get_colour(run("full", "full"), tints)] == REFERENCE_TINTS["full"]
    page = write_page(suites, tmp_path / "report.html", "Many").read_text(encoding="utf-8")
    assert page.count('<span class="dot forget line1"></span><span class="name">r2</span>') == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))  # type: ignore[union-attr]
    told = {(one["name"], run["name"]): run["tint"] for one in data for run in one["runs"]}
    assert (told["A", "r2"], told["B", "r2"], told["A", "full"]) == (1, 1, None)
    style = "".join(Elements(page).texts["style"])
    for number, tint in enumerate(TINTS):
        # pictures in files and on the page are of the same colours
        assert f"--line{number}: {tint};" in style


def test_what_is_wide_says_so_and_what_is_hovered_can_be_tapped(
    runs: list[RunResult], tmp_path: Path
) -> None:
    page = write_page({"TOFU": runs}, tmp_path / "report.html", "A study").read_text(
        encoding="utf-8"
    )
    assert "<details open><summary>What the columns mean</summary>" in page
    assert "The table goes on to the right: scroll or swipe it sideways." in page
    assert "Hover over a token, or tap it, for its probability." in page


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs"):
        write_page({}, tmp_path / "report.html", "None")
    assert not (tmp_path / "report.html").exists()
