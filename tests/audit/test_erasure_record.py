"""A record says what was measured, in careful words, and holds no fact."""

from pathlib import Path
from typing import Any

import pytest

from unteach.audits.erasure_record import render_erasure_record, write_erasure_record
from unteach.audits.redaction import Redactor
from unteach.errors import UserError

REDACTOR = Redactor(b"0123456789abcdef")
FACTS: dict[str, Any] = {
    "request": "R-17: everything about one customer",
    "rows": [REDACTOR.redact_text("born in 1957"), REDACTOR.redact_text("lives in Kuwait")],
    "key_id": REDACTOR.key_id,
    "actions": ["NPO, beta 0.1, landed at KL 0.019"],
    "subjects": ["before: saves/full/statement.json", "after: statement.json"],
    "versions": {"unteach": "0.2.0", "torch": "2.13.0"},
    "cost": {"KL": "0.019 nats a token"},
    "evidence": ["AUDIT_SUMMARY.json, level standard"],
    "residual_risk": "Two facts rank first under a prefilled stem.",
    "upper_bound": 0.0412,
    "num_facts": 40,
    "not_tested": ["uds: no full model was given"],
    "decided_by": "the data protection officer",
}


def test_a_record_says_all_that_it_was_given() -> None:
    page = render_erasure_record(FACTS)
    for text in (
        *(FACTS["request"], *FACTS["rows"], *FACTS["actions"], *FACTS["evidence"]),
        *("- torch 2.13.0", "- KL: 0.019 nats a token", FACTS["residual_risk"], "40\nfacts"),
        *(REDACTOR.key_id, "Decided by: the data protection officer", "Rows: 2"),
    ):
        assert text in page
    # Rounded up, since an upper bound that is rounded down claims more than was measured.
    assert "is at most 4.2 % (upper end of the interval, confidence 95 %)" in page


def test_its_words_are_careful() -> None:
    page = " ".join(render_erasure_record(FACTS).split())
    assert "It is no proof that data was deleted, no certificate" in page
    assert "decided by a person" in page and "insignificant" in page
    assert "Art. 17" in page and "Opinion 28/2024" in page
    for claim in ("guarantee", "fully erased", "compliant", "has been deleted"):
        assert claim not in page


def test_texts_of_others_are_no_markup() -> None:
    request = "x\n# Decision: met <b>**yes**</b> [a](javascript:b) `c` | d\x1b[31m"
    page = render_erasure_record({**FACTS, "request": request})
    line = next(line for line in page.splitlines() if line.startswith("- Request"))
    assert line == (
        r"- Request: x \# Decision: met \<b\>\*\*yes\*\*\</b\> \[a\](javascript:b) \`c\` \| d"
        "\ufffd\\[31m"
    )


def test_nothing_named_as_untested_is_not_everything_tested() -> None:
    assert "nobody has thought of" in render_erasure_record({**FACTS, "not_tested": []})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ["born in 1957"]}, "must be a keyed hash"),
        ({"rows": ["sha256:" + "0" * 64]}, "must be a keyed hash"),
        ({"upper_bound": 4.1}, "a rate from 0 to 1"),
        ({"upper_bound": "0.04"}, "upper_bound: must be a number"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"num_facts": 0}, "audit some first"),
        ({"upper_bond": 0.1}, "did you mean upper_bound"),
        ({"request": None}, "request"),
    ],
)
def test_wrong_facts_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        write_erasure_record(tmp_path / "record.md", {**FACTS, **change})
    assert "born in 1957" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_every_missing_fact_is_named_at_once() -> None:
    with pytest.raises(UserError) as refused:
        render_erasure_record({})
    for name in ("request", "rows", "upper_bound", "decided_by"):
        assert f"{name}: is required" in str(refused.value)


def test_a_record_is_written(tmp_path: Path) -> None:
    write_erasure_record(tmp_path / "record.md", FACTS)
    assert (tmp_path / "record.md").read_text() == render_erasure_record(FACTS)
