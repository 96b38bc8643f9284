"""Results show themselves in a notebook; what they hold is text there, and no markup."""

import json
from html.parser import HTMLParser
from pathlib import Path

from unteach.results import AttackOutcome, AuditResult, EvalResult, ForgetResult, InferResult

NASTY = '<script>alert(1)</script> & "q"'


class Cells(HTMLParser):
    """Collects the texts, and refuses tags that no result has."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag in {"p", "b", "table", "thead", "tr", "th", "td"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str) -> list[str]:
    cells = Cells()
    cells.feed(html)
    cells.close()
    assert not cells.open
    return cells.texts


def test_values_of_each_suite() -> None:
    values = {"tofu": {"forget_prob": 0.25, "none": None}, NASTY: {"x": 1e-7}}
    texts = read(EvalResult(Path("saves/eval/a"), values)._repr_html_())
    assert texts[:2] == ["EvalResult", " saves/eval/a"]
    assert texts[5:8] == ["tofu", "forget_prob", "0.250"]
    assert {"–", NASTY, "1.0e-07"} <= set(texts)


def test_an_audit_has_its_verdict_and_its_attacks_the_worst_first() -> None:
    weak = AttackOutcome(0.1, (0.0, 0.3), 0.05, None, 0.1, None, None)
    strong = AttackOutcome(0.9, (0.6, 1.0), 0.05, 1.0, 0.1, True, 0.0001)
    result = AuditResult(
        Path("a"), f"leaks {NASTY}", True, 0.9, {"clean": weak, "rank": strong}, {"uds": "no model"}
    )
    texts = read(result._repr_html_())
    assert texts[0] == f"leaks {NASTY}"
    assert texts.index("rank") < texts.index("clean")
    assert {"90%", "60% to 100%", "1.0e-04", "–"} <= set(texts)
    assert texts[-1] == " uds: no model"


def test_a_request_says_what_came_of_it() -> None:
    texts = read(ForgetResult(Path("a"), Path("a/model"), "NPO", 0.0195, NASTY)._repr_html_())
    assert texts == [NASTY, "model", "a/model", "method", "NPO", "KL", "0.0195 nats a token"]


def test_the_first_answers_are_shown_and_long_ones_cut(tmp_path: Path) -> None:
    rows = [{"question": f"{NASTY} {index}", "output": "x" * 1000} for index in range(30)]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    texts = read(InferResult(file)._repr_html_())
    assert texts[:3] == ["the first 10 of 30 rows", "question", "output"]
    assert len(texts) == 3 + 20 and texts[4] == "x" * 200 + "…"
