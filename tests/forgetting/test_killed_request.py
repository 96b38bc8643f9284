"""A request to forget, killed at any moment, ends as if nothing had happened."""

import json
from pathlib import Path

import pytest

from tests.conftest import read_rows
from tests.recovery import kills

WORDS = (
    "forget gone.jsonl model=MODEL retain=kept.jsonl holdout=unseen.jsonl template=qa "
    "paths.cache_dir=cache task_name=r method=NPO budget=3 trainer.args.max_steps=12 "
    "trainer.args.learning_rate=3e-3 audit.only=[rank,clean]"
)


class RequestKitchen(kills.Kitchen):
    """A folder with the rows of a request, which the model knows."""

    kit: Path

    def lay_out(self) -> None:
        super().lay_out()
        for name, source in (("gone", "forget10"), ("kept", "retain90"), ("unseen", "holdout10")):
            rows = read_rows(self.kit / "data" / f"{source}.jsonl")[:9]
            lines = [json.dumps({key: row[key] for key in ("question", "answer")}) for row in rows]
            (self.place / f"{name}.jsonl").write_text("\n".join(lines))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_anywhere_it_ends_the_same(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    monkeypatch.setitem(kills.COMMANDS, "forget", WORDS)
    kills.warm_up()
    kitchen = RequestKitchen(tmp_path / "kitchen", kit / "reference")
    kitchen.kit = kit
    ledger = tmp_path / "ledger.jsonl"
    made = kills.try_verb(kitchen, "forget", ledger, moments=8, most=8, every=40)
    assert len(made) >= 6
    assert not [line for line in made if not kills.is_good(line)]
