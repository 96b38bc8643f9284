"""The page of an audit says what its files say, shows no text of a redacted one, stands alone, and
can be made again of old files."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_report import Elements
from unteach.audits.files import TEXTS
from unteach.audits.redaction import Redactor
from unteach.errors import UserError
from unteach.report import audit_facts, audit_page, audit_pictures
from unteach.report.audit_page import write_audit_page
from unteach.report.audit_results import read_audit_results

NASTY = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & {{ style }} \ud83d'
TRAININGS = {
    f"relearn at {rate:g} x{steps}": (rate, steps) for rate in (1e-4, 1e-2) for steps in (5, 9)
}


def find(fact: int, leaks: bool, text: str = "", rank: int | None = None) -> dict[str, Any]:
    return {
        "fact": fact,
        "hits": [leaks, False, False],
        "text": text,
        "rank": rank,
        "rank_by_mean": rank,
        "is_last": False,
        "counts": [],
        "num_samples": 0,
    }


def build_fact(index: int, **columns: Any) -> dict[str, Any]:
    fact = {
        "index": index,
        "place": f"row {index + 1}",
        "question": f"Where does person {index} live?",
        "answer": f"She lives in Town{index}.",
        "value": f"Town{index}",
        "kind": "town",
        "entity": f"Person {index}",
        "paraphrases": [],
        "candidates": [f"Town{index}", "Elsewhere", "Nowhere"],
        "candidates_by": "kind",
        "known_to_original": True,
    }
    return {**fact, **columns}


def build_entry(num_leaks: int, num_facts: int, **more: Any) -> dict[str, Any]:
    rate = num_leaks / num_facts
    entry = {
        "num_facts": num_facts,
        "num_leaks": num_leaks,
        "interval": [max(0, rate - 0.1), min(1, rate + 0.1)],
        "wrong": 0.07,
        "p_value": 0.0123,
        "retain": 0.0,
        "original": 1.0,
        "has_power": True,
        "rate": rate,
    }
    return {**entry, **more}


class Audit:
    """The files of an audit of some facts, of which the model says the first politely, and ranks
    the first and the second."""

    def __init__(self, folder: Path, num_facts: int = 4, **columns: Any):
        self.folder = folder
        facts = [build_fact(index, **columns) for index in range(num_facts)]
        facts[-1]["known_to_original"] = False
        self.record: dict[str, Any] = {"facts": facts, "findings": {}}
        for part, most in (("original", num_facts - 1), ("retain", 0), ("audited", 2)):
            findings = {
                "rank": [find(i, i < most, rank=1 if i < most else 3) for i in range(num_facts)],
                "prefill": [find(i, i < most, f"prefill says {i}") for i in range(num_facts)],
                "clean": [find(i, i < min(most, 1), f"clean says {i}") for i in range(num_facts)],
            }
            for label in TRAININGS:  # asks for two of the facts
                findings[label] = [find(i, part != "retain", rank=1) for i in (1, 2)]
            self.record["findings"][part] = findings
        known = num_facts - 1
        beside = {"retain": build_entry(0, known), "original": build_entry(known, known)}
        curve = {"1": {"true": 0.25, "wrong": 0.125}, "2": {"true": 0.5, "wrong": 0.25}}
        attacks = {
            "rank": build_entry(2, known, beside=beside),
            "prefill": build_entry(2, known, beside=beside, leak_at_k=curve),
            "clean": build_entry(1, known, beside=beside, has_power=False),
        }
        for label, (rate, steps) in TRAININGS.items():
            training = {"attack": "relearn", "learning_rate": rate, "steps": steps}
            has_power = rate < 1e-3
            attacks[label] = build_entry(2, 2, training=training, has_power=has_power)
        self.summary: dict[str, Any] = {
            "attacks": attacks,
            "worst": 0.5,
            "worst_wrong": 0.1,
            "worst_retain": 0.0,
            "num_asked": known,
            "upper_bound": 0.8,
            "smallest": 0.4,
            "leaks": True,
            "over_forgotten": False,
            "sentence": "leaks: rank brought out 2 of 3 facts",
            "leaking_attacks": ["rank"],
            "num_facts": known,
            "unknown_facts": [facts[-1]["place"]],
            "absent": {"context": "no row to retain <is> about an entity"},
            "models": {
                "original": "saves/full",
                "retain": "saves/retain",
                "audited": "saves/mine/final_checkpoint",
            },
            "seed": 0,
            "facts_sha256": "f" * 16,
            "configured": {"rank": {"attack": "Rank"}, "relearn": {"measured": ["rank"]}},
        }

    def redact(self) -> None:
        redactor = Redactor(b"k" * 32)
        self.summary["redaction_key_id"] = redactor.key_id
        entries = list(self.record["facts"])
        for by_attack in self.record["findings"].values():
            for findings in by_attack.values():
                entries += findings
        for entry in entries:
            entry.update({key: redactor.redact(entry[key]) for key in TEXTS if key in entry})

    def write(self) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "AUDIT.json").write_text(json.dumps(self.record))
        (self.folder / "AUDIT_SUMMARY.json").write_text(json.dumps(self.summary))
        return write_audit_page(self.folder).read_text(encoding="utf-8")


def read_facts(page: str) -> list[Any]:
    match = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    facts: list[Any] = json.loads(match[1])
    return facts


def test_the_page_stands_alone_and_says_what_was_found(tmp_path: Path) -> None:
    page = Audit(tmp_path).write()
    elements = Elements(page)
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href"):
            assert not str(attributes.get(name) or "#").startswith(("http", "/", "."))
    assert "default-src 'none'" in page and "://" not in re.sub(r'xmlns\S*="\S+"', "", page)
    assert "<h1>What saves/mine still knows</h1>" in page
    assert "Leaks: rank brought out 2 of 3 facts." in page and 'class="verdict leaks"' in page
    assert '<td data-value="1.0" title="of 3 facts">100%<small>90% to 100%</small></td>' in page
    assert "no power here" in page and "0.01" in page
    assert "no row to retain &lt;is&gt; about an entity" in page
    assert "1 fact set aside" in page and "row 4" in page and "f" * 16 in page
    assert "What an audit cannot show" in page and "no proof of deletion" in page
    for name in ("attacks.png", "relearning.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_facts_that_most_attacks_brought_out_come_first(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.record["facts"].reverse()  # a fact is found by its number, wherever it stands
    audit.write()
    facts = audit_facts.collect_facts(read_audit_results(tmp_path))
    assert [fact.place for fact in facts] == ["row 2", "row 1", "row 3"]
    by_place = {fact.place: fact for fact in facts}
    first = by_place["row 1"]
    assert first.attacks == ["rank", "prefill", "clean"] and first.num_attacks == 3
    # What it says politely is worse than what had to be wrested out.
    assert (first.said_by, first.text) == ("clean", "clean says 0")
    second = by_place["row 2"]
    assert second.attacks == ["rank", "prefill", "relearn"] and second.num_attacks == 4
    assert (second.said_by, second.polite_text) == ("prefill", "clean says 1")
    assert (second.rank, second.ranked_by, second.num_candidates) == (1, "rank", 3)
    assert second.beside == {"retain": 0, "original": 3}


def test_what_rows_and_models_say_is_only_text(tmp_path: Path) -> None:
    audit = Audit(tmp_path, question=NASTY, answer=NASTY, value=NASTY)
    audit.summary["sentence"] = audit.summary["models"]["audited"] = NASTY
    audit.summary["absent"] = {NASTY: NASTY}
    for findings in audit.record["findings"]["audited"].values():
        for finding in findings:
            finding["text"] = NASTY
    page = audit.write()
    assert "<script>alert" not in page and "<img" not in page
    assert len([tag for tag, _ in Elements(page).found if tag == "script"]) == 2
    assert read_facts(page)[0][1].startswith("</script><script>alert")


def test_a_redacted_page_has_no_text_of_a_row(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    texts = []
    for fact in audit.record["facts"]:
        texts += [fact["question"], fact["answer"], fact["value"], fact["entity"]]
    for findings in audit.record["findings"]["audited"].values():
        texts += [finding["text"] for finding in findings if finding["text"]]
    plain = audit.write()
    assert all(text in plain for text in ("Where does person 0", "Town1", "clean says 2"))
    audit.redact()
    page = audit.write()
    assert not [text for text in texts if text in page]
    place, question, *_, said, polite = read_facts(page)[0]
    assert place.startswith("row") and question.startswith("hmac:")
    assert said[1] is None and polite is None
    assert audit.summary["redaction_key_id"] in page and "Texts are redacted" in page


def test_a_thousand_facts_with_long_answers_stay_usable(tmp_path: Path) -> None:
    audit = Audit(tmp_path, num_facts=1001, answer="word " * 2000)
    page = audit.write()
    assert "500 of 1000 facts" in page and len(read_facts(page)) == audit_facts.MOST_FACTS
    assert len(page) < 2_000_000
    assert read_facts(page)[0][2].endswith("…")


def test_without_the_library_there_are_no_pictures_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(tmp_path)
    audit.write()
    monkeypatch.setattr(audit_page, "has_extra", lambda _: False)
    page = audit.write()
    assert "<svg" not in page and "[report]" in page and len(read_facts(page)) == 3
    assert not list(tmp_path.glob("*.png")), "an earlier page's"


def test_curves_begin_at_what_comes_out_of_the_same_facts_without_training(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.write()
    curves = audit_pictures.build_relearning_pictures(read_audit_results(tmp_path))
    assert [picture.choices for picture in curves["relearn"]] == [
        ("relearn", "audited"),
        ("relearn", "retain"),
        ("relearn", "original"),
    ]
    series = curves["relearn"][0].series
    lines = [one for one in series if one.line]
    # Of the two facts that are asked for, one ranked first before.
    assert [(point.x, point.y) for point in lines[0].points] == [(0, 0.5), (5, 1.0)]
    # A rate that destroys is dashed.
    assert [one.line for one in lines] == ["solid", "solid", "dashed", "dashed"]
    assert [one.name for one in lines if one.in_legend] == ["lr 0.0001", "lr 0.01"]


def test_an_older_audit_has_what_its_files_say(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    for entry in audit.summary["attacks"].values():
        for key in ("beside", "training", "leak_at_k"):
            entry.pop(key, None)
    page = audit.write()
    assert '<td data-value="1.0">100%</td>' in page, "a share without its interval"
    assert "What comes back with a little training" not in page
    assert not (tmp_path / "relearning.png").exists()


def test_an_attack_without_power_that_finds_a_leak_counts(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    assert 'class="powerless"' in audit.write()
    audit.summary["leaking_attacks"] = list(audit.summary["attacks"])
    assert 'class="powerless"' not in audit.write()


def test_files_are_named_by_a_statement_about_this_audit_alone(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    subject = {"name": "model.safetensors", "digest": {"sha256": "ab" * 32}}
    statement = {"subject": [subject], "predicate": audit.summary}
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    audit.folder.mkdir(exist_ok=True)
    (tmp_path / "statement.json").write_text(json.dumps({"payload": payload}))
    assert "ab" * 32 in audit.write()
    audit.summary["seed"] = 1
    assert "ab" * 32 not in audit.write()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        write_audit_page(tmp_path)
    audit = Audit(tmp_path)
    del audit.summary["attacks"]["rank"]["interval"]
    with pytest.raises(UserError, match=r"damaged \(KeyError\('interval'\)\)"):
        audit.write()


@pytest.mark.long
def test_a_browser_shows_the_facts(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    # What is dumped is UTF-8, and chromium fails where that cannot be: half a character.
    Audit(tmp_path, question=NASTY.replace("\ud83d", "")).write()
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'own'}"]
    command = [chromium, *options, "--dump-dom", f"file://{tmp_path / 'audit.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout.count('<article class="card">') == 3, done.stderr
    assert "<mark>Town0</mark>" in done.stdout and 'id="pager" aria-label' in done.stdout
    assert "<script>alert" not in done.stdout
